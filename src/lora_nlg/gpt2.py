"""GPT-2: pre-LN blocks, tanh-GELU, learned positions, head tied to the embedding, no dropout (Radford et al. 2019).

Alphabet: B batch, T time, C width, H heads, D = C / H, V vocabulary. Tensors are of the model's dtype unless said otherwise.
Parameter names and the (in, out) layout of the matrices are those of Hugging Face's GPT-2 files, without their prefix.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_nlg.config import ModelConfig

LAYER_NORM_EPS = 1e-5
INIT_STD = 0.02

# (layer, q, k, v each (B, H, T, D)) -> (B, H, T, D). Training attends causally; decoding puts a cache behind the same call.
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def causal_attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend to the same and earlier positions. Rows padded on the right need no mask: what comes later is never seen."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Conv1D(nn.Module):
    """x @ weight + bias, with weight stored (in, out) as GPT-2's files have it."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return F.linear(x, self.weight.T, self.bias)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = Conv1D(config.n_embd, 3 * config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, layer: int, attend: Attend) -> Tensor:
        B, T, C = x.shape
        q, k, v = (
            part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, H, T, D)
            for part in self.c_attn(x).split(C, dim=-1)
        )
        y = attend(layer, q, k, v)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.c_fc = Conv1D(config.n_embd, 4 * config.n_embd)
        self.c_proj = Conv1D(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=LAYER_NORM_EPS)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=LAYER_NORM_EPS)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, layer: int, attend: Attend) -> Tensor:
        x = x + self.attn(self.ln_1(x), layer, attend)
        return x + self.mlp(self.ln_2(x))


class GPT2(nn.Module):
    """The transformer up to its last layer norm; `logits` is the tied head, called only where logits are wanted."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=LAYER_NORM_EPS)

    def forward(self, ids: Tensor, positions: Tensor | None = None, attend: Attend = causal_attention) -> Tensor:
        """Return the hidden states (B, T, C) of `ids` (B, T) int64. `positions` (B, T) or (T,) defaults to 0 … T-1."""
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.wte(ids) + self.wpe(positions)  # (B, T, C)
        for layer, block in enumerate(self.h):
            x = block(x, layer, attend)
        return self.ln_f(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (..., V) for hidden states (..., C)."""
        return F.linear(hidden, self.wte.weight)


def at_least_float32(logits: Tensor) -> Tensor:
    """Return half-precision logits as float32, in which sums over V are taken; float32 and float64 as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


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
