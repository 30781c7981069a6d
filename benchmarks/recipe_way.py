"""The recipe's way of computing, written down to be measured against: padded, all logits, dense ΔW, explicit attention.

The same mathematics as the project's model, and the same parameter names. Used by no program.

Alphabet: B batch, K beams, N rows, T padded time, P the cache's padded time, V vocabulary, C width, H heads, D = C / H.
"""

import math
import time

import loralib
import torch
from torch import Tensor, nn

from lora_nlg.methods.placement import ATTENTION_TARGETS


class Dense(nn.Module):
    """A frozen matrix as GPT-2 stores it, (in, out)."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out).normal_(0, 0.02))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
        return rows.view(*x.shape[:-1], -1)


class LayerNorm(nn.Module):
    """Spelt out in elementary operations, as the recipe has it."""

    def __init__(self, width: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return self.weight * (centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5)) + self.bias


class Attention(nn.Module):
    def __init__(self, shape, lora):
        super().__init__()
        self.n_head, C = shape.n_head, shape.n_embd
        # loralib forms the (C, 3C) ΔW and multiplies by it, in every forward pass
        self.c_attn = loralib.MergedLinear(
            C, 3 * C, r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout,
            enable_lora=[target in lora.targets for target in ATTENTION_TARGETS], fan_in_fan_out=True, merge_weights=False,
        )  # fmt: skip
        self.c_proj = Dense(C, C)

    def forward(self, x: Tensor, cache: Tensor | None, start: int) -> tuple[Tensor, Tensor]:
        """Map (N, T, C), at positions from `start`, to the same; with `cache` (2, N, H, P, D) write into it and attend to it."""
        N, T, C = x.shape
        heads = (part.view(N, T, self.n_head, -1).transpose(1, 2) for part in self.c_attn(x).split(C, dim=-1))
        q, k, v = heads  # (N, H, T, D) each
        if cache is None:
            cache = torch.stack([k, v])
        else:
            cache[0, :, :, start : start + T], cache[1, :, :, start : start + T] = k, v
        keys, values = cache
        scores = q @ keys.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (N, H, T, P)
        seen = torch.ones(T, keys.shape[2]).tril(start).view(1, 1, T, -1)
        weights = torch.softmax(scores * seen - 1e4 * (1 - seen), dim=-1)
        return self.c_proj((weights @ values).transpose(1, 2).reshape(N, T, C)), cache


class MLP(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.c_fc, self.c_proj = Dense(width, 4 * width), Dense(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        return self.c_proj(0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3)))))


class Block(nn.Module):
    def __init__(self, shape, lora):
        super().__init__()
        self.ln_1, self.attn = LayerNorm(shape.n_embd), Attention(shape, lora)
        self.ln_2, self.mlp = LayerNorm(shape.n_embd), MLP(shape.n_embd)


class RecipeGPT2(nn.Module):
    """GPT-2 with adapters that returns the logits of every position."""

    def __init__(self, shape, lora):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(shape.vocab_size, shape.n_embd), nn.Embedding(shape.n_positions, shape.n_embd)
        self.h = nn.ModuleList(Block(shape, lora) for _ in range(shape.n_layer))
        self.ln_f = LayerNorm(shape.n_embd)
        loralib.mark_only_lora_as_trainable(self)

    def forward(self, ids: Tensor, caches: list | None = None, start: int = 0) -> tuple[Tensor, list[Tensor]]:
        """Return logits (N, T, V) of `ids` (N, T) at positions from `start`, and every block's (2, N, H, P, D) cache."""
        x = self.wte(ids) + self.wpe(torch.arange(start, start + ids.shape[1]))
        filled = []
        for block, cache in zip(self.h, caches or [None] * len(self.h), strict=True):
            attended, cache = block.attn(block.ln_1(x), cache, start)
            filled.append(cache)
            x = x + attended
            x = x + block.mlp(block.ln_2(x))
        return self.ln_f(x) @ self.wte.weight.T, filled


def padded_batch(examples, seq_len: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs, targets and mask, (B, seq_len) each, padded with 0."""
    ids, targets, mask = (torch.zeros(len(examples), seq_len, dtype=torch.int64) for _ in range(3))
    for row, example in enumerate(examples):
        sequence = torch.tensor((example.context + example.completion)[:seq_len])
        ids[row, : len(sequence)] = sequence
        targets[row, : len(sequence) - 1] = sequence[1:]
        mask[row, len(example.context) - 1 : len(sequence) - 1] = 1
    return ids, targets, mask.float()


def padded_loss(model: RecipeGPT2, batch: tuple[Tensor, Tensor, Tensor], smoothing: float) -> Tensor:
    """Return the smoothed loss, computed at all B · T positions and then masked."""
    ids, targets, mask = batch
    logits, _ = model(ids)
    log_p = torch.log_softmax(logits.view(-1, logits.shape[-1]), dim=-1)  # (B · T, V)
    nll = -log_p.gather(-1, targets.view(-1, 1)).squeeze(1)
    ce = (1 - smoothing) * nll + smoothing * -log_p.mean(dim=-1)
    return (ce * mask.view(-1)).sum() / (mask.sum() + 1e-4)


@torch.inference_mode()
def padded_search(model: RecipeGPT2, prompt: list[int], config, pad_to: int) -> tuple[list[int], float, list[float]]:
    """Return the best hypothesis for one prompt by beam search, its log p, and each step's seconds; the first holds the prefill.

    The prompt is padded to `pad_to` and repeated K times before the prefill, and all caches are copied at every reorder. For
    searches in which no beam ends early (min_length = eval_len): the recipe's book-keeping of ended ones costs nothing.
    """
    K, n = config.beam, config.no_repeat_ngram_size
    assert config.min_length == config.eval_len and len(prompt) + config.eval_len <= pad_to
    ids = torch.zeros(K, pad_to, dtype=torch.int64)
    ids[:, : len(prompt)] = torch.tensor(prompt)
    histories, totals, seconds, caches = [[] for _ in range(K)], torch.zeros(K), [], None
    for step in range(config.eval_len):
        started = time.perf_counter()
        if caches is None:
            logits, caches = model(ids)
            logits = logits[:, len(prompt) - 1]  # (K, V)
        else:
            logits, caches = model(torch.tensor([h[-1:] for h in histories]), caches, len(prompt) + step - 1)
            logits = logits[:, 0]
        logits[:, list(config.eos_token_ids)] = -math.inf
        for row, history in enumerate(histories):
            starts = range(len(history) - n + 1 if n else 0)
            repeated = [history[i + n - 1] for i in starts if history[i : i + n - 1] == history[1 - n :]]
            logits[row, repeated] = -math.inf
        candidates = totals.unsqueeze(1) + torch.softmax(logits, dim=-1).log()  # (K, V)
        totals, places = candidates[: K if step else 1].flatten().topk(K)
        parents, tokens = places // logits.shape[-1], places % logits.shape[-1]
        caches = [cache.index_select(1, parents) for cache in caches]
        histories = [histories[p] + [t] for p, t in zip(parents.tolist(), tokens.tolist(), strict=True)]
        seconds.append(time.perf_counter() - started)
    return histories[0], totals[0].item(), seconds


@torch.inference_mode()
def log_p(model: RecipeGPT2, prompt: list[int], output: list[int], config) -> float:
    """Return the log p of an output, without any cache; end tokens are banned as in the search."""
    logits = model(torch.tensor([prompt + output]))[0][0, len(prompt) - 1 : -1]
    logits[:, list(config.eos_token_ids)] = -math.inf
    return torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(output).unsqueeze(1)).sum().item()
