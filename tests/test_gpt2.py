"""The model: shapes, causality, published sizes, the random start."""

import math

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import toy
from lora_nlg.config import CARDS, ModelConfig
from lora_nlg.methods import add_adapters
from lora_nlg.methods.placement import LoraConfig
from lora_nlg.model.gpt2 import GPT2, INIT_STD, empty_model, init_weights, store_frozen_in


@pytest.mark.parametrize(
    ("card", "millions"), [("gpt2.sm", 124.44), ("gpt2.md", 354.82), ("gpt2.lg", 774.03), ("gpt2.xl", 1557.61)]
)
def test_cards_have_the_published_sizes(card, millions):
    with torch.device("meta"):
        model = GPT2(CARDS[card])
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


def test_hidden_states_and_logits_have_their_shapes():
    model = toy.model()
    hidden = model(torch.arange(12).view(3, 4))
    assert hidden.shape == (3, 4, 32)
    assert model.logits(hidden[:, -1]).shape == (3, 211)


def test_nothing_sees_what_comes_later():
    model = toy.model()
    ids = torch.arange(20).view(1, 20)
    changed = ids.clone()
    changed[0, 10:] = 7
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10:], after[:, 10:])


def test_positions_can_be_given():
    model = toy.model()
    ids = torch.arange(6).view(2, 3)
    assert torch.equal(model(ids), model(ids, torch.arange(3)))
    assert not torch.allclose(model(ids), model(ids, torch.arange(1, 4)))


def test_one_block_by_hand():
    """The toy's first block written out with plain matrix algebra, float64."""
    model = toy.model()
    w = toy.tensors(0)
    ids = torch.tensor([[3, 1, 4]])
    x = w["wte.weight"][ids[0]] + w["wpe.weight"][:3]

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    q, k, v = linear(norm(x, "h.0.ln_1"), "h.0.attn.c_attn").split(32, -1)
    heads = []
    for h in range(4):
        part = slice(8 * h, 8 * h + 8)
        scores = q[:, part] @ k[:, part].T / math.sqrt(8)
        scores = scores.masked_fill(torch.ones(3, 3).triu(1).bool(), -math.inf)
        heads.append(scores.softmax(-1) @ v[:, part])
    x = x + linear(torch.cat(heads, -1), "h.0.attn.c_proj")
    u = linear(norm(x, "h.0.ln_2"), "h.0.mlp.c_fc")
    gelu = 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
    x = x + linear(gelu, "h.0.mlp.c_proj")

    model.h = model.h[:1]
    assert torch.allclose(model(ids)[0], norm(x, "ln_f"), rtol=1e-12, atol=1e-12)


def test_random_start():
    model = empty_model(ModelConfig(n_embd=64, n_layer=8, n_head=4, n_positions=32, vocab_size=500))
    init_weights(model, torch.Generator().manual_seed(1))
    assert model.wte.weight.std().item() == pytest.approx(INIT_STD, rel=0.05)
    assert model.h[3].mlp.c_fc.weight.std().item() == pytest.approx(INIT_STD, rel=0.05)
    assert model.h[3].mlp.c_proj.weight.std().item() == pytest.approx(INIT_STD / 4, rel=0.05)  # √(2 · 8) = 4
    assert model.h[0].ln_1.weight.unique().tolist() == [1.0]
    assert not model.h[0].attn.c_attn.bias.any()
    again = empty_model(model.config)
    init_weights(again, torch.Generator().manual_seed(1))
    assert torch.equal(model.wte.weight, again.wte.weight)


def test_kept_tokens_have_the_same_states():
    model = toy.model()
    ids = torch.arange(12).view(3, 4)
    keep = torch.tensor([11, 2, 2, 5])
    assert torch.allclose(model(ids, keep=keep), model(ids).flatten(0, 1)[keep], rtol=1e-12, atol=1e-14)


def test_the_last_block_works_for_kept_tokens_only():
    model, seen = toy.model(), []
    for block in model.h:
        block.mlp.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    model(torch.arange(12).view(3, 4), keep=torch.tensor([3, 7]))
    assert seen == [(3, 4, 32), (2, 32)]


def test_matrices_stored_in_half_precision_are_what_autocast_makes_of_them():
    model = toy.model().float().requires_grad_(False)
    ids = torch.arange(12).view(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        before = model.logits(model(ids))
        store_frozen_in(model, torch.bfloat16)
        assert model.h[0].mlp.c_fc.weight.dtype == torch.bfloat16
        assert torch.equal(model.logits(model(ids)), before)


@pytest.mark.parametrize("lora", [None, LoraConfig(2, 4, targets=("q", "wte"))])
def test_no_frozen_matrix_is_converted_at_every_step(lora):
    """Under autocast, after `store_frozen_in`: neither a block's nor the head's. Fails without either, whose copies are as large."""
    model = empty_model(toy.CONFIG)
    init_weights(model, torch.Generator().manual_seed(0))
    add_adapters(model, lora) if lora else model.requires_grad_(False)
    store_frozen_in(model, torch.bfloat16)
    smallest = toy.CONFIG.n_embd**2  # numbers of a frozen matrix
    recording = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), recording as trace:
        model.logits(model(torch.tensor([[1, 2]])))
    copied = [math.prod(event.input_shapes[0]) for event in trace.events() if event.name == "aten::_to_copy"]
    assert copied and max(copied) < smallest
