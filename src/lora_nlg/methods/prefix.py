"""Prefixes: l positions of learnt vectors that stand before every sequence, of which every token sees the keys and values.

They take positions: the first token is at position l. Since no position sees a later one, what they give is the same for every row
of a batch, and it is computed once a batch.

    prefix_embed  l vectors in place of tokens' embeddings (the paper's PreEmbed, section 5.1)
    prefix_layer  l vectors in place of what each block would take in (PreLayer); keys and values come of them by the frozen matrices
    prefix_kv     keys and values of each layer themselves (Li & Liang 2021, without the network that they train through)

They start as tokens drawn at random: as their embeddings, as what the base makes of those in each layer, as keys and values of that.
Alphabet: l prefix length, L layers, C width, H heads, D = C / H.
"""

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lora_nlg.config import ModelConfig
from lora_nlg.methods import sizes
from lora_nlg.methods.common import Common, check_method, check_settings
from lora_nlg.model.attention import Prefix, causal_attention, split_heads
from lora_nlg.model.gpt2 import GPT2

DEFAULT_LENGTH = 14  # at which prefix_layer has LoRA's .35M on GPT-2 Medium


@dataclass(frozen=True)
class PrefixConfig:
    """Which prefix, and how long."""

    method: str  # prefix_embed, prefix_layer, prefix_kv
    prefix_length: int  # l, in positions

    def __post_init__(self):
        check_settings(self)
        check_method(self, KINDS)

    def n_parameters(self, model: ModelConfig) -> int:
        """Return how many numbers are trained."""
        C, L = model.n_embd, model.n_layer
        return self.prefix_length * {"prefix_embed": C, "prefix_layer": C * L, "prefix_kv": 2 * C * L}[self.method]


class Recorder:
    """Causal attention that keeps each layer's keys and values, (2, H, T, D), of one row (1, T, 3C)."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def __call__(self, layer: int, qkv: Tensor, n_head: int) -> Tensor:
        _, key, value = split_heads(qkv, n_head)
        self.kept.append(torch.cat((key, value)))
        return causal_attention(layer, qkv, n_head)


class EmbedPrefix(nn.Module):
    """The prefix of prefix_embed: `embed` (l, C), to which the positions' vectors are added as to tokens."""

    def __init__(self, model: GPT2, length: int):
        super().__init__()
        self.length = length
        self.embed = nn.Parameter(model.wpe.weight.new_empty(length, model.config.n_embd))

    def forward(self, model: GPT2) -> Prefix:
        """Return the keys and values of each layer, (2, H, l, D)."""
        record = Recorder()
        model.states((self.embed + model.wpe.weight[: self.length]).unsqueeze(0), record)
        return record.kept

    @torch.no_grad()
    def start(self, model: GPT2, ids: Tensor) -> None:
        """Start as the tokens `ids` (l,)."""
        self.embed.copy_(model.wte(ids))


class LayerPrefix(nn.Module):
    """The prefix of prefix_layer: `layer` (L, l, C), what each block takes in at the prefix's positions."""

    def __init__(self, model: GPT2, length: int):
        super().__init__()
        self.length = length
        self.layer = nn.Parameter(model.wpe.weight.new_empty(len(model.h), length, model.config.n_embd))

    def forward(self, model: GPT2) -> Prefix:
        """Return the keys and values of each layer, (2, H, l, D), by its own layer norm and matrix."""
        prefix = []
        block: Any
        for vectors, block in zip(self.layer, model.h, strict=True):
            qkv = block.attn.c_attn(block.ln_1(vectors.unsqueeze(0)))  # (1, l, 3C)
            prefix.append(torch.cat(split_heads(qkv, model.config.n_head)[1:]))
        return prefix

    @torch.no_grad()
    def start(self, model: GPT2, ids: Tensor) -> None:
        """Start as what the blocks take in of the tokens `ids` (l,)."""
        x = (model.wte(ids) + model.wpe.weight[: self.length]).unsqueeze(0)
        for layer, block in enumerate(model.h):
            self.layer[layer].copy_(x[0])
            x = block(x, layer, causal_attention)


class KeyValuePrefix(nn.Module):
    """The prefix of prefix_kv: `kv` (L, 2, l, C), the keys and the values of all heads."""

    def __init__(self, model: GPT2, length: int):
        super().__init__()
        self.length, self.n_head = length, model.config.n_head
        self.kv = nn.Parameter(model.wpe.weight.new_empty(len(model.h), 2, length, model.config.n_embd))

    def forward(self, model: GPT2) -> Prefix:
        """Return the keys and values of each layer, (2, H, l, D)."""
        heads = self.kv.unflatten(-1, (self.n_head, -1))  # (L, 2, l, H, D)
        return heads.transpose(2, 3).unbind()

    @torch.no_grad()
    def start(self, model: GPT2, ids: Tensor) -> None:
        """Start as the keys and values of the tokens `ids` (l,)."""
        record = Recorder()
        model.states((model.wte(ids) + model.wpe.weight[: self.length]).unsqueeze(0), record)
        self.kv.copy_(torch.stack(record.kept).transpose(2, 3).flatten(-2))


KINDS = {"prefix_embed": EmbedPrefix, "prefix_layer": LayerPrefix, "prefix_kv": KeyValuePrefix}


class PrefixMethod(Common):
    """The functions of one of the three."""

    def from_flags(self, args: argparse.Namespace, model: ModelConfig) -> PrefixConfig:
        """Return what the flags of gpt2_ft.py describe. Raises UserError."""
        count = lambda length: PrefixConfig(self.name, length).n_parameters(model)  # noqa: E731
        most = model.n_positions // 2
        limit = f", half of the {model.n_positions} positions of {args.model_card}"
        return PrefixConfig(self.name, sizes.size_of(args, "prefix_length", DEFAULT_LENGTH, most, count, limit))

    def summary(self, config: PrefixConfig) -> str:
        """Return what is trained, in words for people."""
        what = {"prefix_embed": "embeddings", "prefix_layer": "inputs of every block", "prefix_kv": "keys and values"}
        return f"a prefix of {config.prefix_length} positions, {what[self.name]}"

    def attach(self, model: GPT2, config: PrefixConfig) -> None:
        """Put a prefix that is not set before every sequence, and freeze everything else."""
        model.prefix = KINDS[self.name](model, config.prefix_length)
        self.freeze_the_rest(model)

    def start(self, model: GPT2, generator: torch.Generator | None) -> None:
        """Start as tokens drawn at random."""
        prefix, model.prefix = model.prefix, None
        ids = torch.randint(model.config.vocab_size, (prefix.length,), generator=generator)
        prefix.start(model, ids.to(model.wte.weight.device))
        model.prefix = prefix

    def merge(self, model: GPT2) -> PrefixConfig:
        """Leave the prefix where it is: no weights of the base could do what it does."""
        return model.trained_by


EMBED, LAYER, KV = (PrefixMethod(name, PrefixConfig, f"prefix.{name.removeprefix('prefix_')}") for name in KINDS)
