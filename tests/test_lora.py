"""Adapters: the packing, the start, what is trained, that merging changes nothing, and several on one base."""

import math
import time

import loralib
import pytest
import torch

import toy
from lora_nlg.config import CARDS
from lora_nlg.methods import adapter_config, adapter_tensors, add_adapters, merge_adapters
from lora_nlg.methods.placement import LoraConfig
from lora_nlg.methods.switch import Switch
from lora_nlg.model.gpt2 import GPT2, empty_model

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


def test_dropout_leaves_the_mean_as_it_is():
    """Fails when what is kept is not scaled up, or the share is that of what is kept."""
    model = toy.model()
    add_adapters(model, LoraConfig(4, 32, dropout=0.25), torch.Generator().manual_seed(1))
    adapted = model.h[0].attn.c_attn
    torch.manual_seed(1)
    with torch.no_grad():
        adapted.lora_B.fill_(1.0)
        x = torch.randn(1, 32, dtype=torch.float64)
        base, expected = adapted.eval()(x) - adapted.delta_weight().T.matmul(x[0]), adapted(x)
        mean = adapted.train()(x.expand(200_000, 32)).mean(0)
    assert torch.allclose(mean - base, expected - base, rtol=0.02, atol=0.02)


def test_no_gradient_reaches_below_the_first_adapter():
    """The base is frozen, so what comes before the first adapter needs no backward pass."""
    model = toy.model(rank=4)
    below, above = [], []
    model.h[0].attn.c_attn.register_forward_hook(lambda module, inputs, output: below.append(inputs[0].requires_grad))
    model.h[0].mlp.register_forward_hook(lambda module, inputs, output: above.append(inputs[0].requires_grad))
    model(IDS)
    assert below == [False] and above == [True]


# Several adapters on one base


OTHER = LoraConfig(
    {"q": 2, "o": 3, "wte": 1}, 4, dropout=0.5, targets=("q", "o", "wte"), layers=(1,), init="gaussian_b:0.3"
)


def two_adapters() -> list[tuple[LoraConfig, dict[str, torch.Tensor], torch.Tensor]]:
    """Two adapters of different placement, with the logits of the toy with each."""
    made = []
    for config in (LoraConfig(4, 32, init="gaussian_b:0.3"), OTHER):
        model = toy.model(0)
        add_adapters(model, config, torch.Generator().manual_seed(len(made)))
        made.append((config, adapter_tensors(model), logits(model.eval())))
    return made


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.logits(model(IDS))


@pytest.mark.parametrize("merge", [False, True])
def test_adapters_are_switched_on_one_base(merge):
    """There and back, with the base between: each time the model of that adapter. Fails when one is put on top of another."""
    model = toy.model(0).eval()
    base, switch = logits(model), Switch(model)
    first, second = two_adapters()
    for config, tensors, expected in (first, second, second, first):
        switch.put_on(config, tensors, merge)
        assert torch.allclose(logits(model), expected, **FLOAT64)
        assert not torch.allclose(expected, base, atol=1e-2)
        assert bool(adapter_tensors(model)) != merge
    switch.take_off()
    assert torch.equal(logits(model), base)


@pytest.mark.parametrize("merge", [False, True])
def test_switching_back_restores_the_base_bit_for_bit(merge):
    """Fails when ΔW is subtracted, which leaves its rounding behind, or a tensor of the base is written to."""
    model = toy.model(0).float()
    before = {name: (p.data_ptr(), p.detach().clone()) for name, p in model.named_parameters()}
    switch = Switch(model)
    for _ in range(3):
        for config, tensors, _ in two_adapters():
            switch.put_on(config, tensors, merge)
    switch.take_off()
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name].data_ptr() == ptr and torch.equal(after[name], t) for name, (ptr, t) in before.items())


def test_putting_on_draws_nothing_at_random_and_leaves_the_files_tensors_alone():
    model, (config, tensors, _) = toy.model(0), two_adapters()[1]
    switch, before = Switch(model), {name: tensor.clone() for name, tensor in tensors.items()}
    state = torch.get_rng_state()
    switch.put_on(config, tensors)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        for tensor in adapter_tensors(model).values():
            tensor.zero_()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in before.items())


def test_switching_takes_milliseconds():
    """Of GPT-2 Small's shape, not merged: less than one pass over ten tokens takes, for it touches 0.3 M numbers and not 124 M."""
    model = empty_model(CARDS["gpt2.sm"])
    add_adapters(model, LoraConfig(8, targets=("q", "k", "v", "o")), torch.Generator().manual_seed(1))
    config, tensors = adapter_config(model), adapter_tensors(model)
    model = empty_model(CARDS["gpt2.sm"]).eval()
    switch = Switch(model)

    def seconds(call) -> float:
        times = []
        for _ in range(5):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        return min(times)

    ids = torch.zeros(1, 10, dtype=torch.int64)
    with torch.no_grad():
        assert seconds(lambda: switch.put_on(config, tensors)) < seconds(lambda: model.logits(model(ids)))
