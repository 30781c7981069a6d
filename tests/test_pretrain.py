"""Pretraining: the shortened softmax is the full one, and the program leaves a base that training can load."""

import dataclasses
import json

import pytest
import torch
from torch.nn import functional as F

import pretrain_base
from lora_nlg.bundled.pretrain import pack, pretrain, tied_loss
from lora_nlg.config import END_OF_TEXT_ID, GPT2_VOCAB_SIZE, ModelConfig, OptimConfig
from lora_nlg.model.gpt2 import empty_model, init_weights
from lora_nlg.storage import models

TINY = ModelConfig(n_embd=16, n_layer=1, n_head=2, n_positions=8)


class Letters:
    """An encoding whose tokens are characters."""

    def encode_ordinary(self, text):
        return [ord(c) for c in text]


def test_documents_are_packed_with_an_end_after_each():
    assert pack(iter(["ab", "c", "d"]), Letters(), 4).tolist() == [97, 98, END_OF_TEXT_ID, 99, END_OF_TEXT_ID]
    with pytest.raises(ValueError, match="ended early"):
        pack(iter(["ab"]), Letters(), 4)


def test_the_short_softmax_is_the_full_one_with_tied_rows():
    """Fails if the shared row is counted once, or V times."""
    used = torch.tensor([5, 70, END_OF_TEXT_ID])
    small = empty_model(dataclasses.replace(TINY, vocab_size=4))
    init_weights(small, torch.Generator().manual_seed(1))
    full = empty_model(TINY)
    weights = dict(small.state_dict())
    wte = weights["wte.weight"][3:].repeat(GPT2_VOCAB_SIZE, 1)
    wte[used] = weights["wte.weight"][:3]
    full.load_state_dict({**weights, "wte.weight": wte})
    window = torch.tensor([[0, 1, 2, 1, 1, 0], [2, 2, 0, 1, 0, 1]])
    logits = full.logits(full(used[window[:, :-1]]))
    expected = F.cross_entropy(logits.flatten(0, 1), used[window[:, 1:]].flatten())
    assert torch.allclose(tied_loss(small, window), expected, rtol=1e-5)


@pytest.mark.slow
def test_it_learns_and_is_the_same_again(capsys):
    ids = torch.tensor([3, 9, 27, END_OF_TEXT_ID] * 50)
    used = ids.unique()
    optim = OptimConfig(0.01, 300, correct_bias=True, scheduler="cosine", warmup_step=5, clip=1.0)
    first, second = (pretrain(ids, used, TINY, optim, rows=4, seed=1) for _ in range(2))
    assert torch.equal(first.wte.weight, second.wte.weight)
    assert tied_loss(first, torch.searchsorted(used, ids)[None, :9]) < 0.1


def test_the_program_writes_a_base_for_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lora_nlg.data.bpe.load_encoding", lambda folder: Letters())
    (tmp_path / "tiny.json").write_text(json.dumps(vars(TINY)))
    (tmp_path / "texts.txt").write_text("name : A Place | food : Thai||A Place has Thai food .\n" * 3)
    flags = f"--texts {tmp_path}/texts.txt --model_card {tmp_path}/tiny.json --output_dir {tmp_path}/base --steps 3 --rows 2"
    assert pretrain_base.main([*flags.split(), "--warmup_step", "1"]) == 0
    model = models.base_model(TINY, str(tmp_path / "base"), torch.Generator())
    rows = model.wte.weight.unique(dim=0)
    assert 5 < len(rows) < 128
    assert json.loads((tmp_path / "base/config.json").read_text())["n_embd"] == 16
