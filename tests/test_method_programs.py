"""Every method through the programs: training, resuming, decoding, one base for all."""

import json

import pytest
import torch

import gpt2_beam
import gpt2_ft
import runs
import toy
from lora_nlg import methods
from lora_nlg.data.batches import collate
from lora_nlg.errors import UserError
from lora_nlg.storage import checkpoints, models
from lora_nlg.training.losses import masked_loss
from test_methods import PUT_ON, TOLERANCE, hidden, trained

pytestmark = pytest.mark.slow  # training and decoding by every method

SIZES = {
    "prefix": "--prefix_length 3",
    "adapter": "--adapter_dim 3",
    "vera": "--vera_dim 4",
    "fourier": "--fourier_n 9",
}


def flags_of(name: str) -> str:
    rank = ["--lora_dim 2 --lora_alpha 8"] if name.startswith(("lora", "dora")) else []
    return " ".join([f"--method {name}", *rank, *(flag for part, flag in SIZES.items() if part in name)])


def train(folder, name: str, more: str) -> tuple:
    """Train in folder/work, and then again from the save in the middle; return the results of both."""
    files = runs.write_training(folder)
    common = "--lr 0.01 --correct_bias --max_step 6 --train_batch_size 4 --precision fp64 --device cpu --log_interval 1"
    flags = f"{files} {flags_of(name)} {common} --save_interval 3 {more}"
    assert gpt2_ft.main(f"{flags} --resume never".split()) == 0
    whole, listed = runs.results(folder / "work"), folder / "work/saves.json"
    listed.write_text(json.dumps({**json.loads(listed.read_text()), "final": None}))  # as if it had not come to its end
    assert gpt2_ft.main(f"{flags} --resume 3".split()) == 0
    return whole, runs.results(folder / "work")


@pytest.mark.parametrize("name", PUT_ON)
def test_the_programs_take_every_method(name, tmp_path):
    """Train, resume bit for bit, decode with the save, merged or apart, and refuse another base."""
    whole, again = train(tmp_path, name, "")
    assert not runs.differences(whole, again)
    record = json.loads((tmp_path / "work/run.json").read_text())
    assert record["trained_parameters"] == sum(tensor.numel() for tensor in whole[1].values())

    saved, base = checkpoints.read(tmp_path / "work/adapter.safetensors"), f"{tmp_path}/base.safetensors"
    assert saved.method == name and saved.base is not None
    model = models.merged_model(toy.CONFIG, base, tmp_path / "work/model.final.pt", precision="fp64")
    apart = toy.model(0)
    models.put_adapters(apart, saved)
    assert (hidden(model) - hidden(apart)).abs().max() < TOLERANCE

    decoding = (
        f"--data {tmp_path}/valid.jsonl --seq_len 40 --eval_len 6 --beam 3 --device cpu --work_dir {tmp_path}/work"
    )
    model_flags = f"--model_card {tmp_path}/config.json --init_checkpoint {base}"
    assert gpt2_beam.main(f"{decoding} {model_flags} --lora_checkpoint {tmp_path}/work/model.final.pt".split()) == 0
    other = toy.model(0)
    with torch.no_grad():
        other.wte.weight.mul_(1.01)
    with pytest.raises(UserError, match="was trained on another base"):
        models.put_adapters(other, saved)


def test_adapters_of_all_methods_on_one_base_in_turn(tmp_path):
    """gpt2_beam.py with several files: each decodes as it does alone, and the base is what it was."""
    decoding = runs.write_decoding(tmp_path, 6).split()
    rest = "--seq_len 40 --eval_len 6 --beam 2 --device cpu --precision fp64".split()
    paths = []
    for name in PUT_ON:
        path = tmp_path / f"{name}.safetensors"
        model = trained(name)
        base = checkpoints.Base("gpt2.toy", models.fingerprint(toy.model(0)))
        checkpoints.save_adapters(methods.adapter_tensors(model), path, model.trained_by, base)
        paths.append(path)
    given = [flag for path in paths for flag in ("--lora_checkpoint", str(path))]
    assert gpt2_beam.main([*decoding, *given, *rest]) == 0
    together = [(tmp_path / f"work/beam_prediction.{n}.jsonl").read_text() for n in range(1, len(paths) + 1)]
    for path, expected in zip(paths, together, strict=True):
        assert gpt2_beam.main([*decoding, "--lora_checkpoint", str(path), *rest]) == 0
        assert (tmp_path / "work/beam_prediction.jsonl").read_text() == expected
    assert len(set(together)) > 3


MODES = {
    "bf16": ("--precision bf16", 0.05),
    "two micro-batches an update": ("--grad_acc 2", 1e-9),
    "a shared prompt": ("--share_prompts --train_batch_size 2", 0.5),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PUT_ON)
def test_every_method_trains_in_every_mode(name, mode, tmp_path):
    """The first loss is that of plain training, to what the mode may change."""
    first = []
    for flags in ("", MODES[mode][0]):
        work = tmp_path / f"work{len(first)}"
        files = runs.write_training(tmp_path).replace(f"{tmp_path}/work", str(work))
        rank = "--lora_dim 2 --lora_alpha 8" if name.startswith(("lora", "dora")) else ""
        common = (
            f"--method {name} {rank} --lr 0.01 --max_step 4 --train_batch_size 4 --device cpu --log_interval 1 {flags}"
        )
        assert gpt2_ft.main(f"{files} {common}".split()) == 0
        log = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
        first.append(next(line["loss"] for line in log if "loss" in line))
    assert abs(first[0] - first[1]) <= MODES[mode][1] * first[0]


@pytest.mark.parametrize("name", PUT_ON)
def test_every_method_compiles(name, monkeypatch):
    """To one graph, without a break; torch's code generator, which takes long, is left out."""
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    batch = collate([[example] for example in toy.examples(4)], 64, "clm").fill_up(8)
    model = trained(name)
    program = torch._dynamo.optimize(keep, nopython=True, dynamic=False)(masked_loss)
    assert program(model, batch).item() == pytest.approx(masked_loss(trained(name), batch).item(), rel=1e-9)
    assert len(graphs) == 1
    torch._dynamo.reset()
