"""GPT-2: pre-LN blocks, tanh-GELU, learned positions, head tied to the embedding, no dropout (Radford et al. 2019).

Alphabet: B batch, T time, N tokens, C width, H heads, D = C / H, V vocabulary. Tensors are of the model's dtype unless said
otherwise. What acts on every token alone takes any leading shape (…): rows of equal length (B, T), or N tokens without padding.
Parameter names and the (in, out) layout of the matrices are those of Hugging Face's GPT-2 files, without their prefix.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_nlg.config import ModelConfig
from lora_nlg.model import first_calls
from lora_nlg.model.attention import Attend, Prefix, causal_after
from lora_nlg.model.matmul import linear, linear_gelu

first_calls.make()  # at import, as an exception: every program that computes comes through here before it does

INIT_STD = 0.02
ROWS_AT_ONCE = 32  # of (rows, V) numbers on a CPU: what is written stays in the processor's cache until it is read
# What config.json calls activation_function: GPT-2's own is the approximation of GELU by tanh.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": functools.partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class Conv1D(nn.Module):
    """x @ weight + bias, with weight stored (in, out) as GPT-2's files have it."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return linear(x, self.weight, self.bias)


class Embedding(nn.Module):
    """The tokens' vectors, which are the output layer's weights as well."""

    def __init__(self, vocab_size: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, width))
        self.of_head: Tensor | None
        self.register_buffer(
            "of_head", None, persistent=False
        )  # the same numbers in half precision, see `store_frozen_in`

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (...) to (..., C)."""
        return F.embedding(ids, self.weight)

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states (..., C) to (..., V)."""
        return linear(hidden, (self.weight if self.of_head is None else self.of_head).T)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.n_head, self.config = config.n_head, config
        self.c_attn = Conv1D(config.n_embd, 3 * config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, layer: int, attend: Attend, keep: Tensor | None = None) -> Tensor:
        """Map (…, C) to (…, C), or to (M, C) if `keep` (M,) says which tokens, counted through, are wanted."""
        y = attend(layer, self._rescaled(self.c_attn(x), layer), self.n_head)
        return self.c_proj(y if keep is None else pick(y, keep))

    def _rescaled(self, qkv: Tensor, layer: int) -> Tensor:
        """Return qkv (…, 3C) with queries whose products, which attention divides by √D, are scaled as a `VariantConfig` says."""
        C, factor = self.config.n_embd, 1.0
        if not self.config.scale_attn_weights:
            factor *= math.sqrt(C / self.n_head)
        if self.config.scale_attn_by_inverse_layer_idx:
            factor /= layer + 1
        if factor == 1:  # GPT-2's own
            return qkv
        query, rest = qkv.split((C, 2 * C), -1)
        return torch.cat((query * factor, rest), -1)


def pick(x: Tensor, keep: Tensor) -> Tensor:
    """Return the rows `keep` (M,) of x (…, C), counted through its leading dimensions."""
    return x.flatten(0, -2).index_select(0, keep)


class MLP(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.c_fc = Conv1D(config.n_embd, config.n_inner)
        self.c_proj = Conv1D(config.n_inner, config.n_embd)
        self.activate = ACTIVATIONS[config.activation_function]

        self.is_gelu_new = config.activation_function == "gelu_new"

    def forward(self, x: Tensor) -> Tensor:
        if self.is_gelu_new and type(self.c_fc) is Conv1D:  # a method's own module may add to what comes out of it
            return self.c_proj(linear_gelu(x, self.c_fc.weight, self.c_fc.bias))
        return self.c_proj(self.activate(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, layer: int, attend: Attend, keep: Tensor | None = None) -> Tensor:
        x = (x if keep is None else pick(x, keep)) + self.attn(self.ln_1(x), layer, attend, keep)
        return x + self.mlp(self.ln_2(x))


class GPT2(nn.Module):
    """The transformer up to its last layer norm; `logits` is the tied head, called only where logits are wanted.

    `prefix` is what a method puts before every sequence: a module with its `length` in positions, called with the model for the
    keys and values of each layer. The tokens' own positions are counted from there on.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.trained_by: Any = None  # the configuration of the method that was put on it, see methods
        self.trained_on: Any = None  # what it was before, for a caller that keeps it
        self.prefix: Any
        self.register_module("prefix", None)
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        attend: Attend | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states (…, C) of `ids` (…) int64 at `positions` (…), by default 0 … T - 1.

        By default tokens attend causally, behind the prefix. With `keep` (M,) the states (M, C) of those tokens alone: the last
        block's MLP does no work for the others.
        """
        if positions is None:
            positions = torch.arange(ids.shape[-1], device=ids.device)
        if attend is None:
            attend = causal_after(self.keys_before())
        x = self.wte(ids) + self.wpe(positions + self.n_before)  # (…, C)
        return self.states(x, attend, keep)

    def states(self, x: Tensor, attend: Attend, keep: Tensor | None = None) -> Tensor:
        """Return the hidden states of what the first block takes in, x (…, C)."""
        last = len(self.h) - 1
        for layer, block in enumerate(self.h):
            x = block(x, layer, attend, keep if layer == last else None)
        return self.ln_f(x)

    @property
    def n_before(self) -> int:
        """The positions that the prefix takes."""
        return 0 if self.prefix is None else self.prefix.length

    def keys_before(self) -> Prefix | None:
        """Return the prefix's keys and values, (2, H, l, D) for each layer; None without a prefix."""
        return None if self.prefix is None else self.prefix(self)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (…, V) for hidden states (…, C)."""
        return self.wte.logits(hidden)


def store_frozen_in(model: GPT2, dtype: torch.dtype) -> None:
    """Convert the frozen matrices to `dtype`, to which autocast would convert them anew in every step: the same numbers.

    Embeddings and layer norms stay, since what they give is added up in the model's own dtype; the head, which is the token
    embedding, gets a copy in `dtype` beside it.
    """
    for module in model.modules():
        if isinstance(module, Embedding) and not module.weight.requires_grad:
            module.of_head = module.weight.detach().to(dtype)
        if isinstance(module, Conv1D):
            for parameter in (module.weight, module.bias):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(dtype)


def at_least_float32(logits: Tensor) -> Tensor:
    """Return half-precision logits as float32, in which sums over V are taken; float32 and float64 as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def rows_at_once(logits: Tensor) -> int:
    """Return how many rows are worked on together: all of them on a GPU, where a launch costs more than its cache gives."""
    return ROWS_AT_ONCE if logits.device.type == "cpu" else max(1, len(logits))


def empty_model(config: ModelConfig, dtype: torch.dtype = torch.float32) -> GPT2:
    """Return a GPT-2 whose parameters are not set; for a caller that fills every one (`init_weights`, a checkpoint)."""
    with torch.device("meta"):  # no time is spent on numbers that are overwritten
        model = GPT2(config)
    return model.to(dtype).to_empty(device="cpu")


@torch.no_grad()
def init_weights(model: GPT2, generator: torch.Generator) -> None:
    """Set GPT-2's random start: N(0, 0.02), projections into the residual stream smaller by √(2 · layers), biases 0."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif ".ln_" in f".{name}":
            parameter.fill_(1.0)
        else:
            into_residual = name.endswith("c_proj.weight")
            std = INIT_STD / math.sqrt(2 * model.config.n_layer) if into_residual else INIT_STD
            parameter.normal_(0.0, std, generator=generator)
