"""The recipe's AdamW (not torch's: see `AdamW`) and its learning-rate schedules."""

import itertools
import math
from typing import Any

import torch
from torch import nn

from lora_nlg.config import FactorConfig, OptimConfig
from lora_nlg.methods.lora import Adapters

GRAM_EPS = 1e-6  # added to the diagonal of a Gram matrix, which is zero while B is
CYCLE_EPS = 1e-6  # Kept for parity: the recipe's slopes are those of corners so many steps further apart


class AdamW(torch.optim.Optimizer):
    """Adam with decoupled weight decay, in the recipe's order of operations.

        m ← β1 m + (1 - β1) g        v ← β2 v + (1 - β2) g²        p ← p - step · m / (√v + ε)        p ← p - lr · wd · p

    with step = lr, times √(1 - β2ᵗ) / (1 - β1ᵗ) if `correct_bias`. Kept for parity, and unlike torch.optim.AdamW: ε is added
    before the bias correction, and the decay acts on the already updated p.
    """

    def __init__(self, parameters, config: OptimConfig):
        self.config = config
        super().__init__(parameters, dict(lr=config.lr, weight_decay=config.weight_decay))

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # torch's takes a closure, which nothing here needs
        """Update every parameter that has a gradient; `lr` and `weight_decay` are read from its group."""
        c = self.config
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p].update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                self.state[p]["step"] += 1
            t = self.state[params[0]]["step"]
            grads = [p.grad for p in params]
            m = [self.state[p]["m"] for p in params]
            v = [self.state[p]["v"] for p in params]
            torch._foreach_lerp_(m, grads, 1 - c.beta1)
            torch._foreach_mul_(v, c.beta2)
            torch._foreach_addcmul_(v, grads, grads, 1 - c.beta2)
            size = group["lr"]
            if c.correct_bias:
                size *= math.sqrt(1 - c.beta2**t) / (1 - c.beta1**t)
            denominator = torch._foreach_sqrt(v)
            torch._foreach_add_(denominator, c.epsilon)
            torch._foreach_addcdiv_(params, m, denominator, -size)
            if group["weight_decay"] > 0:
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])


def build_optimizer(model: nn.Module, config: OptimConfig, factors: FactorConfig | None = None) -> AdamW:
    """Return AdamW over the model's trainable parameters; with `no_decay_bias`, biases and layer norms are not decayed.

    A group's `lr_factor`, where it has one, is what the schedule's rate is multiplied by.
    """
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if factors is not None and factors.lora_plus_ratio != 1:
        groups: list[dict[str, Any]] = [
            dict(params=[p for name, p in trainable if not name.endswith(".lora_B")]),
            dict(params=[p for name, p in trainable if name.endswith(".lora_B")], lr_factor=factors.lora_plus_ratio),
        ]
        return AdamW(groups, config)
    if not config.no_decay_bias:
        return AdamW([p for _, p in trainable], config)
    undecayed = {name for name, _ in trainable if name.endswith("bias") or is_norm(name)}
    groups = [
        dict(params=[p for name, p in trainable if name not in undecayed]),
        dict(params=[p for name, p in trainable if name in undecayed], weight_decay=0.0),
    ]
    return AdamW([group for group in groups if group["params"]], config)


def is_norm(name: str) -> bool:
    """Return whether a parameter of this name is a layer norm's, of GPT-2 or of an adapter."""
    return ".ln_" in f".{name}" or ".ln." in name


@torch.no_grad()
def precondition(model: nn.Module) -> None:
    """Multiply the gradient of each A by (Bᵀ B)⁻¹ and that of each B by (A Aᵀ)⁻¹: R x R work (Zhang & Pilanci 2024)."""
    for module in model.modules():
        if isinstance(module, Adapters) and module.lora_A.grad is not None and module.lora_B.grad is not None:
            gradients = module.pairs(module.lora_A.grad, module.lora_B.grad)
            for (A, B), (of_A, of_B) in zip(module.pairs(module.lora_A, module.lora_B), gradients, strict=True):
                ridge = GRAM_EPS * torch.eye(len(A), dtype=A.dtype, device=A.device)
                of_A.copy_(torch.linalg.solve_ex(B.T @ B + ridge, of_A).result)
                of_B.copy_(torch.linalg.solve_ex(A @ A.T + ridge, of_B.T).result.T)


def learning_rate(config: OptimConfig, step: int) -> float:
    """Return the rate of micro-batch `step`, counted from 0. Kept for parity: it moves every micro-batch, not every update."""
    lr, warmup, last = config.lr, config.warmup_step, config.max_step
    if config.scheduler == "cycle":
        return _piecewise_linear(config, step)
    if step < warmup:
        return lr * step / warmup
    if config.scheduler == "linear":
        return lr * max(0.0, last - step) / (last - warmup)
    if config.scheduler == "cosine":
        return lr * 0.5 * (1 + math.cos(math.pi * step / last))
    return lr  # constant


def _piecewise_linear(config: OptimConfig, step: int) -> float:
    corners = list(zip(config.i_steps, config.i_lrs, strict=True))
    for (left, left_lr), (right, right_lr) in itertools.pairwise(corners):
        if step < right:
            share = (step - left) / (right - left + CYCLE_EPS)
            return share * right_lr + (1 - share) * left_lr
    return corners[-1][1]
