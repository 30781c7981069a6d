"""What a training run says: a line each log interval on stdout, the same in full precision in log.jsonl, a bar on a terminal."""

import contextlib
import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor
from tqdm import tqdm

from lora_nlg.errors import visible
from lora_nlg.training.best import IN_WORDS, Best
from lora_nlg.training.curve import TOLERANCE, Curve, is_on
from lora_nlg.training.trackers import Tracker, said, start

FILE = "log.jsonl"


def perplexity(loss: float) -> float:
    """Return exp(loss); infinity where that is too large for a float."""
    return math.inf if loss > 700 else math.exp(loss)


@dataclass(frozen=True)
class Text:
    """What the model wrote for a validation input, and what people did."""

    input: str
    output: str
    references: list[str]


@dataclass(frozen=True)
class Sample:
    """What a model made of validation inputs: BLEU of all that were decoded, and some of them to look at."""

    bleu: float  # from 0 to 1, as step 6 shows its own
    how: str  # in words: how it was decoded, how BLEU counts
    n_inputs: int
    shown: list[Text]


@dataclass(frozen=True)
class Skipped:
    """A micro-batch that was left out."""

    step: int
    items: list[int]  # counted from 0
    reason: str
    rank: int


def warn(text: str) -> None:
    """Say on standard error what does not end the run: where that cannot be written either, nothing more is said there."""
    try:
        print(f"warning: {text}", file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Let what is written to a standard file go nowhere from now on."""
    with contextlib.suppress(OSError, ValueError):  # a notebook's has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Log:
    """The log of one run. `state` is that of the run it resumes, whose later lines are cut off."""

    def __init__(
        self,
        work_dir: Path,
        max_step: int,
        is_main: bool,
        curve: Curve | None = None,
        state: dict | None = None,
        step: int = 0,
    ):
        self.is_main, self.curve = is_main, curve
        self.bar = tqdm(total=max_step, initial=step, desc="training", unit="step", disable=None if is_main else True)
        path = Path(work_dir) / FILE
        if is_main and state is not None and path.is_file() and path.stat().st_size > state["bytes"]:
            os.truncate(path, state["bytes"])
        # Stays open for the whole run, so that each line is there to follow as soon as it is written; unbuffered, so that a line
        # that does not fit on the disk is known at once.
        self.file = open(path, "wb" if state is None else "ab", buffering=0) if is_main else None  # noqa: SIM115
        self.lines_lost = 0
        self.trackers: dict[str, Tracker] = {}  # by name
        self.work_dir, self.step, self.tracked_before = Path(work_dir), step, (state or {}).get("trackers", {})
        self._start_interval()
        if state is not None:
            self.losses, self.n_tokens = list(state["losses"]), state["n_tokens"]
            self.started -= state["seconds"]

    def track(self, names: Iterable[str], settings: dict) -> None:
        """Send the curves to these trackers, too; called on the main rank. Raises UserError if one does not start."""
        for name in names:
            self.trackers[name] = start(name, self.work_dir, self.step, settings, self.tracked_before.get(name))

    def _start_interval(self) -> None:
        self.losses, self.n_tokens, self.pauses, self.started = [], 0, 0.0, time.perf_counter()

    def _seconds(self) -> float:
        return time.perf_counter() - self.started - self.pauses

    def state(self) -> dict:
        """Return what it takes to resume this log: the unfinished interval, and where its file ends."""
        losses = self._stacked().cpu() if self.losses else torch.zeros(0)
        n_bytes = self.file.seek(0, os.SEEK_END) if self.file else 0
        ids = {name: tracker.id for name, tracker in self.trackers.items() if tracker.id is not None}
        return dict(
            losses=losses,
            n_tokens=self.n_tokens,
            seconds=self._seconds(),
            bytes=n_bytes,
            trackers=self.tracked_before | ids,
        )

    def _stacked(self) -> Tensor:
        """Return the losses of the interval, (micro-batches,), on the newest one's device: a save's are on the CPU."""
        return torch.stack([loss.to(self.losses[-1].device) for loss in self.losses])

    def add(self, loss: Tensor, n_tokens: int) -> None:
        """Count one micro-batch. `loss` stays on its device: fetching it would make every step wait for the GPU."""
        self.losses.append(loss)
        self.n_tokens += n_tokens
        self.bar.update()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the time of the block, a validation or a save, out of ms/batch."""
        started = time.perf_counter()
        yield
        self.pauses += time.perf_counter() - started

    def interval(self, epoch: int, step: int, in_epoch: int, lr: float, next_lr: float) -> None:
        """Report the micro-batches since the last call; avg_loss is over these alone."""
        if not self.losses:  # every one of them was left out
            return
        losses = self._stacked().double()
        loss, avg_loss = losses[-1].item(), losses.mean().item()
        ppl = perplexity(avg_loss)
        seconds = self._seconds()
        ms_per_batch = 1000 * seconds / len(losses)
        # Kept for parity: the printed rate is that of the next micro-batch; log.jsonl has the one that was used.
        line = (
            f"epoch {epoch:3d} | step {step:7d} | batches {in_epoch:6d} | lr {next_lr:.3g} | ms/batch {ms_per_batch:.1f} | "
            f"loss {loss:.2f} | avg loss {avg_loss:.2f} | ppl {ppl:.2f}"
        )
        fields = dict(step=step, epoch=epoch, lr=lr, loss=loss, avg_loss=avg_loss, ppl=ppl)
        fields |= dict(ms_per_batch=ms_per_batch, tokens_per_s=self.n_tokens / seconds)
        self._write(line, fields)
        self._plot(
            step,
            {"loss/training": avg_loss, "lr": lr, "ms_per_batch": ms_per_batch, "tokens_per_s": fields["tokens_per_s"]},
        )
        self._start_interval()
        published = self.curve.published(step) if self.curve else None
        if self.curve is not None and published is not None:
            self._compare(self.curve, step, avg_loss, published)

    def _compare(self, curve: Curve, step: int, avg_loss: float, published: float) -> None:
        """Say whether the run is on the published curve."""
        on_curve = is_on(avg_loss, published)
        off = f"OFF the curve by more than {TOLERANCE}: not the recipe of {curve.path}"
        line = f"curve | step {step:7d} | avg loss {avg_loss:.2f} | published {published:.2f} | "
        fields = dict(step=step, avg_loss=avg_loss, published=published, on_curve=on_curve)
        self._write(line + ("on the curve" if on_curve else off), {"curve": fields})

    def validating(self, step: int, n_batches: int) -> None:
        """Say that a validation pass begins."""
        self.say(f"validating | step {step:7d} | {n_batches:,} batches")

    def validation(self, step: int, loss: float, seconds: float, label_smooth: float = 0.0) -> None:
        """Report a validation pass; `label_smooth` is what the training losses have and this one has not."""
        ppl = perplexity(loss)
        line = f"validation | step {step:7d} | valid loss {loss:.2f} | valid ppl {ppl:.2f} | {seconds:.1f} s"
        if label_smooth:
            line += " | without label smoothing, which the training loss has"
        self._write(line, {"eval": dict(step=step, valid_loss=loss, valid_ppl=ppl, seconds=seconds)})
        self._plot(step, {"loss/validation": loss})

    def texts(self, step: int, sample: Sample, seconds: float) -> None:
        """Report validation inputs that were decoded."""
        line = f"texts | step {step:7d} | BLEU {sample.bleu:.4f} of {sample.n_inputs:,} inputs | {sample.how} | {seconds:.1f} s"
        fields = dict(step=step, bleu=sample.bleu, n_inputs=sample.n_inputs, how=sample.how, seconds=seconds)
        self._write(line, {"texts": fields | {"shown": [vars(text) for text in sample.shown]}})
        for text in sample.shown:
            self.say(f"  input     {visible(text.input)}")
            self.say(f"  output    {visible(text.output)}")
            for reference in text.references:
                self.say(f"  reference {visible(reference)}")
        self._plot(step, {"bleu/validation": sample.bleu})

    def early_stop(self, step: int, best: Best) -> None:
        """Report that the run ends before its schedule."""
        line = f"early stop | step {step:7d} | {best.since} validations without a better {IN_WORDS[best.select]} than {best.value:.4f}"
        fields = dict(step=step, select=best.select, best=best.value, validations=best.since)
        self._write(line, {"early_stop": fields})

    def skipped(self, skipped: Skipped) -> None:
        """Report a micro-batch that was left out."""
        where = f"rank {skipped.rank} | " if skipped.rank else ""
        items = ", ".join(map(str, skipped.items))
        self._write(
            f"skipped | step {skipped.step:7d} | {where}{skipped.reason} | items {items}", {"skipped": vars(skipped)}
        )

    def saving(self, step: int) -> None:
        """Say that a save begins. log.jsonl is without it: how often a run saves, or is cut, changes nothing there."""
        self.say(f"saving | step {step:7d}")

    def saved(self, step: int, files: Iterable[str]) -> None:
        """Say what was saved."""
        self.say(f"saved | step {step:7d} | {', '.join(files)}")

    def say(self, line: str) -> None:
        """Print a line that is not in log.jsonl."""
        if self.file is not None:  # on the main rank
            self._print(line)

    def _plot(self, step: int, values: dict[str, float]) -> None:
        self._of_trackers(lambda tracker: tracker.add(step, values))

    def _of_trackers(self, do: Callable[[Tracker], None]) -> None:
        """Have every tracker do something. The run is worth more than its curves elsewhere: one that fails is left out."""
        for name, tracker in list(self.trackers.items()):
            try:
                do(tracker)
            except Exception as error:  # a client can raise anything
                del self.trackers[name]
                warn(
                    f"{name} takes nothing more of this run ({visible(said(error))}); the training goes on without it, and {FILE} has "
                    "everything"
                )

    def _write(self, line: str, fields: dict) -> None:
        if self.file is not None:  # on the main rank
            self._append(json.dumps(fields) + "\n")  # not a number and infinity as NaN and Infinity
            self._print(line)

    def _print(self, line: str) -> None:
        """Print a line above the bar. The run is worth more than the line: where it cannot be written, warn once, and go on."""
        try:
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()
        except OSError as error:  # a full disk, or a reader that went away
            silence(sys.stdout)
            warn(f"what the training says cannot be written ({error.strerror}); it goes on, and {FILE} has everything")

    def _append(self, line: str) -> None:
        """Write a line to log.jsonl, whole or not at all. Without room for it the run is worth more than the line: warn, and go on."""
        assert self.file is not None
        content, end = line.encode(), self.file.seek(0, os.SEEK_END)
        try:
            if self.file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.file.truncate(end)
            if not self.lines_lost:
                warn(
                    f"{self.file.name} cannot be written ({error.strerror}), so lines will be missing there; the training goes on, "
                    "free some space before its next save"
                )
            self.lines_lost += 1

    def close(self) -> None:
        """End the bar and the file."""
        if self.lines_lost:
            warn(f"{self.lines_lost:,} lines of log.jsonl could not be written")
            self.lines_lost = 0
        self.bar.close()
        if self.file:
            self.file.close()
        self._of_trackers(lambda tracker: tracker.close())
