"""DoRA on GPT-2 (Liu et al. 2024): LoRA, and apart from it the length m of each output's weights.

    W' = m · (W + scale · B A) / ‖W + scale · B A‖, the norm of each output's weights being a constant for the gradient (section 4.3)

Its settings are LoRA's (`DoraConfig` in placement.py), and so are the names of its tensors, beside which a file says that it is DoRA.
Alphabet: C width, R rank, ΣR the ranks of all targets in one module together, N rows.
"""

from collections.abc import Mapping
from typing import cast

import loralib
import torch
from torch import Tensor, nn

from lora_nlg.methods import placement
from lora_nlg.methods.lora import LoraConv1D, is_own, start, tensors
from lora_nlg.methods.placement import DoraConfig, check_start, from_file
from lora_nlg.methods.places import columns_of, merge, plain, put
from lora_nlg.model.gpt2 import GPT2, Conv1D
from lora_nlg.model.matmul import add_low_rank_, linear

__all__ = ["attach", "check_start", "described", "from_description", "from_file", "from_flags", "is_own", "merge", "start",
           "summary", "tensors"]  # fmt: skip


LEAST_NORM = 1e-12  # in place of that of an output without any weights, which stays without


class DoraConv1D(LoraConv1D):
    """A frozen Conv1D with adapters, and lora_m (n · out,): the lengths of its n targets' outputs, one target after the other.

    Outputs that belong to no target keep their weights.
    """

    columns: Tensor
    squares: Tensor

    def __init__(self, base: Conv1D, config: DoraConfig, targets: tuple[str, ...]):
        super().__init__(base, config, targets)
        n_out = self.weight.shape[1]
        outputs = torch.arange(n_out, device=self.weight.device)
        columns = torch.cat([outputs[part] for part in columns_of(targets, n_out)])
        self.lora_m = nn.Parameter(self.weight.new_empty(len(columns)))
        self.register_buffer("columns", columns, persistent=False)  # of the targets' outputs
        wide = self.weight.detach().to(torch.promote_types(self.weight.dtype, torch.float32))
        self.register_buffer("squares", wide.square().sum(0), persistent=False)  # ‖W‖² of each output

    @torch.no_grad()
    def start(self, generator: torch.Generator | None) -> None:
        """Start A and B as LoRA does, and m as the lengths that W has with them."""
        super().start(generator)
        self.lora_m.copy_(self.norms()[self.columns])

    @torch.no_grad()
    def norms(self) -> Tensor:
        """Return ‖W + scale · B A‖ of each output (out,), without forming B A: ‖W‖² + 2 W · B A + ‖B A‖²."""
        device = "cpu" if self.weight.is_meta else self.weight.device.type  # on meta are shapes alone, and no autocast
        with torch.autocast(device, enabled=False):
            A, B = self.lora_A, self.scaled_B()  # (ΣR, in), (out, ΣR)
            AW, AA = A @ self.weight.to(A.dtype), A @ A.T  # (ΣR, out), (ΣR, ΣR)
            return (self.squares + (B * (2 * AW.T + B @ AA)).sum(1)).clamp(min=0).sqrt()

    def factors(self) -> Tensor:
        """Return what each output's weights are multiplied by, m / ‖W + scale · B A‖ (out,): 1 where no target has it."""
        norms = self.norms()[self.columns].clamp(min=LEAST_NORM)
        return torch.ones_like(self.squares).index_copy(0, self.columns, self.lora_m / norms)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out): m / ‖W + scale · B A‖ · (W x + scale · B (A x)) + b."""
        rows = x.reshape(-1, x.shape[-1])  # (N, in)
        y = linear(rows, self.weight)  # (N, out), W x
        Ax = self.take_down(rows)  # (N, ΣR)
        add_low_rank_(y, Ax, self.scaled_B().to(y.dtype))
        factors = self.factors()  # not rounded to half precision, in which 1.003 is 1
        y = torch.addcmul(self.bias.to(factors.dtype), y.to(factors.dtype), factors).to(y.dtype)
        return y.view(*x.shape[:-1], y.shape[1])

    def merged(self) -> Conv1D:
        """Return a plain Conv1D with W'."""
        return plain(self, (self.weight + self.delta_weight()) * self.factors())


def attach(model: GPT2, config: DoraConfig) -> None:
    """Put adapters that are not set where `config` says, and freeze everything else."""
    put(model, config, lambda base: DoraConv1D)
    loralib.mark_only_lora_as_trainable(model)


def from_flags(args, model) -> DoraConfig:
    """Return what the flags of gpt2_ft.py describe. Raises UserError."""
    return cast(DoraConfig, placement.from_flags(args, model, "dora"))


def summary(config: DoraConfig) -> str:
    """Return what is trained, in words for people."""
    return f"DoRA's {placement.summary(config)}"


def described(config: DoraConfig) -> dict[str, object]:
    """Return what a file says of its adapters."""
    return {"method": "dora", **placement.described(config)}


def from_description(said: Mapping[str, str]) -> DoraConfig | None:
    """Undo `described`; None for what others saved."""
    return cast(DoraConfig | None, placement.from_description(said, "dora"))
