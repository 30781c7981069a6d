"""Pretrain a small base on documents: rows of the tokens of its texts are learnt, those of all others are drawn.

The softmax is over the tokens with learnt rows, those of the batch and a sample of the others, which stands for all of them:
an estimate of the softmax over GPT-2's 50 257 tokens.

Alphabet: B rows, T tokens a row, U learnt rows, R rows of one step, V = 50 257, C width.
"""

import dataclasses
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from lora_nlg.bundled.copying import set_copying_heads
from lora_nlg.config import END_OF_TEXT_ID, GPT2_VOCAB_SIZE, ModelConfig, OptimConfig
from lora_nlg.model.attention import causal_attention
from lora_nlg.model.drawn_rows import drawn_rows
from lora_nlg.model.gpt2 import GPT2, empty_model, init_weights
from lora_nlg.model.matmul import linear
from lora_nlg.training.optim import build_optimizer, learning_rate

LOG_INTERVAL = 100  # steps
SAMPLED = 1024  # tokens that stand for all which neither are learnt nor occur in the batch
ROW_ENTRY = 0.06  # of a drawn row, + or -


def fastest_dtype() -> torch.dtype:
    """Return bfloat16 where the CPU multiplies it by itself, else float32."""
    is_native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return torch.bfloat16 if is_native() else torch.float32


def pack(documents: Iterator[str], encoding, n_tokens: int) -> Tensor:
    """Return at least `n_tokens` ids (int64) of documents one after the other, each closed by the end-of-text token."""
    ids: list[int] = []
    with tqdm(total=n_tokens, desc="encoding documents", unit="token", unit_scale=True, disable=None) as bar:
        for document in documents:
            before = len(ids)
            ids.extend(encoding.encode_ordinary(document))
            ids.append(END_OF_TEXT_ID)
            bar.update(len(ids) - before)
            if len(ids) >= n_tokens:
                return torch.tensor(ids)
    raise ValueError("the documents ended early")


@dataclass(frozen=True)
class Vocabulary:
    """Which tokens' rows are learnt: `used` (U,), sorted ids; the others' rows are `drawn` (V, C)."""

    used: Tensor
    drawn: Tensor

    @classmethod
    def of(cls, used: Tensor, width: int, seed: int) -> "Vocabulary":
        """Return the vocabulary whose drawn rows are `width` long."""
        return cls(used, drawn_rows(GPT2_VOCAB_SIZE, width, seed, ROW_ENTRY))

    def rows_of(self, window: Tensor, n_sampled: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids (R,) without repetition, `window`'s places (B, T) among them, and ln of how many tokens each stands for.

        The ids begin with `used`, then come the others of the window, then at most `n_sampled` of the rest.
        """
        place = torch.full((GPT2_VOCAB_SIZE,), -1)
        place[self.used] = torch.arange(len(self.used))
        own = window.unique()
        own = own[place[own] < 0]
        place[own] = len(self.used) + torch.arange(len(own))
        rest = torch.nonzero(place < 0)[:, 0]
        sampled = rest[torch.randperm(len(rest), generator=generator)[:n_sampled]]
        ids = torch.cat([self.used, own, sampled])
        weights = torch.zeros(len(ids))
        weights[len(ids) - len(sampled) :] = math.log(len(rest) / max(len(sampled), 1))
        return ids, place[window], weights


def sampled_loss(model: GPT2, vocabulary: Vocabulary, window: Tensor, n_sampled: int, generator) -> Tensor:
    """Return the mean cross-entropy of `window` (B, T + 1) under the estimated softmax.

    The model's embedding has the U learnt rows alone.
    """
    ids, places, weights = vocabulary.rows_of(window, n_sampled, generator)
    table = torch.cat([model.wte.weight, vocabulary.drawn[ids[len(vocabulary.used) :]]])  # (R, C)
    x = F.embedding(places[:, :-1], table) + model.wpe.weight[: window.shape[1] - 1]
    logits = linear(model.states(x, causal_attention), table.T).float() + weights  # (B, T, R)
    return F.cross_entropy(logits.flatten(0, 1), places[:, 1:].flatten())


def pretrain(
    ids: Tensor,
    vocabulary: Vocabulary,
    config: ModelConfig,
    optim: OptimConfig,
    rows: int,
    seed: int,
    dtype: torch.dtype = torch.float32,
) -> GPT2:
    """Train on random stretches of `ids`, `rows` rows of n_positions tokens a step, and return the model.

    Its embedding has the learnt rows alone, in the vocabulary's order. Products are computed in `dtype`.
    """
    T = config.n_positions
    generator = torch.Generator().manual_seed(seed)
    model = empty_model(dataclasses.replace(config, vocab_size=len(vocabulary.used)))
    init_weights(model, generator)
    with torch.no_grad():
        model.wte.weight.copy_(vocabulary.drawn[vocabulary.used])
    set_copying_heads(model, ROW_ENTRY, generator)
    optimizer = build_optimizer(model, optim)
    losses = []
    for step in tqdm(range(1, optim.max_step + 1), "pretraining", unit="step", disable=None):
        starts = torch.randint(len(ids) - T, (rows,), generator=generator)
        window = ids[starts[:, None] + torch.arange(T + 1)]
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = sampled_loss(model, vocabulary, window, SAMPLED, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(optim, step)  # from 1, so that no step is lost to a rate of 0
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % LOG_INTERVAL == 0:
            tqdm.write(f"step {step} | loss {sum(losses) / LOG_INTERVAL:.3f}")
            sys.stdout.flush()
            losses.clear()
    return model
