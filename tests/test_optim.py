"""AdamW in the recipe's order, and the schedules."""

import math

import pytest
import torch

import toy
from lora_nlg.config import OptimConfig
from lora_nlg.errors import UserError
from lora_nlg.training.optim import AdamW, build_optimizer, learning_rate


@pytest.mark.parametrize("correct_bias", [False, True])
def test_two_steps_by_hand(correct_bias):
    """Seen to fail with a decay that does not shrink with the rate, and with ε left out."""
    config = OptimConfig(0.1, 10, weight_decay=0.5, correct_bias=correct_bias, beta1=0.9, beta2=0.98, epsilon=1e-6)
    parameter = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = AdamW([parameter], config)
    p, m, v = 2.0, 0.0, 0.0
    for t, gradient in enumerate((0.3, -0.7), 1):
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.98 * v + 0.02 * gradient**2
        step = 0.1 * (math.sqrt(1 - 0.98**t) / (1 - 0.9**t) if correct_bias else 1)
        p -= step * m / (math.sqrt(v) + 1e-6)
        p -= 0.1 * 0.5 * p
        assert parameter.item() == pytest.approx(p, rel=1e-14)


def test_a_parameter_without_gradient_is_left_alone():
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    parameters[0].grad = torch.ones(2)
    AdamW(parameters, OptimConfig(0.1, 1)).step()
    assert parameters[0].tolist() != [1, 1]
    assert parameters[1].tolist() == [1, 1]


def test_no_decay_bias_spares_biases_and_layer_norms():
    model = toy.model()
    optimizer = build_optimizer(model, OptimConfig(0.1, 1, no_decay_bias=True))
    names = {id(p): name for name, p in model.named_parameters()}
    decayed = {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert {"wte.weight", "wpe.weight", "h.0.attn.c_attn.weight"} <= decayed
    assert not any("bias" in name or "ln_" in name for name in decayed)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


@pytest.mark.parametrize(
    ("scheduler", "rates"),
    [
        ("constant", [0, 0.5, 1, 1, 1, 1, 1]),
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [0, 0.5] + [0.5 + 0.5 * math.cos(math.pi * k / 6) for k in range(2, 7)]),
    ],
)
def test_schedules(scheduler, rates):
    """Seen to fail with a cosine that begins where the warm-up ends, and with a linear rate that does not end at 0."""
    config = OptimConfig(1.0, 6, scheduler=scheduler, warmup_step=2)
    assert [learning_rate(config, step) for step in range(7)] == pytest.approx(rates)


def test_cycle_is_piecewise_linear():
    config = OptimConfig(1.0, 6, scheduler="cycle", i_steps=(0, 2, 6), i_lrs=(0.0, 1.0, 0.2))
    assert [learning_rate(config, step) for step in range(8)] == pytest.approx([0, 0.5, 1, 0.8, 0.6, 0.4, 0.2, 0.2])


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0), (1, 1 / 2.000001), (2, 1), (5, 1 - 0.8 * 3 / 4.000001), (6, 0.2), (7, 0.2)]
)
def test_cycle_has_the_recipes_slopes(step, rate):
    """Between corners, whose distance the recipe lengthens by 1e-6, and exactly at them. Fails by 1e-7 without that."""
    config = OptimConfig(1.0, 6, scheduler="cycle", i_steps=(0, 2, 6), i_lrs=(0.0, 1.0, 0.2))
    assert learning_rate(config, step) == pytest.approx(rate, rel=1e-14)


@pytest.mark.parametrize(("i_steps", "i_lrs"), [((0, 2), (1.0,)), ((1, 2), (1.0, 2.0)), ((0, 2, 2), (1.0, 2.0, 3.0))])
def test_cycle_needs_rising_corners(i_steps, i_lrs):
    with pytest.raises(UserError, match="--i_"):
        OptimConfig(1.0, 6, scheduler="cycle", i_steps=i_steps, i_lrs=i_lrs)
