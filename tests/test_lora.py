"""Adapters: the packing, the start, what is trained, and that merging changes nothing."""

import math

import loralib
import pytest
import torch

import toy
from lora_nlg.config import CARDS, LoraConfig
from lora_nlg.gpt2 import GPT2
from lora_nlg.lora import adapter_tensors, add_adapters, merge_adapters

IDS = torch.arange(24).view(3, 8)
FLOAT64 = dict(rtol=1e-12, atol=1e-12)  # the same sums in another order


def test_parameter_count_of_the_paper():
    """0.35M in Table 3: 4 · R · C a layer for q and v at R = 4, C = 1024, 24 layers."""
    with torch.device("meta"):
        model = GPT2(CARDS["gpt2.md"])
        add_adapters(model, LoraConfig(4, 32))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 393_216


def test_starts_as_the_base_model():
    model = toy.model(rank=0)
    before = model(IDS)
    add_adapters(model, LoraConfig(4, 32), torch.Generator().manual_seed(1))
    assert torch.equal(model(IDS), before)


def test_a_is_kaiming_uniform_and_b_is_zero():
    model = toy.model()
    add_adapters(model, LoraConfig(16, 32), torch.Generator().manual_seed(1))
    adapted = model.h[0].attn.c_attn
    bound = 1 / math.sqrt(32)  # Kaiming-uniform with a = √5: 1 / √fan_in
    assert adapted.lora_A.abs().max() <= bound
    assert adapted.lora_A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)  # of a uniform distribution
    assert not adapted.lora_B.any()
    assert not torch.equal(adapted.lora_A, model.h[1].attn.c_attn.lora_A)


def test_delta_weight_against_the_formula():
    """ΔW = alpha / R · B A for q and for v, nothing for k."""
    model = toy.model(rank=4)
    adapted = model.h[0].attn.c_attn
    A, B = adapted.lora_A, adapted.lora_B
    delta = adapted.delta_weight()  # (C, 3C)
    assert torch.allclose(delta[:, :32], 8 * (B[:32] @ A[:4]).T, **FLOAT64)
    assert not delta[:, 32:64].any()
    assert torch.allclose(delta[:, 64:], 8 * (B[32:] @ A[4:]).T, **FLOAT64)


def test_the_same_output_as_loralibs_layer():
    """Fails when the value's adapter lands on the key's third, or the two A's change places."""
    adapted = toy.model(rank=4).h[0].attn.c_attn
    theirs = loralib.MergedLinear(32, 96, r=4, lora_alpha=32, enable_lora=[True, False, True]).double()
    with torch.no_grad():
        theirs.weight.copy_(adapted.weight.T)
        theirs.bias.copy_(adapted.bias)
        theirs.lora_A.copy_(adapted.lora_A)
        theirs.lora_B.copy_(adapted.lora_B)
        x = torch.randn(2, 5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        assert torch.allclose(adapted(x), theirs(x), **FLOAT64)


def test_merging_changes_the_weights_and_not_the_function():
    model = toy.model(rank=4)
    before = model(IDS)
    weight = model.h[0].attn.c_attn.weight.clone()
    merge_adapters(model)
    assert not torch.equal(model.h[0].attn.c_attn.weight, weight)
    assert torch.equal(model.h[0].attn.c_attn.weight[:, 32:64], weight[:, 32:64])  # the key third stays
    assert torch.allclose(model(IDS), before, **FLOAT64)
    assert not adapter_tensors(model)


def test_only_adapters_get_gradients():
    model = toy.model(rank=4)
    model(IDS).square().sum().backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == set(adapter_tensors(model)) == {f"h.{i}.attn.c_attn.lora_{m}" for i in (0, 1) for m in "AB"}


def test_dropout_acts_while_training_only_and_on_the_adapters_only():
    model = toy.model(rank=0)
    base = model(IDS)
    add_adapters(model, LoraConfig(4, 32, dropout=0.5), torch.Generator().manual_seed(1))
    assert torch.equal(model(IDS), base)  # B is zero: dropout of anything but the adapters' input would show
    with torch.no_grad():
        for block in model.h:
            block.attn.c_attn.lora_B.fill_(0.1)
    assert not torch.equal(model(IDS), model(IDS))
    model.eval()
    assert torch.equal(model(IDS), model(IDS))


def test_no_gradient_reaches_below_the_first_adapter():
    """The base is frozen, so what comes before the first adapter needs no backward pass."""
    model = toy.model(rank=4)
    below, above = [], []
    model.h[0].attn.c_attn.register_forward_hook(lambda module, inputs, output: below.append(inputs[0].requires_grad))
    model.h[0].mlp.register_forward_hook(lambda module, inputs, output: above.append(inputs[0].requires_grad))
    model(IDS)
    assert below == [False] and above == [True]
