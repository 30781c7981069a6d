"""Training: the loop, what it logs, and what it leaves in the work dir."""

import contextlib
import itertools
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from lora_nlg import checkpoints, dist
from lora_nlg.config import OptimConfig, TrainConfig
from lora_nlg.curve import TOLERANCE, Curve, is_on
from lora_nlg.examples import Batch, Example, ItemOrder, collate
from lora_nlg.gpt2 import GPT2
from lora_nlg.lora import adapter_config, adapter_tensors
from lora_nlg.losses import masked_loss
from lora_nlg.optim import build_optimizer, learning_rate


class Split:
    """One encoded file as the batches of this rank."""

    def __init__(self, examples: list[Example], config: TrainConfig, ranks: dist.Ranks, validation: bool = False):
        self.examples, self.config, self.device = examples, config, ranks.device
        # Kept for parity: validation is on the completion, also when training is on the context as well.
        self.objective = "clm" if validation else config.objective
        batch_size = config.valid_batch_size if validation else config.train_batch_size
        self.order = ItemOrder(
            len(examples), batch_size, config.random_seed, ranks.world_size, ranks.rank, drop_last=not validation
        )

    def stream(self) -> Iterator[tuple[int, int, Batch]]:
        """Yield (epoch, number of the batch in it, batch), both counted from 1, for max_epoch epochs or without end."""
        epochs = itertools.count(1) if self.config.max_epoch is None else range(1, self.config.max_epoch + 1)
        for epoch in epochs:
            for in_epoch, batch in enumerate(self.batches(epoch), 1):
                yield epoch, in_epoch, batch

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of `epoch`, on this rank's device."""
        for items in self.order.epoch(epoch):
            batch = collate([self.examples[i] for i in items], self.config.seq_len, self.objective)
            yield batch.to(self.device)


@torch.no_grad()
def validation_loss(model: GPT2, valid: Split, ranks: dist.Ranks) -> float:
    """Return the mean over batches, and over ranks, of the unsmoothed batch losses."""
    model.eval()
    losses = []
    batches = valid.batches(epoch=0)
    total = -(-valid.order.n_batches // ranks.world_size)
    for batch in tqdm(batches, "validating", total, unit="batch", leave=False, disable=None if ranks.is_main else True):
        with dist.autocast(ranks.device, valid.config.precision):
            losses.append(masked_loss(model, batch))
    model.train()
    return dist.mean_over_ranks(torch.stack(losses).mean(), ranks.world_size).item()


def perplexity(loss: float) -> float:
    """Return exp(loss); infinity where that is too large for a float."""
    return math.inf if loss > 700 else math.exp(loss)


class Log:
    """What a run says: a line each log interval on stdout, the same in full precision in log.jsonl, a bar on a terminal."""

    def __init__(self, work_dir: Path, max_step: int, is_main: bool, curve: Curve | None = None):
        self.is_main, self.curve = is_main, curve
        self.bar = tqdm(total=max_step, desc="training", unit="step", disable=None if is_main else True)
        # Stays open for the whole run, so that each line is there to follow as soon as it is written.
        self.file = open(work_dir / "log.jsonl", "w", encoding="utf-8") if is_main else None  # noqa: SIM115
        self._start_interval()

    def _start_interval(self) -> None:
        self.losses, self.n_tokens, self.pauses, self.started = [], 0, 0.0, time.perf_counter()

    def add(self, loss: Tensor, batch: Batch) -> None:
        """Count one micro-batch. `loss` stays on its device: fetching it would make every step wait for the GPU."""
        self.losses.append(loss)
        self.n_tokens += batch.n_tokens
        self.bar.update()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the time of the block, a validation or a save, out of ms/batch."""
        started = time.perf_counter()
        yield
        self.pauses += time.perf_counter() - started

    def interval(self, epoch: int, step: int, in_epoch: int, lr: float, next_lr: float) -> None:
        """Report the micro-batches since the last call; avg_loss is over these alone."""
        losses = torch.stack(self.losses).double()
        loss, avg_loss = losses[-1].item(), losses.mean().item()
        ppl = perplexity(avg_loss)
        seconds = time.perf_counter() - self.started - self.pauses
        ms_per_batch = 1000 * seconds / len(losses)
        # Kept for parity: the printed rate is that of the next micro-batch; log.jsonl has the one that was used.
        line = (
            f"epoch {epoch:3d} | step {step:7d} | batches {in_epoch:6d} | lr {next_lr:.3g} | ms/batch {ms_per_batch:.1f} | "
            f"loss {loss:.2f} | avg loss {avg_loss:.2f} | ppl {ppl:.2f}"
        )
        fields = dict(step=step, epoch=epoch, lr=lr, loss=loss, avg_loss=avg_loss, ppl=ppl)
        self._write(line, dict(fields, ms_per_batch=ms_per_batch, tokens_per_s=self.n_tokens / seconds))
        self._start_interval()
        published = self.curve.published(step) if self.curve else None
        if published is not None:
            self._compare(step, avg_loss, published)

    def _compare(self, step: int, avg_loss: float, published: float) -> None:
        """Say whether the run is on the published curve."""
        on_curve = is_on(avg_loss, published)
        line = f"curve | step {step:7d} | avg loss {avg_loss:.2f} | published {published:.2f} | "
        line += (
            "on the curve"
            if on_curve
            else f"OFF the curve by more than {TOLERANCE}: not the recipe of {self.curve.path}"
        )
        self._write(line, {"curve": dict(step=step, avg_loss=avg_loss, published=published, on_curve=on_curve)})

    def validation(self, step: int, loss: float, seconds: float) -> None:
        """Report a validation pass."""
        ppl = perplexity(loss)
        line = f"validation | step {step:7d} | valid loss {loss:.2f} | valid ppl {ppl:.2f} | {seconds:.1f} s"
        self._write(line, {"eval": dict(step=step, valid_loss=loss, valid_ppl=ppl, seconds=seconds)})

    def _write(self, line: str, fields: dict) -> None:
        if self.is_main:
            self.file.write(json.dumps(fields) + "\n")  # not a number and infinity as NaN and Infinity
            self.file.flush()
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        """End the bar and the file."""
        self.bar.close()
        if self.file:
            self.file.close()


def train(
    model: GPT2,
    train_split: Split,
    valid: Split,
    optim: OptimConfig,
    work_dir: Path,
    ranks: dist.Ranks,
    base: checkpoints.Base | None = None,
    curve: Curve | None = None,
) -> float:
    """Train `model` for `optim.max_step` micro-batches and return the validation loss at the end.

    Writes model.STEP.pt every save_interval, model.final.pt and adapter.safetensors at the end, and log.jsonl. `base` goes
    into the files of adapters; with `curve` the log says whether the run is on it.
    """
    config = train_split.config
    optimizer = build_optimizer(model, optim)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    scaler = torch.amp.GradScaler(ranks.device.type, enabled=config.precision == "fp16")
    log = Log(work_dir, optim.max_step, ranks.is_main, curve)

    def validate(step: int) -> float:
        with log.paused():
            started = time.perf_counter()
            loss = validation_loss(model, valid, ranks)
            log.validation(step, loss, time.perf_counter() - started)
        return loss

    def save(name: str) -> None:
        if ranks.is_main:
            with log.paused():
                checkpoints.save_recipe(model, work_dir / name, base, step)

    model.train()
    for step, (epoch, in_epoch, batch) in zip(range(1, optim.max_step + 1), train_split.stream(), strict=False):
        lr = learning_rate(optim, step - 1)
        with dist.autocast(ranks.device, config.precision):
            loss = masked_loss(model, batch, config.label_smooth)
        scaler.scale(loss / optim.grad_acc).backward()
        if step % optim.grad_acc == 0:
            dist.average_gradients(trained, ranks.world_size)
            scaler.unscale_(optimizer)
            if optim.clip > 0:
                torch.nn.utils.clip_grad_norm_(trained, optim.clip)
            for group in optimizer.param_groups:
                group["lr"] = lr
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        log.add(loss.detach(), batch)

        if step % config.log_interval == 0:
            log.interval(epoch, step, in_epoch, lr, learning_rate(optim, step))
        if step % config.eval_interval == 0:
            valid_loss = validate(step)
        if step % config.save_interval == 0:
            save(f"model.{step}.pt")
    if step % config.eval_interval:
        valid_loss = validate(step)
    save("model.final.pt")
    if ranks.is_main and (lora := adapter_config(model)):
        checkpoints.save_adapters(adapter_tensors(model), work_dir / "adapter.safetensors", lora, base, step)
    log.close()
    return valid_loss
