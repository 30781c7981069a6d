"""Beam search by the recipe's rules (`next_logits`, `advance`), many sentences at a time, each as if it were alone.

Alphabet: B sentences, K beams, V vocabulary, G tokens generated so far, T prompt length, H heads, D head width, C width.
Scores are natural-log probabilities in the model's dtype, float32 at least; "impossible" is -inf.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from lora_nlg.config import BeamConfig
from lora_nlg.gpt2 import GPT2, at_least_float32, causal_attention, join_heads, split_heads

IMPOSSIBLE = float("-inf")
SHRINK_AT = 0.75  # the batch is made smaller once this share of its sentences, or less, is still searching


@dataclass
class Beams:
    """The state of the search for B sentences."""

    tokens: Tensor  # (B, K, G) int64, what each beam has generated
    scores: Tensor  # (B, K), sum of log p; -inf for a beam that has ended
    best_tokens: Tensor  # (B, eval_len) int64, the best ended hypothesis, padded with 0
    best_scores: Tensor  # (B,), its score / length ** length_penalty
    ended_scores: Tensor | None = None  # (B, K), the same of each that ended in the last step, else -inf

    def select(self, sentences: Tensor) -> "Beams":
        """Return the state of `sentences` (int64 indices) only."""
        return Beams(*(getattr(self, name)[sentences] for name in ("tokens", "scores", "best_tokens", "best_scores")))


def start_beams(n_sentences: int, config: BeamConfig, like: Tensor) -> Beams:
    """Return one empty beam a sentence: the first step chooses all K from it. `like` gives dtype and device of the scores."""
    return Beams(
        tokens=torch.zeros(n_sentences, 1, 0, dtype=torch.int64, device=like.device),
        scores=like.new_zeros(n_sentences, 1),
        best_tokens=torch.zeros(n_sentences, config.eval_len, dtype=torch.int64, device=like.device),
        best_scores=like.new_full((n_sentences,), IMPOSSIBLE),
    )


def penalise_repetition(logits: Tensor, generated: Tensor, penalty: float) -> Tensor:
    """Make every token of `generated` (B, K, G) less likely in `logits` (B, K, V): × penalty below 0, ÷ penalty above."""
    if penalty == 1 or generated.shape[-1] == 0:
        return logits
    seen = logits.gather(-1, generated)
    return logits.scatter(-1, generated, torch.where(seen < 0, seen * penalty, seen / penalty))


def ban_early_end(logits: Tensor, n_generated: int, config: BeamConfig) -> Tensor:
    """Make the end tokens impossible while fewer than `min_length` tokens are generated."""
    if n_generated >= config.min_length:
        return logits
    return logits.index_fill(-1, logits.new_tensor(config.eos_token_ids, dtype=torch.int64), IMPOSSIBLE)


def ban_repeated_ngrams(logits: Tensor, generated: Tensor, n: int) -> Tensor:
    """Make impossible in `logits` (B, K, V) what would complete an n-gram that `generated` (B, K, G) already has."""
    if n == 0 or generated.shape[-1] < n:
        return logits
    ngrams = generated.unfold(-1, n, 1)  # (B, K, G - n + 1, n)
    prefix = generated[..., generated.shape[-1] - n + 1 :]  # (B, K, n - 1), the n-gram being completed
    repeats = (ngrams[..., :-1] == prefix.unsqueeze(-2)).all(-1)  # (B, K, G - n + 1)
    sentence, beam, place = repeats.nonzero(as_tuple=True)
    if len(place) == 0:
        return logits
    banned = logits.clone()
    banned[sentence, beam, ngrams[sentence, beam, place, -1]] = IMPOSSIBLE
    return banned


def next_logits(logits: Tensor, beams: Beams, config: BeamConfig) -> Tensor:
    """Apply the recipe's rules, in its order, to `logits` (B, K, V), before they become probabilities."""
    logits = penalise_repetition(logits, beams.tokens, config.repetition_penalty)
    logits = ban_early_end(logits, beams.tokens.shape[-1], config)
    return ban_repeated_ngrams(logits, beams.tokens, config.no_repeat_ngram_size)


def best_candidates(logits: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best `k` of all continuations as (scores, parent beams, tokens), each (B, k), best first.

    `logits` (B, K, V), `scores` (B, K). log p = logit - logsumexp is needed only for each beam's own k best tokens.
    """
    V = logits.shape[-1]
    top, tokens = logits.topk(min(k, V), dim=-1)  # (B, K, min(k, V))
    totals = scores.unsqueeze(-1) + (top - logits.logsumexp(-1, keepdim=True))
    # A beam without any possible token has -inf - -inf; a tiny vocabulary has fewer than k candidates.
    totals = totals.nan_to_num(nan=IMPOSSIBLE, neginf=IMPOSSIBLE).flatten(1)
    totals = F.pad(totals, (0, max(0, k - totals.shape[1])), value=IMPOSSIBLE)
    scores, places = totals.topk(k, dim=-1)  # (B, k)
    places = places.clamp(max=logits.shape[1] * top.shape[-1] - 1)
    return scores, places // top.shape[-1], tokens.flatten(1).gather(1, places)


def advance(logits: Tensor, beams: Beams, config: BeamConfig) -> tuple[Beams, Tensor]:
    """Take one step: return the new state and each new beam's parent (B, K).

    A kept beam whose last token is an end token has ended: it becomes the sentence's best if strictly better, and its
    running score -inf. After the last step, beams that have not ended count as well.
    """
    scores, parents, tokens = best_candidates(next_logits(logits, beams, config), beams.scores, config.beam)
    G = beams.tokens.shape[-1]
    history = beams.tokens.gather(1, parents.unsqueeze(-1).expand(-1, -1, G))
    history = torch.cat([history, tokens.unsqueeze(-1)], dim=-1)  # (B, K, G + 1)

    ended = torch.isin(tokens, tokens.new_tensor(config.eos_token_ids))  # (B, K)
    counts = torch.ones_like(ended) if G + 1 == config.eval_len else ended
    normalised = (scores / (G + 1) ** config.length_penalty).masked_fill(~counts, IMPOSSIBLE)
    score, beam = normalised.max(dim=-1)  # (B,)
    better = score > beams.best_scores
    hypothesis = history[torch.arange(len(beam), device=beam.device), beam]  # (B, G + 1)
    hypothesis = F.pad(hypothesis, (0, config.eval_len - (G + 1)))
    return Beams(
        tokens=history,
        scores=scores.masked_fill(ended, IMPOSSIBLE),
        best_tokens=torch.where(better.unsqueeze(-1), hypothesis, beams.best_tokens),
        best_scores=torch.where(better, score, beams.best_scores),
        ended_scores=normalised,
    ), parents


def is_decided(beams: Beams, config: BeamConfig) -> Tensor:
    """Return (B,) bool: no live beam can still become strictly better than the best ended hypothesis.

    A running score s ≤ 0 only falls, so whatever the beam becomes, at length L, scores at most s / L ** p. For p ≥ 0 that
    bound is highest at L = eval_len, for p < 0 at the next length. Stopping here leaves every result as it would be.
    """
    p = config.length_penalty
    divisor = max((beams.tokens.shape[-1] + 1) ** p, config.eval_len**p)
    return beams.best_scores >= beams.scores.amax(dim=-1) / divisor


class Endings:
    """The `n` best hypotheses that ended in a search, best first: what `beam_search` fills if it is passed one.

    After it, `tokens` is (B, n, eval_len) int64, padded with 0, and `scores` (B, n), -inf where fewer than n ended.
    """

    def __init__(self, n: int):
        self.n = n

    def start(self, beams: Beams) -> None:
        """Forget everything; `beams` gives the number of sentences, dtype and device."""
        B, eval_len = beams.best_tokens.shape
        self.scores = beams.best_scores.new_full((B, self.n), IMPOSSIBLE)
        self.tokens = beams.best_tokens.new_zeros(B, self.n, eval_len)

    def add(self, beams: Beams, sentences: Tensor) -> None:
        """Take in the hypotheses that ended in the last step; row i of `beams` is sentence sentences[i]."""
        pad = (0, self.tokens.shape[-1] - beams.tokens.shape[-1])
        tokens = torch.cat([self.tokens[sentences], F.pad(beams.tokens, pad)], dim=1)  # (B, n + K, eval_len)
        scores = torch.cat([self.scores[sentences], beams.ended_scores], dim=1)  # (B, n + K)
        scores, order = scores.sort(dim=1, descending=True, stable=True)  # as good as an earlier one is not better
        order = order[:, : self.n]
        self.scores[sentences] = scores[:, : self.n]
        self.tokens[sentences] = tokens.gather(1, order.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))

    def are_decided(self, beams: Beams, sentences: Tensor, config: BeamConfig) -> Tensor:
        """Return (B,) bool: no live beam can still become one of the n best, by the bound of `is_decided`."""
        return is_decided(replace(beams, best_scores=self.scores[sentences, -1]), config)


class Cache:
    """Keys and values of prompts, stored once a sentence, and of every generated token, stored once and never moved.

    A beam does not own its history: it attends to the slots of all K beams of its sentence under a mask that says which
    of them are its ancestors. Reordering the beams reorders rows of that mask.
    """

    def __init__(self, model: GPT2, lengths: Tensor, config: BeamConfig):
        B, T, K = len(lengths), int(lengths.max()), config.beam
        self.lengths, self.prompt_len, self.beam, self.step = lengths, T, K, 0
        size = T + K * (config.eval_len - 1)  # the last token generated is never attended to
        shape = (B, model.config.n_head, size, model.config.n_embd // model.config.n_head)
        weight = model.wte.weight
        dtype = (
            torch.get_autocast_dtype(weight.device.type)
            if torch.is_autocast_enabled(weight.device.type)
            else weight.dtype
        )
        self.keys = [torch.empty(shape, dtype=dtype, device=weight.device) for _ in model.h]
        self.values = [torch.empty_like(k) for k in self.keys]
        slots = torch.arange(size, device=weight.device)
        self.mask = (slots < lengths.unsqueeze(-1)).unsqueeze(1).repeat(1, K, 1)  # (B, K, size), True: may attend

    def prefill(self, layer: int, qkv: Tensor, n_head: int) -> Tensor:
        """Attend within the prompts, (B, T, 3C) to (B, T, C), and keep their keys and values."""
        _, k, v = split_heads(qkv, n_head)  # (B, H, T, D)
        self.keys[layer][:, :, : self.prompt_len] = k
        self.values[layer][:, :, : self.prompt_len] = v
        return causal_attention(layer, qkv, n_head)

    def extend(self, layer: int, qkv: Tensor, n_head: int) -> Tensor:
        """Attend from each beam's newest token, (B, K, 3C) to (B, K, C), to its prompt, its ancestors and itself."""
        start = self.prompt_len + self.step * self.beam
        end = start + self.beam
        q, k, v = split_heads(qkv, n_head)  # (B, H, K, D)
        self.keys[layer][:, :, start:end] = k
        self.values[layer][:, :, start:end] = v
        mask = self.mask[:, None, :, :end]  # (B, 1, K, end)
        keys, values = self.keys[layer][:, :, :end], self.values[layer][:, :, :end]
        return join_heads(F.scaled_dot_product_attention(q, keys, values, attn_mask=mask))

    def reorder(self, parents: Tensor) -> None:
        """Make beam k the child of beam `parents[:, k]`, and open the slots of its newest token to it alone."""
        self.mask = self.mask.gather(1, parents.unsqueeze(-1).expand(-1, -1, self.mask.shape[-1]))
        start = self.prompt_len + self.step * self.beam
        self.mask[:, :, start : start + self.beam] = torch.eye(self.beam, dtype=torch.bool, device=self.mask.device)

    def select(self, sentences: Tensor) -> None:
        """Keep `sentences` (int64 indices) only."""
        self.lengths, self.mask = self.lengths[sentences], self.mask[sentences]
        self.keys = [k[sentences] for k in self.keys]
        self.values = [v[sentences] for v in self.values]


@torch.inference_mode()
def beam_search(
    model: GPT2, prompts: Sequence[list[int]], config: BeamConfig, endings: Endings | None = None
) -> list[list[int]]:
    """Return for each prompt the ids of its best hypothesis, padded with 0 to eval_len.

    A prompt is one or more ids, and len(prompt) + eval_len may not exceed the model's positions. The result does not depend
    on which prompts share the batch, up to the rounding of the matrix products. With `endings` the search goes on until those
    are decided as well, and the result is the same.
    """
    device = model.wte.weight.device
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    cache = Cache(model, lengths, config)
    last = torch.arange(len(prompts), device=device) * ids.shape[1] + lengths - 1  # (B,), counted through all rows
    hidden = model(ids.to(device), attend=cache.prefill, keep=last)  # (B, C)
    logits = at_least_float32(model.logits(hidden)).unsqueeze(1)  # (B, 1, V)

    beams = start_beams(len(prompts), config, like=logits)
    if endings is not None:
        endings.start(beams)
    results = torch.zeros(len(prompts), config.eval_len, dtype=torch.int64, device=device)
    searching = torch.arange(len(prompts), device=device)  # which prompt each row of the batch is
    for step in range(config.eval_len):
        beams, parents = advance(logits, beams, config)
        results[searching] = beams.best_tokens
        if endings is not None:
            endings.add(beams, searching)
        if step + 1 == config.eval_len:
            break
        decided = is_decided(beams, config) if endings is None else endings.are_decided(beams, searching, config)
        undecided = (~decided).nonzero().squeeze(-1)
        if len(undecided) == 0:
            break
        if len(undecided) <= SHRINK_AT * len(searching):
            searching, beams, parents = searching[undecided], beams.select(undecided), parents[undecided]
            cache.select(undecided)
        cache.step = step
        cache.reorder(parents)
        positions = (cache.lengths + step).unsqueeze(-1).expand(-1, config.beam)  # (B, K)
        hidden = model(beams.tokens[..., -1], positions, attend=cache.extend)  # (B, K, C)
        logits = at_least_float32(model.logits(hidden))  # (B, K, V)
    return results.tolist()
