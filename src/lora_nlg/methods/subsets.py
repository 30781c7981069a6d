"""Parts of the base itself: every bias (BitFit, Ben Zaken et al. 2021), or the last two blocks whole (the paper's FT-Top2).

The base stays as it is: what is trained are copies, under names of their own, which take its place in the model.
"""

import argparse
import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_nlg.config import ModelConfig
from lora_nlg.errors import UserError
from lora_nlg.methods.common import Common, check_method, check_settings
from lora_nlg.methods.places import places, plain
from lora_nlg.model.gpt2 import GPT2, Conv1D
from lora_nlg.model.matmul import linear


@dataclass(frozen=True)
class BiasConfig:
    """All biases: of the matrices and of the layer norms."""

    method: str = "bias"

    def __post_init__(self):
        check_method(self, ("bias",))

    def n_parameters(self, model: ModelConfig) -> int:
        """Return how many numbers are trained: c_attn's 3C, c_fc's, c_proj's C twice, two norms' C in a layer, and ln_f's."""
        return model.n_layer * (7 * model.n_embd + model.n_inner) + model.n_embd


class BiasConv1D(Conv1D):
    """A frozen Conv1D with a bias that is trained."""

    def __init__(self, base: Conv1D):
        super().__init__(*base.weight.shape)
        self.weight, self.bias = base.weight, base.bias
        self.trained_bias = nn.Parameter(base.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return linear(x, self.weight, self.trained_bias)

    def merged(self) -> Conv1D:
        """Return a plain Conv1D with that bias."""
        return plain(self, self.weight, self.trained_bias)


class BiasNorm(nn.LayerNorm):
    """A frozen layer norm with a bias that is trained."""

    def __init__(self, base: nn.LayerNorm):
        super().__init__(base.normalized_shape, eps=base.eps)
        self.weight, self.bias = base.weight, base.bias
        self.trained_bias = nn.Parameter(base.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        return F.layer_norm(x, self.normalized_shape, self.weight, self.trained_bias, self.eps)

    def merged(self) -> nn.LayerNorm:
        """Return a plain layer norm with that bias."""
        made = nn.LayerNorm(self.normalized_shape, eps=self.eps)
        made.weight, made.bias = self.weight, nn.Parameter(self.trained_bias.detach(), requires_grad=False)
        return made


def norms(model: GPT2):
    """Yield (owner, attribute) of every layer norm."""
    for block in model.h:
        yield block, "ln_1"
        yield block, "ln_2"
    yield model, "ln_f"


class Bias(Common):
    """The functions of `bias`."""

    def from_flags(self, args: argparse.Namespace, model: ModelConfig) -> BiasConfig:
        """Return the only configuration there is."""
        return BiasConfig()

    def summary(self, config: BiasConfig) -> str:
        """Return what is trained, in words for people."""
        return "all biases"

    def attach(self, model: GPT2, config: BiasConfig) -> None:
        """Put copies of all biases into the model, and freeze everything else."""
        for owner, attribute in norms(model):
            setattr(owner, attribute, BiasNorm(getattr(owner, attribute)))
        for layer, _, owner, attribute in places(model):
            if layer is not None:
                setattr(owner, attribute, BiasConv1D(getattr(owner, attribute)))
        self.freeze_the_rest(model)

    def start(self, model: GPT2, generator: torch.Generator | None) -> None:
        """Leave them as they are: copies of the base's."""

    def merge(self, model: GPT2) -> None:
        """Make the model a plain one with these biases."""
        for _, _, owner, attribute in places(model):
            if isinstance(module := getattr(owner, attribute), BiasConv1D):
                setattr(owner, attribute, module.merged())
        for owner, attribute in norms(model):
            setattr(owner, attribute, getattr(owner, attribute).merged())


@dataclass(frozen=True)
class TopConfig:
    """The last blocks."""

    n_blocks: int = 2

    def __post_init__(self):
        check_settings(self)

    @property
    def method(self) -> str:
        """The row of the table of methods."""
        return "top2"

    def n_parameters(self, model: ModelConfig) -> int:
        """Return how many numbers are trained: a block's matrices, their biases, and two layer norms."""
        C, inner = model.n_embd, model.n_inner
        return self.n_blocks * (4 * C * C + 2 * C * inner + 9 * C + inner)


class TrainedBlock(nn.Module):
    """A copy of a block, under the name `trained`."""

    def __init__(self, base: nn.Module):
        super().__init__()
        self.trained = copy.deepcopy(base)

    def forward(self, *inputs) -> Tensor:
        """Do what the block does."""
        return self.trained(*inputs)


class Top(Common):
    """The functions of `top2`."""

    def from_flags(self, args: argparse.Namespace, model: ModelConfig) -> TopConfig:
        """Return the only configuration there is. Raises UserError for a model with fewer blocks."""
        if model.n_layer < TopConfig().n_blocks:
            raise UserError(
                f"--method top2 trains two blocks, but {args.model_card} has {model.n_layer}; use --method full"
            )
        return TopConfig()

    def summary(self, config: TopConfig) -> str:
        """Return what is trained, in words for people."""
        return f"the last {config.n_blocks} blocks"

    def attach(self, model: GPT2, config: TopConfig) -> None:
        """Put copies of the last blocks into the model, and freeze everything else."""
        if config.n_blocks > len(model.h):
            raise UserError(
                f"there are {config.n_blocks} trained blocks, but the model has {len(model.h)}; check --model_card"
            )
        for layer in range(len(model.h) - config.n_blocks, len(model.h)):
            model.h[layer] = TrainedBlock(model.h[layer])
        self.freeze_the_rest(model)

    def start(self, model: GPT2, generator: torch.Generator | None) -> None:
        """Leave them as they are: copies of the base's."""

    def merge(self, model: GPT2) -> None:
        """Make the model a plain one with these blocks."""
        for layer, block in enumerate(model.h):
            if isinstance(block, TrainedBlock):
                model.h[layer] = block.trained.requires_grad_(False)


BIAS = Bias("bias", BiasConfig, ".trained_bias")
TOP2 = Top("top2", TopConfig, ".trained.")
