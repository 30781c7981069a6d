"""Pretrain a small base on documents, with an output layer over the used tokens only.

GPT-2's vocabulary has 50 257 tokens, these texts use a few thousand. All others share one embedding row, which stands in
the softmax once, weighted with their number: exactly the full softmax over 50 257 tokens of which those are tied.

Alphabet: B rows, T tokens a row, U used tokens, V = 50 257.
"""

import dataclasses
import math
import sys
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from lora_nlg.config import END_OF_TEXT_ID, GPT2_VOCAB_SIZE, ModelConfig, OptimConfig
from lora_nlg.model.gpt2 import GPT2, empty_model, init_weights
from lora_nlg.training.optim import build_optimizer, learning_rate

LOG_INTERVAL = 100  # steps


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


def tied_loss(model: GPT2, window: Tensor) -> Tensor:
    """Return the mean cross-entropy of `window` (B, T + 1), ids below U + 1, under the softmax over all V tokens.

    The model's last logit is that of each of the V - U unused tokens, so it counts V - U times.
    """
    logits = model.logits(model(window[:, :-1])).float()  # (B, T, U + 1)
    n_unused = GPT2_VOCAB_SIZE - (logits.shape[-1] - 1)
    weights = F.pad(logits.new_zeros(logits.shape[-1] - 1), (0, 1), value=math.log(n_unused))  # (U + 1,)
    return F.cross_entropy((logits + weights).flatten(0, 1), window[:, 1:].flatten())


def pretrain(ids: Tensor, used: Tensor, config: ModelConfig, optim: OptimConfig, rows: int, seed: int) -> GPT2:
    """Train on random stretches of `ids`, `rows` rows of n_positions tokens a step, and return the model.

    Its vocabulary is `used` (U sorted ids), in that order, and last the row that all other tokens share.
    """
    T = config.n_positions
    compact = torch.searchsorted(used, ids)
    generator = torch.Generator().manual_seed(seed)
    model = empty_model(dataclasses.replace(config, vocab_size=len(used) + 1))
    init_weights(model, generator)
    optimizer = build_optimizer(model, optim)
    losses = []
    for step in tqdm(range(1, optim.max_step + 1), "pretraining", unit="step", disable=None):
        starts = torch.randint(len(compact) - T, (rows,), generator=generator)
        loss = tied_loss(model, compact[starts[:, None] + torch.arange(T + 1)])
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
