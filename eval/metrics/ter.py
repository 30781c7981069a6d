"""TER (Snover et al. 2006): sacrebleu counts the edits, on all cores, as tercom does; the score of the counts is computed here."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from metrics.errors import UserError
from metrics.processes import usable_cores

COLUMNS = 2  # edits, words of the reference
AT_ONCE = 8  # segments that a process takes together: some tenths of a second


def statistics(outputs: Sequence[str], groups: Sequence[Sequence[str]], *, best_ratio: bool, case: bool) -> np.ndarray:
    """Return (segments, COLUMNS): the least edits to any of the segment's references, and the references' mean number of words.

    `best_ratio` takes the reference with the least edits a word instead, and its own number of words. `case`: tell cases apart.
    Raises UserError if a process of those that count is ended from outside.
    """
    from tqdm import tqdm

    result = np.empty((len(outputs), COLUMNS))
    jobs = [(output, tuple(group), best_ratio, case) for output, group in zip(outputs, groups, strict=True)]
    # Not forked: METEOR's threads may hold locks
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(usable_cores(), mp_context=context, initializer=_begin)
    try:
        counted = pool.map(_segment, jobs, chunksize=AT_ONCE)
        for row, counts in zip(
            result, tqdm(counted, "TER", len(jobs), unit="segment", disable=None, leave=False), strict=True
        ):
            row[:] = counts
    except BrokenProcessPool as error:
        raise UserError(
            "a process that counts TER was ended, perhaps for want of memory; free some, and score again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
    return result


def score(statistics: np.ndarray) -> np.ndarray:
    """Return TER, from 0 up, of counts (..., COLUMNS), shape (...): of segments as they are, of a corpus if summed."""
    edits, words = statistics[..., 0], statistics[..., 1]
    without = np.where(edits > 0, 1.0, 0.0)  # every edit is one too many
    return np.where(words > 0, edits / np.where(words > 0, words, 1), without)


def _begin() -> None:
    """Leave Ctrl-C to the parent, and end with it, however that ends: else a process would wait for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _segment(job: tuple[str, tuple[str, ...], bool, bool]) -> tuple[float, float]:
    from sacrebleu.metrics.ter import TER

    output, references, best_ratio, case = job
    metric = TER(case_sensitive=case)
    if not best_ratio:
        found = metric.sentence_score(output, references)
        return found.num_edits, found.ref_length
    each = [metric.sentence_score(output, [reference]) for reference in dict.fromkeys(references)]
    best = min(each, key=lambda one: one.num_edits / max(one.ref_length, 1))
    return best.num_edits, best.ref_length
