"""Paired tests of several runs against the first one, over the same draws of the inputs, as measure_scores.py --paired has them."""

from collections.abc import Sequence

from metrics import bootstrap, errors, inputs, java, nist, scores, triples
from metrics.bootstrap import Difference
from metrics.protocols import PROTOCOLS
from run_dir import SYSTEM, Run, damaged
from task import Task

CLOSE = 1e-9  # scores of the same outputs by the same scorer: only the order of sums may differ
Tests = list[dict[str, Difference] | None]


def against_first(runs: Sequence[Run], of: Task) -> Tests | None:
    """Return how far each run is above the first, by metric; None for the first itself.

    None at all if the task's scorer is none that tests. Raises UserError for outputs that scores.json is not of.
    """
    scored = _scored(runs, of)
    if scored is None:
        return None
    for run, one in zip(runs, scored, strict=True):
        if any(abs(one.corpus[metric] - run.system["scores"][metric]) > CLOSE for metric in of.scores):
            raise errors.UserError(
                f"{run.work_dir / SYSTEM} does not have the scores of {run.work_dir / 'scores.json'}; run step 06 again"
            )
    return [None, *(bootstrap.differences(scored[0], one) for one in scored[1:])]


def _scored(runs: Sequence[Run], of: Task) -> Sequence[bootstrap.Scores] | None:
    """Return the statistics that the runs' scores are computed from, which no file has."""
    references, paths = str(runs[0].work_dir / of.references), [str(run.work_dir / SYSTEM) for run in runs]
    if of.scorer == "eval/e2e/measure_scores.py":
        groups = inputs.read_references(references)
        texts = [inputs.read_outputs(path, groups).texts for path in paths]
        is_mean = "mean" in runs[0].signature.get("nist_reference_length", "")
        return scores.score(groups.groups, texts, nist.SEGMENT_MEANS if is_mean else nist.MTEVAL, java.find_java())
    if of.scorer == "eval/triples/measure_scores.py":
        read = triples.read_references(references)
        texts = [triples.read_outputs(path, len(read.groups)) for path in paths]
        protocol = runs[0].signature.get("protocol")
        if protocol not in PROTOCOLS:
            raise damaged(f"{runs[0].work_dir}/scores.json names no protocol that is known here", "06")
        return triples.score(read, texts, PROTOCOLS[protocol], java.find_java())
    return None
