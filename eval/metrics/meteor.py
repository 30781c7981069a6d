"""METEOR 1.5 (Denkowski and Lavie 2014): its jar aligns and counts, segment by segment; the score of the counts is computed here."""

import contextlib
import itertools
import queue
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from metrics import paraphrases
from metrics.errors import UserError
from metrics.java import METEOR_JAR, PARAPHRASES, SHORT_RUN, Java, data_file, environment, said
from metrics.processes import usable_cores
from metrics.waiting import spin_until

LOAD_TIMEOUT = 300  # seconds; loading all paraphrases takes five on a free machine
LINE_TIMEOUT = 120  # seconds; a segment takes milliseconds
SHORT = 5000  # segments: so many are aligned in 15 seconds
# Each process takes 200 MB, and loads and warms up by itself: beyond these, most of what it does is that.
MOST_PROCESSES = 4
AT_LEAST = 100  # segments for each
SEPARATOR = " ||| "  # cannot occur in PTB tokens, which take ||| apart

MATCHERS = 4  # exact, stem, synonym, paraphrase
# The columns of a segment's counts; where there are two, the first is the output's, the second the reference's. Between
# function words and chunks each matcher has four: matched content words (two) and matched function words (two).
LENGTHS, FUNCTION_WORDS = slice(0, 2), slice(2, 4)
CHUNKS = 4 + 4 * MATCHERS
MATCHED = slice(CHUNKS + 1, CHUNKS + 3)
COLUMNS = CHUNKS + 3
# METEOR's parameters for English
MATCHER_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.20, 0.60, 0.75  # recall's share, fragmentation's power and weight, content's share


def for_texts(java: Java, texts: Iterable[str], folder: str, segments: int) -> "Meteor":
    """Return a METEOR for so many segments of these texts, with as many processes as pay, that knows the paraphrases they can need.

    Those are in a file in `folder`.
    """
    table = paraphrases.possible_in(texts, folder)
    if table is None:  # a gigabyte for each process
        return Meteor(java)
    quick = replace(java, flags=SHORT_RUN) if segments <= SHORT else java
    return Meteor(quick, table=table, processes=max(1, min(usable_cores(), MOST_PROCESSES, segments // AT_LEAST)))


class Meteor:
    """METEOR, used as a context manager. It loads for a while: enter, send, do other things, receive.

    Its processes share the segments; each is a JVM. `table` is a file of the paraphrases that it shall know, by default all.
    """

    def __init__(self, java: Java, *flags: str, table: Path | None = None, processes: int = 1):
        self._processes = [_Process(java, flags, table) for _ in range(processes)]

    def __enter__(self) -> "Meteor":
        with contextlib.ExitStack() as started:
            for process in self._processes:
                started.enter_context(process)
            self._started = started.pop_all()
        return self

    def __exit__(self, *exception) -> None:
        self._started.close()

    def send(self, outputs: Iterable[str], references: Iterable[list[str]]) -> None:
        """Ask for the counts of these segments (PTB tokens with spaces) without waiting for the answers.

        Each process goes through them by itself, and takes the next segment that is its own.
        """
        for number, process in enumerate(self._processes):
            segments = zip(outputs, references, strict=True)
            process.questions.put(itertools.islice(segments, number, None, len(self._processes)))

    def receive(self, segments: int) -> np.ndarray:
        """Return the counts of all that was sent next, so many segments, shape (segments, COLUMNS).

        Raises UserError, with what METEOR printed, when it dies or says nothing for too long.
        """
        from tqdm import tqdm

        asked = self._processes[:segments]
        if not spin_until(lambda: all(one.has_answered() for one in asked), "METEOR is loading", LOAD_TIMEOUT):
            silent = next(one for one in asked if not one.has_answered())
            raise silent.failure(f"gave no answer in {LOAD_TIMEOUT} s")
        statistics = np.empty((segments, COLUMNS))
        bar = tqdm(statistics, "METEOR", unit="segment", disable=None, leave=False)
        for row, process in zip(bar, itertools.cycle(self._processes), strict=False):
            row[:] = process.counts()
        # A text matched whole and in one piece is not broken: METEOR adds no chunk for it.
        whole = (statistics[:, CHUNKS] == 1) & (statistics[:, MATCHED] == statistics[:, LENGTHS]).all(axis=-1)
        statistics[whole, CHUNKS] = 0
        return statistics


class _Process:
    """A JVM that runs METEOR for the block. It answers what is put into `questions`, in that order."""

    def __init__(self, java: Java, flags: Sequence[str], table: Path | None):
        jar = data_file(METEOR_JAR)
        known = ("-a", table or data_file(PARAPHRASES))  # by itself it fails where its path has a blank or an accent
        self._java = java.path
        self._command = java.command("-Xmx2G", "-jar", jar, "-", "-", "-stdio", "-l", "en", "-norm", *known, *flags)

    def __enter__(self) -> None:
        self._stderr = tempfile.TemporaryFile()  # a pipe nobody reads would block the JVM
        try:
            self._process = subprocess.Popen(
                self._command,
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
            )
        except OSError as error:
            self._stderr.close()
            raise UserError(f"cannot start METEOR with {self._java}: {error.strerror}") from error
        assert self._process.stdin and self._process.stdout  # both are pipes
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self.questions: queue.SimpleQueue[Iterable[tuple[str, list[str]]] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=job, daemon=True) for job in (self._write, self._read)]
        for thread in self._threads:
            thread.start()

    def __exit__(self, *exception) -> None:
        self.questions.put(None)
        self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join()
        for pipe in (self._stdin, self._stdout, self._stderr):
            with contextlib.suppress(OSError):  # what was not sent yet has nobody to go to
                pipe.close()

    def _write(self) -> None:
        try:
            while (segments := self.questions.get()) is not None:
                for output, group in segments:  # written as METEOR reads them, so that they need not all be in memory
                    # It takes the best reference, so a second one that is equal changes nothing.
                    self._stdin.write(f"{SEPARATOR.join(('SCORE', *dict.fromkeys(group), output))}\n".encode())
                self._stdin.flush()
        except OSError:
            pass  # METEOR died; the one who waits for an answer says so

    def _read(self) -> None:
        for line in self._stdout:
            self._answers.put(line)
        self._answers.put(b"")  # the end, which is an error unless nobody waits any more

    def has_answered(self) -> bool:
        return not self._answers.empty()

    def counts(self) -> list[float]:
        """Return the counts of the next segment. Raises UserError if it dies or says nothing for too long."""
        try:
            line = self._answers.get(timeout=LINE_TIMEOUT)
        except queue.Empty:
            raise self.failure(f"gave no answer in {LINE_TIMEOUT} s") from None
        try:
            counts = [float(word) for word in line.split()]
        except ValueError:
            counts = []
        if len(counts) != COLUMNS:
            raise self.failure(f"answered {line.decode('utf-8', 'replace').strip()!r}" if line else "ended early")
        return counts

    def failure(self, what: str) -> UserError:
        """End METEOR and return the sentence of why, with what it printed."""
        self._process.kill()
        self._process.wait()
        self._stderr.seek(0)
        printed = self._stderr.read() or b"".join(iter(self._answers.get, b""))
        return UserError(f"METEOR {what} (Java: {self._java}); it said: {said(printed)}")


def score(statistics: np.ndarray) -> np.ndarray:
    """Return METEOR, 0 to 1, of counts (..., COLUMNS), shape (...): of segments as they are, of a corpus if summed."""
    lengths, function_words = statistics[..., LENGTHS], statistics[..., FUNCTION_WORDS]  # (..., 2): output, reference
    by_matcher = statistics[..., 4:CHUNKS].reshape(*statistics.shape[:-1], MATCHERS, 2, 2)  # content or function, text
    shares = np.array([DELTA, 1 - DELTA])  # of content and function words
    weighted = np.einsum("...mkt,m,k->...t", by_matcher, MATCHER_WEIGHTS, shares)  # (..., 2)
    possible = shares[0] * (lengths - function_words) + shares[1] * function_words
    precision, recall = np.moveaxis(_ratio(weighted, possible), -1, 0)
    mean = _ratio(precision * recall, ALPHA * precision + (1 - ALPHA) * recall)

    fragmentation = _ratio(statistics[..., CHUNKS], statistics[..., MATCHED].mean(axis=-1))
    return mean * (1 - GAMMA * fragmentation**BETA)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
