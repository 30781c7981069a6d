"""Decode a file's contexts: distinct ones once, sorted by length, batched, shared among the ranks, kept as they come."""

import hashlib
import json
import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lora_nlg import dist, errors
from lora_nlg.config import BeamConfig, flat
from lora_nlg.decoding.beam import NotANumber, beam_search
from lora_nlg.errors import UserError
from lora_nlg.model.gpt2 import GPT2

Context = tuple[int, ...]


@dataclass(frozen=True)
class Decoded:
    """One context's prediction."""

    context: Context
    predict: list[int]
    seconds: float  # its share of the time that its batch took, by the steps that it was searched for


class Partial:
    """What is decoded so far, a line each in a file beside the output, so that a killed process loses one batch at most.

    The first line is `settings`, all that decides a prediction: a file with others is not resumed, but kept by a name of its
    own, until these settings come again. Raises UserError when the file cannot be written.
    """

    def __init__(self, path: Path, settings: dict, resume: bool):
        self.path, self.settings = path, json.dumps(settings)
        self.vocab_size, self.eval_len = settings["model"]["vocab_size"], settings["search"]["eval_len"]
        self.decoded: dict[Context, Decoded] = {}
        try:
            if path.is_file():
                self._put_aside()
            aside = self._name_aside(self.settings)
            if resume and aside.is_file() and not path.exists():
                aside.replace(path)
            whole = self._read() if resume and path.is_file() else 0
            if whole:
                os.truncate(path, whole)  # a killed process may have left half a line
        except OSError as error:
            raise UserError(f"cannot go on from {path}: {error.strerror}; check its rights, or remove it") from error
        if not whole:
            self._append([self.settings], "w")

    def _put_aside(self) -> None:
        """Rename a file of other settings; one without predictions is nothing to keep."""
        with open(self.path, "rb") as file:
            theirs, has_predictions = file.readline().decode("utf-8", "replace").rstrip("\n"), file.readline() != b""
        if theirs == self.settings:
            return
        if not has_predictions:
            self.path.unlink()
            return
        aside = self._name_aside(theirs)
        self.path.replace(aside)
        errors.say(f"{self.path} has other settings ({differences(theirs, self.settings)}), so it is kept as {aside}")

    def _name_aside(self, settings: str) -> Path:
        """Return what the file is called while others are decoded with, by its settings: none is written over another."""
        return self.path.with_suffix(f".{hashlib.sha256(settings.encode()).hexdigest()[:8]}.jsonl")

    def _read(self) -> int:
        """Take over the whole lines of the file and return their length in bytes; 0 without the line of these settings."""
        whole = 0
        for line in self.path.read_bytes().splitlines(keepends=True):
            if whole == 0 and line.decode("utf-8", "replace") != self.settings + "\n":
                return 0
            if whole:
                one = self._decoded(line)
                if one is None or one.context in self.decoded:  # no context is decoded twice
                    break  # what is after it is decoded again
                self.decoded[one.context] = one
            whole += len(line)
        return whole

    def _decoded(self, line: bytes) -> Decoded | None:
        """Return the prediction that a line holds, None if it is not what `add` writes: cut off, or damaged."""
        try:
            fields = json.loads(line)
            context, predict, seconds = fields["context"], fields["predict"], fields["seconds"]
            right = (
                type(seconds) is float
                and 0 <= seconds < math.inf
                and len(predict) == self.eval_len
                and len(context) > 0
            )
            right &= all(type(i) is int and 0 <= i < self.vocab_size for ids in (context, predict) for i in ids)
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        return Decoded(tuple(context), predict, seconds) if right and line.endswith(b"\n") else None

    def add(self, several: Iterable[Decoded]) -> None:
        """Keep predictions, and write them down."""
        several = list(several)
        self.decoded |= {one.context: one for one in several}
        self._append([json.dumps(vars(one)) for one in several], "a")

    def _append(self, lines: list[str], mode: str) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, mode, encoding="utf-8") as file:
                file.writelines(line + "\n" for line in lines)
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror}; check its folder's rights and free space"
            ) from error

    def remove(self) -> None:
        """Delete the file, once the whole output is written."""
        self.path.unlink(missing_ok=True)


def differences(theirs: str, ours: str) -> str:
    """Return which settings of two decodings, each a line of JSON, are not the same, and the start of what they are."""
    try:
        one, two = flat(json.loads(theirs)), flat(json.loads(ours))
    except (ValueError, RecursionError, AttributeError):
        return "they cannot be read"
    differ = [name for name in one | two if one.get(name) != two.get(name)]
    return "; ".join(f"{name} {str(one.get(name))[:20]}, now {str(two.get(name))[:20]}" for name in differ)


def decode(
    model: GPT2,
    contexts: Sequence[list[int]],
    config: BeamConfig,
    batch_size: int,
    ranks: dist.Ranks,
    precision: str,
    partial: Partial | None,
    compiled: bool = False,
) -> list[Decoded] | None:
    """Return the prediction for every context, in order, on the main rank and None on the others.

    E2E's test file has 4 693 lines but 630 distinct inputs; each of those is decoded once. `partial` (main rank only) holds
    what an earlier process has decoded, and takes every batch as it comes. `compiled` as `beam_search` has it.
    """
    distinct = sorted({tuple(context) for context in contexts}, key=lambda context: (len(context), context))
    done = dist.from_main(None if partial is None else set(partial.decoded), ranks)
    missing = [context for context in distinct if context not in done]
    mine = missing[ranks.rank :: ranks.world_size]  # every rank gets short and long ones alike
    model.eval()
    bar = tqdm(
        total=len(distinct), initial=len(done), desc="decoding", unit="input", disable=None if ranks.is_main else True
    )
    with bar:
        for first in range(0, -(-len(missing) // ranks.world_size), batch_size):  # as many batches on every rank
            batch = mine[first : first + batch_size]  # none are left on the last ranks at the end
            started, steps = time.perf_counter(), [1] * len(batch)
            try:
                with dist.autocast(ranks.device, precision):
                    found = beam_search(model, batch, config, compiled=compiled, steps=steps) if batch else []
            except NotANumber as error:
                line = contexts.index(list(batch[error.prompt])) + 1
                raise UserError(
                    f"the logits for input {line} of the data (counted from 1) are no numbers, so nothing can be chosen; "
                    "check the weights, or decode with --precision fp32"
                ) from error
            a_step = (time.perf_counter() - started) / max(1, sum(steps))
            decoded = [Decoded(context, ids, n * a_step) for context, ids, n in zip(batch, found, steps, strict=True)]
            parts = dist.gather_to_main(decoded, ranks)
            if partial is not None and parts is not None:
                for part in parts:
                    partial.add(part)
                    bar.update(len(part))
    return None if partial is None else [partial.decoded[tuple(context)] for context in contexts]
