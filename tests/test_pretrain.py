"""Pretraining: the sampled softmax is the full one in the mean, and the program leaves a base that training can load."""

import dataclasses
import hashlib
import json

import pytest
import torch
from torch.nn import functional as F

import pretrain_base
from lora_nlg.bundled.copying import set_copying_heads
from lora_nlg.bundled.pretrain import ROW_ENTRY, Vocabulary, pack, pretrain, sampled_loss
from lora_nlg.config import END_OF_TEXT_ID, GPT2_VOCAB_SIZE, ModelConfig, OptimConfig
from lora_nlg.model.attention import causal_attention
from lora_nlg.model.drawn_rows import drawn_rows
from lora_nlg.model.gpt2 import GPT2, empty_model, init_weights
from lora_nlg.storage import models

TINY = ModelConfig(n_embd=16, n_layer=1, n_head=2, n_positions=8)


class Letters:
    """An encoding whose tokens are characters."""

    def encode_ordinary(self, text):
        return [ord(c) for c in text]

    def token_byte_values(self):
        return [b" word", b" Name", b"piece", b"er", b"!"]


def test_documents_are_packed_with_an_end_after_each():
    assert pack(iter(["ab", "c", "d"]), Letters(), 4).tolist() == [97, 98, END_OF_TEXT_ID, 99, END_OF_TEXT_ID]
    with pytest.raises(ValueError, match="ended early"):
        pack(iter(["ab"]), Letters(), 4)


def test_the_sampled_softmax_is_the_full_one_when_all_are_sampled():
    """Fails if a row is counted twice, is another token's, or if what is sampled keeps the weight of more."""
    vocabulary = Vocabulary.of(torch.tensor([5, 70, END_OF_TEXT_ID]), TINY.n_embd, seed=3)
    small, full = toy_models(vocabulary)
    window = torch.tensor([[5, 70, 900, 70, 70, 5], [40_000, 900, 5, 70, END_OF_TEXT_ID, 1]])
    expected = F.cross_entropy(full.logits(full(window[:, :-1])).flatten(0, 1), window[:, 1:].flatten())
    loss = sampled_loss(small, vocabulary, window, GPT2_VOCAB_SIZE, torch.Generator().manual_seed(1))
    assert torch.allclose(loss, expected, rtol=1e-5)


def test_a_sample_stands_for_the_rest():
    """Means over many samples come near; fails without the sample's weights."""
    vocabulary = Vocabulary.of(torch.tensor([5, 70, END_OF_TEXT_ID]), TINY.n_embd, seed=3)
    small, full = toy_models(vocabulary)
    window = torch.tensor([[5, 70, 900, 70, 70, 5]])
    expected = F.cross_entropy(full.logits(full(window[:, :-1])).flatten(0, 1), window[:, 1:].flatten())
    generator = torch.Generator().manual_seed(1)
    losses = [sampled_loss(small, vocabulary, window, 500, generator).item() for _ in range(20)]
    assert sum(losses) / 20 == pytest.approx(expected.item(), rel=2e-3)


def toy_models(vocabulary: Vocabulary) -> tuple[GPT2, GPT2]:
    """The model as it is pretrained, with learnt rows alone, and the same with the whole embedding."""
    small = empty_model(dataclasses.replace(TINY, vocab_size=len(vocabulary.used)))
    init_weights(small, torch.Generator().manual_seed(1))
    full = empty_model(TINY)
    weights = dict(small.state_dict())
    wte = vocabulary.drawn.clone()
    wte[vocabulary.used] = weights["wte.weight"]
    full.load_state_dict({**weights, "wte.weight": wte})
    return small, full


@pytest.mark.slow
def test_it_learns_and_is_the_same_again(capsys):
    ids = torch.tensor([3, 9, 27, END_OF_TEXT_ID] * 50)
    vocabulary = Vocabulary.of(ids.unique(), TINY.n_embd, seed=1)
    optim = OptimConfig(0.01, 300, correct_bias=True, scheduler="cosine", warmup_step=5, clip=1.0)
    first, second = (pretrain(ids, vocabulary, TINY, optim, rows=4, seed=1) for _ in range(2))
    assert torch.equal(first.wte.weight, second.wte.weight)
    assert sampled_loss(first, vocabulary, ids[None, :9], 500, torch.Generator().manual_seed(1)) < 0.1


def test_the_heads_that_are_set_copy_what_followed_last_time():
    """Random tokens twice over: what is to come is among the two likeliest of all. Fails with random heads, or places one off."""
    config = ModelConfig(n_embd=256, n_layer=4, n_head=4, n_positions=256)
    vocabulary = Vocabulary.of(torch.tensor([END_OF_TEXT_ID]), 256, seed=1)
    generator = torch.Generator().manual_seed(1)
    model = empty_model(dataclasses.replace(config, vocab_size=1))
    init_weights(model, generator)
    set_copying_heads(model, ROW_ENTRY, generator)
    once = torch.randint(50_000, (2, 100), generator=generator)
    ids = torch.cat([once, once], 1)
    with torch.no_grad():
        states = model.states(vocabulary.drawn[ids] + model.wpe.weight[:200], causal_attention)[:, 100:199]
    likeliest = (states @ vocabulary.drawn.T).topk(2).indices
    assert (likeliest == once[:, 1:, None]).any(-1).float().mean() > 0.8


def test_drawn_rows_are_the_same_everywhere_and_far_from_each_other():
    """The first bits of SHAKE-256 of eight bytes that say 1, as hashlib has them."""
    rows = drawn_rows(1000, 64, seed=1, entry=0.5)
    bits = "".join(f"{byte:08b}" for byte in hashlib.shake_256(bytes(7) + b"\1").digest(16))
    assert ["1" if entry > 0 else "0" for entry in rows[:2].flatten().tolist()] == list(bits)
    assert rows.abs().unique().tolist() == [0.5]
    products = rows @ rows.T - 16 * torch.eye(1000)
    assert products.abs().max() < 12
    assert not torch.equal(rows, drawn_rows(1000, 64, seed=2, entry=0.5))


def test_the_program_writes_a_base_for_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lora_nlg.data.bpe.load_encoding", lambda folder: Letters())
    (tmp_path / "tiny.json").write_text(json.dumps(vars(TINY)))
    (tmp_path / "texts.txt").write_text("name : A Place | food : Thai||A Place has Thai food .\n" * 3)
    flags = f"--texts {tmp_path}/texts.txt --model_card {tmp_path}/tiny.json --output_dir {tmp_path}/base --steps 3 --rows 2"
    assert pretrain_base.main([*flags.split(), "--warmup_step", "1"]) == 0
    model = models.base_model(TINY, str(tmp_path / "base"), torch.Generator())
    assert len(model.wte.weight.unique(dim=0)) > GPT2_VOCAB_SIZE / 2
    assert json.loads((tmp_path / "base/config.json").read_text())["n_embd"] == 16
