"""Beam search by the recipe's rules (`next_logits`, `advance`), many sentences at a time, each as if it were alone.

Alphabet: B sentences, K beams, V vocabulary, G tokens generated so far, T prompt length, H heads, D head width, C width;
N rows, the beams that are searched on, in the order of `rows` (N,) int64, which counts through all B · K.
Scores are natural-log probabilities in the model's dtype, float32 at least; "impossible" is -inf.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lora_nlg.config import BeamConfig
from lora_nlg.decoding.cache import COMPILED_STEPS, Cache, CompiledStep
from lora_nlg.model.gpt2 import GPT2, at_least_float32, rows_at_once

IMPOSSIBLE = float("-inf")
BLOCK = 64  # tokens whose largest logit is looked for first
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


def penalise_repetition(logits: Tensor, generated: Tensor, penalty: float, overwrite: bool = False) -> Tensor:
    """Make every token of `generated` (N, G) less likely in `logits` (N, V): × penalty below 0, ÷ penalty above."""
    if penalty == 1 or generated.shape[-1] == 0:
        return logits
    seen = logits.gather(-1, generated)
    return _own(logits, overwrite).scatter_(-1, generated, torch.where(seen < 0, seen * penalty, seen / penalty))


def _own(logits: Tensor, overwrite: bool) -> Tensor:
    """Return logits to write into: a copy, unless the caller gives its own away. At 160 rows of GPT-2 that is 32 MB a rule."""
    return logits if overwrite else logits.clone()


def ban_early_end(logits: Tensor, n_generated: int, config: BeamConfig, overwrite: bool = False) -> Tensor:
    """Make the end tokens impossible while fewer than `min_length` tokens are generated."""
    if n_generated >= config.min_length:
        return logits
    return _own(logits, overwrite).index_fill_(-1, end_tokens(config.eos_token_ids, logits.device), IMPOSSIBLE)


@functools.lru_cache(maxsize=8)
def end_tokens(ids: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the ids as a tensor, which is copied to a GPU once, not at every step."""
    return torch.tensor(ids, dtype=torch.int64, device=device)


def ban_repeated_ngrams(logits: Tensor, generated: Tensor, n: int, overwrite: bool = False) -> Tensor:
    """Make impossible in `logits` (N, V) what would complete an n-gram that `generated` (N, G) already has."""
    if n == 0 or generated.shape[-1] < n:
        return logits
    ngrams = generated.unfold(-1, n, 1)  # (N, G - n + 1, n)
    prefix = generated[:, generated.shape[-1] - n + 1 :]  # (N, n - 1), the n-gram being completed
    repeats = (ngrams[..., :-1] == prefix.unsqueeze(-2)).all(-1)  # (N, G - n + 1)
    if logits.device.type == "cpu" and not repeats.any():  # which a GPU would have to be waited for
        return logits
    last = ngrams[..., -1]  # (N, G - n + 1); a token is there more than once if several n-grams end in it
    banned = logits.gather(-1, last).masked_fill(repeats, IMPOSSIBLE)
    return _own(logits, overwrite).scatter_reduce_(-1, last, banned, "amin")


def next_logits(logits: Tensor, generated: Tensor, config: BeamConfig, overwrite: bool = False) -> Tensor:
    """Apply the recipe's rules, in its order, to `logits` (N, V), before they become probabilities."""
    logits = penalise_repetition(logits, generated, config.repetition_penalty, overwrite)
    logits = ban_early_end(logits, generated.shape[-1], config, overwrite)
    return ban_repeated_ngrams(logits, generated, config.no_repeat_ngram_size, overwrite)


def largest(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the `k` largest of each row of `logits` (N, V), in order, and where they are, as topk does; on a CPU in less time.

    They are among the k blocks with the largest maxima, and what is left over at the end: a tenth of the row to sort.
    """
    n_blocks = logits.shape[-1] // BLOCK
    if logits.device.type != "cpu" or n_blocks < 4 * k:
        return logits.topk(k, dim=-1)
    end = n_blocks * BLOCK
    blocks = logits[:, :end].unflatten(-1, (n_blocks, BLOCK))
    _, best = blocks.amax(-1).topk(k, dim=-1)  # (N, k)
    among = blocks.gather(1, best.unsqueeze(-1).expand(-1, -1, BLOCK)).flatten(1)
    top, places = torch.cat((among, logits[:, end:]), -1).topk(k, dim=-1)  # (N, k)
    block = best.gather(1, (places // BLOCK).clamp(max=k - 1))
    return top, torch.where(places < k * BLOCK, block * BLOCK + places % BLOCK, places - k * BLOCK + end)


def best_tokens(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return log p of each row's `k` likeliest tokens, of `logits` (N, V), and the tokens, both (N, k).

    log p = logit - logsumexp is needed for these alone. A row without any possible token has -inf - -inf, and gets -inf.
    """
    log_p, tokens = [], []
    for rows in logits.split(rows_at_once(logits)):
        top, places = largest(rows, k)
        log_p.append((top - rows.logsumexp(-1, keepdim=True)).masked_fill(top == IMPOSSIBLE, IMPOSSIBLE))
        tokens.append(places)
    return torch.cat(log_p), torch.cat(tokens)


def best_candidates(logits: Tensor, rows: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best `k` continuations of `rows` (N,) as (scores, parent beams, tokens), each (B, k), best first.

    `logits` (N, V), `scores` (B, K). Of each beam its own k best tokens can be among them alone.
    """
    B, K = scores.shape
    log_p, tokens = best_tokens(logits, min(k, logits.shape[-1]))  # (N, min(k, V))
    own = scores.flatten()[rows].unsqueeze(-1) + log_p
    totals = own.new_full((B * K, k), IMPOSSIBLE)  # a tiny vocabulary fills only some of the k
    totals[rows, : own.shape[-1]] = own
    of_beams = tokens.new_zeros(B * K, k)
    of_beams[rows, : own.shape[-1]] = tokens
    best, places = totals.view(B, K * k).topk(k, dim=-1)  # (B, k)
    return best, places // k, of_beams.view(B, K * k).gather(1, places)


def divisor_at(length: int, config: BeamConfig) -> float:
    """Return what a score is divided by at `length`: a float, for no tensor is divided by the whole number 200 ** 10."""
    return length ** float(config.length_penalty)


def advance(
    logits: Tensor, rows: Tensor, beams: Beams, config: BeamConfig, overwrite: bool = False
) -> tuple[Beams, Tensor]:
    """Take one step with the `logits` (N, V) of `rows` (N,): return the new state and each new beam's parent (B, K).

    With `overwrite` the rules are applied to the caller's logits themselves.

    A kept beam whose last token is an end token has ended: it becomes the sentence's best if strictly better, and its
    running score -inf. After the last step, beams that have not ended count as well.
    """
    logits = next_logits(logits, beams.tokens.flatten(0, 1)[rows], config, overwrite)
    scores, parents, tokens = best_candidates(logits, rows, beams.scores, config.beam)
    G = beams.tokens.shape[-1]
    history = beams.tokens.gather(1, parents.unsqueeze(-1).expand(-1, -1, G))
    history = torch.cat([history, tokens.unsqueeze(-1)], dim=-1)  # (B, K, G + 1)

    ended = torch.isin(tokens, end_tokens(config.eos_token_ids, tokens.device))  # (B, K)
    counts = torch.ones_like(ended) if G + 1 == config.eval_len else ended
    normalised = (scores / divisor_at(G + 1, config)).masked_fill(~counts, IMPOSSIBLE)
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


def can_win(beams: Beams, bar: Tensor, config: BeamConfig) -> Tensor:
    """Return (B, K) bool: the beam can still become strictly better than `bar` (B,), a score / length ** length_penalty.

    A running score s ≤ 0 only falls, so whatever the beam becomes, at length L, scores at most s / L ** p. For p ≥ 0 that
    bound is highest at L = eval_len, for p < 0 at the next length. Not to search on a beam that cannot win changes nothing:
    what its continuations would push out of the best K scores no more than they do, and cannot win either.
    """
    divisor = max(divisor_at(beams.tokens.shape[-1] + 1, config), divisor_at(config.eval_len, config))
    return beams.scores / divisor > bar.unsqueeze(-1)


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
        assert beams.ended_scores is not None  # it is None before the first step alone
        scores = torch.cat([self.scores[sentences], beams.ended_scores], dim=1)  # (B, n + K)
        scores, order = scores.sort(dim=1, descending=True, stable=True)  # as good as an earlier one is not better
        order = order[:, : self.n]
        self.scores[sentences] = scores[:, : self.n]  # the last is what a beam must beat to become one of the n
        self.tokens[sentences] = tokens.gather(1, order.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def check_scores(beams: Beams, searching: Tensor) -> None:
    """Raise NotANumber if a score is none; row i of `beams` is prompt searching[i]. Once a beam's is none, so are its children's."""
    broken = beams.scores.isnan().any(dim=1).nonzero().squeeze(-1)
    if len(broken):
        raise NotANumber(int(searching[broken[0]]))


class NotANumber(Exception):
    """The logits for a prompt are no numbers; `prompt` is its index."""

    def __init__(self, prompt: int):
        self.prompt = prompt


@torch.inference_mode()
def beam_search(
    model: GPT2,
    prompts: Sequence[Sequence[int]],
    config: BeamConfig,
    endings: Endings | None = None,
    compiled: bool = False,
    steps: list[int] | None = None,
) -> list[list[int]]:
    """Return for each prompt the ids of its best hypothesis, padded with 0 to eval_len.

    A prompt is one or more ids, and len(prompt) + eval_len may not exceed the model's positions. The result does not depend
    on which prompts share the batch, up to the rounding of the matrix products. With `endings` the search ends when those
    are decided as well, and the result is the same. So it is with `compiled`, where COMPILED_STEPS steps in a row have the same
    shapes: beams that cannot win are searched on with the others, and a GPU records these steps. `steps` is filled with how many
    each prompt was searched for. Raises NotANumber.
    """
    cache, logits = prefill(model, prompts, config)
    device, B = logits.device, len(prompts)
    beams = start_beams(B, config, like=logits)
    if endings is not None:
        endings.start(beams)
    results = torch.zeros(B, config.eval_len, dtype=torch.int64, device=device)
    searching = torch.arange(B, device=device)  # which prompt each sentence of the batch is
    searched = torch.ones(B, dtype=torch.int64, device=device)  # the first step is everyone's
    logits_of: Callable[..., Tensor] = functools.partial(next_token_logits, model, cache)
    for step in range(config.eval_len):
        beams, parents = advance(logits, cache.rows, beams, config, overwrite=True)
        is_last = step + 1 == config.eval_len
        shapes_change = not is_last and cache.is_full  # without `compiled` in every step
        if shapes_change or is_last:
            check_scores(beams, searching)
        results[searching] = beams.best_tokens
        if endings is not None:
            endings.add(beams, searching)
        if is_last:
            break
        if shapes_change:  # else a GPU is not waited for
            alive = can_win(beams, beams.best_scores if endings is None else endings.scores[searching, -1], config)
            undecided = alive.any(dim=1).nonzero().squeeze(-1)
            if len(undecided) == 0:
                break
            searched[searching[undecided]] = step + 2
            if len(undecided) <= SHRINK_AT * len(searching):
                searching, beams = searching[undecided], beams.select(undecided)
                parents, alive = parents[undecided], alive[undecided]
                cache.select(undecided)
            cache.rows = (torch.ones_like(alive) if compiled else alive).flatten().nonzero().squeeze(-1)
        cache.reorder(parents, COMPILED_STEPS if compiled else 1)
        tokens = beams.tokens[..., -1].flatten()[cache.rows]  # (N,)
        positions = (cache.lengths + step)[cache.rows // config.beam]  # (N,)
        if compiled and shapes_change and device.type == "cuda":
            logits_of = CompiledStep(functools.partial(next_token_logits, model, cache), tokens, positions)
        logits = logits_of(tokens, positions)
    if steps is not None:
        steps[:] = searched.tolist()
    return results.tolist()


def prefill(model: GPT2, prompts: Sequence[Sequence[int]], config: BeamConfig) -> tuple[Cache, Tensor]:
    """Return a cache that holds the prompts, and the logits (B, V) after each."""
    device = model.wte.weight.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    cache = Cache(model, lengths, config)
    last = torch.arange(len(prompts), device=device) * ids.shape[1] + lengths - 1  # (B,), counted through all rows
    hidden = model(ids.to(device), attend=cache.prefill, keep=last)  # (B, C)
    return cache, at_least_float32(model.logits(hidden))


def next_token_logits(model: GPT2, cache: Cache, tokens: Tensor, positions: Tensor) -> Tensor:
    """Return the logits (N, V) after the newest tokens (N,), at `positions` (N,), of the cache's rows."""
    return at_least_float32(model.logits(model(tokens, positions, attend=cache.extend)))
