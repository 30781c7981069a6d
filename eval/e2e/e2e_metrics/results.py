"""How scores are written: for people, as a line of a table, segment by segment, and as JSON with their signature."""

import json
from collections.abc import Sequence

from e2e_metrics import __version__, files, nist
from e2e_metrics.java import METEOR_JAR, PARAPHRASES, PTB_JAR, Java, data_file
from e2e_metrics.scores import METRICS, SEGMENT_METRICS, Scores

TABLE_HEADER = "\t".join(("File", *METRICS))


def for_people(scores: Scores) -> str:
    """Return a heading and a line for each score."""
    return "\n".join(("SCORES:", "==============", *(f"{name}: {scores.corpus[name]:.4f}" for name in METRICS)))


def table_line(name: str, scores: Scores) -> str:
    """Return one line of the table that TABLE_HEADER heads."""
    return "\t".join((files.one_line(name), *(f"{scores.corpus[metric]:.4f}" for metric in METRICS)))


def write_segments(path: str, sources: Sequence[str] | None, outputs: Sequence[str], scores: Scores) -> None:
    """Write a TSV with a header and, for each segment, its source (may be blank), its output and its scores."""
    with files.atomic_writer(path) as file:
        print("src", "sys_out", *SEGMENT_METRICS, sep="\t", file=file)
        for i, output in enumerate(outputs):
            values = (f"{scores.segments[metric][i]:.4f}" for metric in SEGMENT_METRICS)
            print(files.one_line(sources[i] if sources else ""), files.one_line(output), *values, sep="\t", file=file)


def signature(references: Sequence[Sequence[str]], nist_definition: str, java: Java) -> dict:
    """Return every choice that can change a score."""
    return {
        "version": __version__,
        "segments": len(references),
        "references": sum(map(len, references)),
        "case": "insensitive",
        "bleu": "mteval-v13a tokens, order 4, closest reference length, no hits count 1e-15",
        "nist": "mteval-v13a tokens, order 5",
        "nist_reference_length": {
            nist.MTEVAL: "total length / (references / segments)",
            nist.SEGMENT_MEANS: "sum of the segments' mean lengths",
        }[nist_definition],
        "meteor": "METEOR 1.5, English, -norm, PTB tokens",
        "rouge_l": "MS-COCO, beta 1.2, PTB tokens",
        "cider": "MS-COCO (CIDEr-D), sigma 6, document frequencies of these references, PTB tokens",
        "sha256": {name: files.sha256(data_file(name)) for name in (METEOR_JAR, PARAPHRASES, PTB_JAR)},
        "java": java.version,
    }


def write_json(
    path: str, names: Sequence[str], systems: Sequence[Sequence[str]], scores: Sequence[Scores], signature: dict
) -> None:
    """Write {"systems": [{"file", "empty_outputs", "scores"}, …], "signature": {…}}, the scores unrounded."""
    rows = [
        {"file": name, "empty_outputs": count_empty(outputs), "scores": one.corpus}
        for name, outputs, one in zip(names, systems, scores, strict=True)
    ]
    with files.atomic_writer(path) as file:
        json.dump({"systems": rows, "signature": signature}, file, indent=1, ensure_ascii=False)
        file.write("\n")


def count_empty(outputs: Sequence[str]) -> int:
    """Return how many outputs have nothing but white space."""
    return sum(not output.strip() for output in outputs)
