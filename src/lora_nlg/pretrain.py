"""Pretrain a small base on documents, with an output layer over the used tokens only.

GPT-2's vocabulary has 50 257 tokens, these texts use a few thousand. All others share one embedding row, which stands in
the softmax once, weighted with their number: exactly the full softmax over 50 257 tokens of which those are tied.

Alphabet: B rows, T tokens a row, U used tokens, V vocabulary.
"""

import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from lora_nlg.config import END_OF_TEXT, GPT2_VOCAB_SIZE, ModelConfig, OptimConfig
from lora_nlg.gpt2 import GPT2, empty_model, init_weights
from lora_nlg.optim import build_optimizer, learning_rate
from lora_nlg.train import autocast


def pack(documents: Iterator[str], encoding, n_tokens: int) -> Tensor:
    """Return at least `n_tokens` ids (int64) of documents one after the other, each closed by the end-of-text token."""
    ids = []
    with tqdm(total=n_tokens, desc="encoding documents", unit="token", unit_scale=True, disable=None) as bar:
        for document in documents:
            before = len(ids)
            ids.extend(encoding.encode_ordinary(document))
            ids.append(END_OF_TEXT)
            bar.update(len(ids) - before)
            if len(ids) >= n_tokens:
                return torch.tensor(ids)
    raise ValueError("the documents ended early")


def used_tokens(ids: Tensor) -> Tensor:
    """Return the distinct ids (U,) of `ids`, sorted."""
    return ids.unique()


def pretrain(
    ids: Tensor, used: Tensor, config: ModelConfig, optim: OptimConfig, rows: int, seed: int, precision: str
) -> GPT2:
    """Train on consecutive stretches of `ids`, `rows` rows of n_positions tokens a step, and return the model.

    The returned model's vocabulary is the U used tokens, in the order of `used` (sorted), and last the row of all others.
    """
    T, U = config.n_positions, len(used)
    n_other = GPT2_VOCAB_SIZE - U
    compact = torch.searchsorted(used, ids)
    generator = torch.Generator().manual_seed(seed)
    model = empty_model(ModelConfig(config.n_embd, config.n_layer, config.n_head, T, U + 1))
    init_weights(model, generator)
    optimizer = build_optimizer(model, optim)
    tied = torch.zeros(U + 1)
    tied[U] = math.log(n_other)
    started, losses = time.perf_counter(), []
    bar = tqdm(range(optim.max_step), "pretraining", unit="step", disable=None)
    for step in bar:
        starts = torch.randint(len(compact) - T - 1, (rows,), generator=generator)
        window = compact[starts[:, None] + torch.arange(T + 1)]  # (B, T + 1)
        with autocast(torch.device("cpu"), precision):
            logits = model.logits(model(window[:, :-1]))  # (B, T, U + 1)
        loss = F.cross_entropy((logits.float() + tied).flatten(0, 1), window[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(optim, step + 1)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            mean = sum(losses[-100:]) / 100
            tqdm.write(f"step {step + 1} | loss {mean:.3f} | {time.perf_counter() - started:.0f} s")
    return model
