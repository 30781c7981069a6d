"""How scores are written: for people, as a line of a table, segment by segment, and as JSON with their signature."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from metrics import __version__, files, nist
from metrics.bootstrap import LEVEL, RESAMPLES, SEED, Difference, Scores
from metrics.errors import visible
from metrics.java import METEOR_JAR, PARAPHRASES, PTB_JAR, Java, data_file
from metrics.scores import METRICS

Intervals = dict[str, tuple[float, float]]  # by metric; see bootstrap.intervals


def for_people(
    scores: Scores, intervals: Intervals | None = None, splits: dict[str, dict[str, float]] | None = None
) -> str:
    """Return a heading and a line for each score, with its interval if there are any, and with those of parts of the inputs."""
    lines = ["SCORES:", "=============="]
    for name in scores.corpus:
        bounds = "   95 % interval {:.4f} to {:.4f}".format(*intervals[name]) if intervals else ""
        parts = "".join(f"   {split} {values[name]:.4f}" for split, values in (splits or {}).items())
        lines.append(f"{name}: {scores.corpus[name]:.4f}{parts}{bounds}")
    return "\n".join(lines)


def paired_for_people(
    first_name: str, second_name: str, first: Scores, second: Scores, differences: dict[str, Difference]
) -> str:
    """Return a table of two systems' scores, and how far the second is above the first."""
    lines = [
        f"A: {visible(first_name)}",
        f"B: {visible(second_name)}",
        f"{'':8}{'A':>8}{'B':>9}{'B - A':>10}{'95 % interval of B - A':>26}{'p':>8}",
    ]
    for name in differences:
        one = differences[name]
        bounds = "{:+.4f} to {:+.4f}".format(*one.interval)
        values = f"{first.corpus[name]:8.4f}{second.corpus[name]:9.4f}{one.value:+10.4f}"
        lines.append(f"{name:8}{values}{bounds:>26}{one.p:8.3f}")
    return "\n".join(lines)


def table_header(with_intervals: bool, metrics: Sequence[str] = METRICS) -> str:
    """Return the line that names the columns of `table_line`."""
    bounds = [f"{metric}_{end}" for metric in metrics for end in ("low", "high")] if with_intervals else []
    return "\t".join(("File", *metrics, *bounds))


def table_line(name: str, scores: Scores, intervals: Intervals | None = None) -> str:
    """Return one line of a table: the name, the scores, and the bounds of their intervals if there are any."""
    values = list(scores.corpus.values())
    if intervals:
        values += [bound for metric in scores.corpus for bound in intervals[metric]]
    return "\t".join((visible(files.one_line(name)), *(f"{value:.4f}" for value in values)))


def write_segments(
    path: str, sources: Sequence[str] | None, outputs: Sequence[str], segments: dict[str, np.ndarray]
) -> None:
    """Write a TSV with a header and, for each segment, its source (may be blank), its output and its scores."""
    with files.atomic_writer(path) as file:
        print("src", "sys_out", *segments, sep="\t", file=file)
        for i, output in enumerate(outputs):
            values = (f"{of_all[i]:.4f}" for of_all in segments.values())
            print(files.one_line(sources[i] if sources else ""), files.one_line(output), *values, sep="\t", file=file)


def signature(references: Sequence[Sequence[str]], nist_definition: str, java: Java) -> dict:
    """Return every choice that can change a score."""
    return {
        "version": __version__,
        "segments": len(references),
        "references": sum(map(len, references)),
        "references_sha256": references_sha256(references),
        "case": "insensitive",
        "tokenisers": {
            "mteval-v13a": "BLEU, NIST",
            "Stanford PTB 3.4.1": "METEOR, ROUGE-L, CIDEr; punctuation dropped",
        },
        "bleu": "order 4, closest reference length, no hits count 1e-15",
        "nist": "order 5",
        "nist_reference_length": {
            nist.MTEVAL: "total length / (references / segments)",
            nist.SEGMENT_MEANS: "sum of the segments' mean lengths",
        }[nist_definition],
        "meteor": "METEOR 1.5, English, -norm",
        "rouge_l": "MS-COCO, beta 1.2",
        "cider": "MS-COCO (CIDEr-D), sigma 6, document frequencies of these references",
        "sha256": {name: files.sha256(data_file(name)) for name in (METEOR_JAR, PARAPHRASES, PTB_JAR)},
        "java": java.version,
    }


def references_sha256(references: Sequence[Sequence[str]]) -> str:
    """Return the sha256 of the references as the decode step writes them: a line each, a blank line after each input's."""
    digest = hashlib.sha256()
    for group in references:
        digest.update(("\n".join(group) + "\n\n").encode("utf-8"))
    return digest.hexdigest()


def write_json(
    path: str,
    names: Sequence[str],
    systems: Sequence[Sequence[str]],
    scores: Sequence[Scores],
    signature: dict,
    intervals: Sequence[Intervals] | None = None,
    differences: dict[str, Difference] | None = None,
    splits: Mapping[str, Sequence[Scores]] | None = None,
) -> None:
    """Write {"systems": [{"file", "empty_outputs", "scores"}, …], "signature": {…}}, nothing rounded.

    `splits` adds "splits" to each system, {name: {"inputs", "scores"}} of parts of the inputs.
    `intervals` adds "intervals" to each system, `differences` a "paired" beside them; both say in "bootstrap" how they were made.
    """
    rows = [
        {"file": _utf8(name), "empty_outputs": count_empty(outputs), "scores": one.corpus}
        for name, outputs, one in zip(names, systems, scores, strict=True)
    ]
    for number, row in enumerate(rows if splits else []):
        row["splits"] = {
            name: {"inputs": len(of_all[number].bleu_statistics), "scores": of_all[number].corpus}
            for name, of_all in (splits or {}).items()
        }
    if intervals:
        for row, bounds in zip(rows, intervals, strict=True):
            row["intervals"] = bounds
    result = {"systems": rows, "signature": signature}
    if differences:
        result["paired"] = {
            name: {"difference": one.value, "interval": one.interval, "p": one.p} for name, one in differences.items()
        }
    if intervals or differences:
        result["bootstrap"] = {"resamples": RESAMPLES, "seed": SEED, "level": LEVEL}
    files.write(path, files.json_text(result))


def _utf8(name: str) -> str:
    """Return a file's name with the bytes that are not UTF-8 as escapes: JSON that holds them is read by no program."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def count_empty(outputs: Sequence[str]) -> int:
    """Return how many outputs have nothing but white space."""
    return sum(not output.strip() for output in outputs)
