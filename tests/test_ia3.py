"""IA3 (Liu et al. 2022), CONTRIBUTING.md's example of a method: keys, values and the MLP's inner states times learnt vectors."""

import json
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

import gpt2_beam
import gpt2_ft
import runs
import toy
from lora_nlg import methods
from lora_nlg.model.gpt2 import Conv1D
from lora_nlg.storage import checkpoints, models


@dataclass(frozen=True)
class Ia3Config:
    method: str = "ia3"


class Scaled(Conv1D):
    """A frozen Conv1D of which a vector, that starts at 1, scales the inputs (MLP) or the last two thirds of the outputs (k, v)."""

    def __init__(self, base: Conv1D, of_inputs: bool):
        super().__init__(*base.weight.shape)
        self.weight, self.bias, self.of_inputs = base.weight, base.bias, of_inputs
        self.ia3 = nn.Parameter(base.weight.new_ones(len(base.weight) if of_inputs else 2 * len(base.bias) // 3))

    def scaled(self):
        outputs = 1.0 if self.of_inputs else F.pad(self.ia3, (len(self.ia3) // 2, 0), value=1.0)
        return self.weight * (self.ia3[:, None] if self.of_inputs else outputs), self.bias * outputs

    def forward(self, x):
        weight, bias = self.scaled()
        return x @ weight + bias


def attach(model, config):
    model.requires_grad_(False)
    for block in model.h:
        block.attn.c_attn, block.mlp.c_proj = Scaled(block.attn.c_attn, False), Scaled(block.mlp.c_proj, True)


def merge(model):
    for block in model.h:
        for owner, name in ((block.attn, "c_attn"), (block.mlp, "c_proj")):
            plain, scaled = Conv1D(*getattr(owner, name).weight.shape), getattr(owner, name).scaled()
            plain.weight, plain.bias = (nn.Parameter(t.detach(), requires_grad=False) for t in scaled)
            setattr(owner, name, plain)


is_own = lambda name: name.endswith(".ia3")  # noqa: E731
tensors = lambda model: {name: p for name, p in model.named_parameters() if is_own(name)}  # noqa: E731
from_flags = from_description = from_file = check_start = lambda *given: Ia3Config()
start, summary = lambda model, generator: None, lambda config: "scales of keys, values and MLPs"
described = lambda config: {"method": "ia3"}  # noqa: E731
ROW = methods.Row(
    module="test_ia3", is_asked=lambda args: args.ia3, add_flags=lambda p: p.add_argument("--ia3", action="store_true"),
    flags=("ia3",), why="it asks for IA3", section="ia3",
)  # fmt: skip


def test_it_trains_saves_merges_and_decodes_by_its_row_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(methods.METHODS, "ia3", ROW)
    files, work, ids = runs.write_training(tmp_path).split(), tmp_path / "work", torch.tensor([[1, 2, 3]])
    training = "--ia3 --lr 0.05 --correct_bias --max_step 8 --train_batch_size 4 --precision fp64 --device cpu"
    assert gpt2_ft.main([*files, *training.split()]) == 0
    saved, model = checkpoints.read(work / "adapter.safetensors"), toy.model(0)
    assert set(saved.tensors) == {f"h.{i}.{name}.ia3" for i in range(2) for name in ("attn.c_attn", "mlp.c_proj")}
    assert json.loads((work / "run.json").read_text())["trained_parameters"] == 2 * (2 * 32 + 4 * 32)
    base = model(ids)
    models.put_adapters(model, saved)
    apart = model(ids)
    methods.merge_adapters(model)
    assert torch.allclose(model(ids), apart, atol=1e-10) and not torch.allclose(apart, base, atol=1e-3)
    decoding = f"--data {tmp_path}/valid.jsonl --lora_checkpoint {work}/model.final.pt --seq_len 64 --eval_len 6"
    assert gpt2_beam.main([*decoding.split(), *files[4:]]) == 0
