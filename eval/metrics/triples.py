"""BLEU, METEOR and TER of WebNLG's and DART's outputs: references read, and systems scored by a protocol."""

import functools
import itertools
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

import numpy as np

from metrics import __version__, bleu, files, inputs, meteor, tables, ter
from metrics.errors import UserError
from metrics.java import METEOR_JAR, Java, data_file
from metrics.protocols import Protocol, plain_ascii, split
from metrics.results import references_sha256
from metrics.waiting import spin_until, start

METRICS = ("BLEU", "METEOR", "TER")
# WebNLG's test inputs whose category is not, or is, in the training data; "cate" says
SPLITS = {"Unseen": False, "Seen": True}
REFERENCE_FILE = re.compile(r"(?P<set>.*)reference(?P<number>\d+)(\.[A-Za-z]+)?")
PERCENT = 100
HALF_PAIR = re.compile("[\ud800-\udfff]")  # JSON can say what no text can hold


@dataclass(frozen=True)
class References:
    """The references of each input, some of which may be empty, and what is known of the inputs."""

    groups: list[list[str]]
    sources: list[str] | None = None
    splits: dict[str, np.ndarray] | None = None  # by SPLITS, bool (inputs,)
    are_raw: bool = False  # as people wrote them, not as the decode step writes them


@dataclass(frozen=True)
class Scores:
    """One system's scores, and the statistics, (segments, COLUMNS of the module), that they are computed from."""

    bleu_statistics: np.ndarray
    meteor_statistics: np.ndarray
    ter_statistics: np.ndarray
    mean_ter: bool

    @functools.cached_property
    def corpus(self) -> dict[str, float]:
        """The scores of all segments together, by METRICS: BLEU 0 to 100, METEOR 0 to 1, TER from 0 up, less is better."""
        return {name: float(value) for name, value in self.weighted(np.ones(len(self.bleu_statistics))).items()}

    @functools.cached_property
    def segments(self) -> dict[str, np.ndarray]:
        """The scores of each segment by itself, (segments,) each. sentBLEU adds one to the hits and n-grams of each order."""
        return {
            "BLEU": PERCENT * bleu.score(self.bleu_statistics),
            "sentBLEU": PERCENT * bleu.score(self.bleu_statistics, smoothing=1),
            "METEOR": meteor.score(self.meteor_statistics),
            "TER": ter.score(self.ter_statistics),
        }

    def weighted(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return the corpus scores, by METRICS, each (...), if segment i stood in the corpus weights[..., i] times."""
        counts = weights @ self.bleu_statistics
        whole = (counts[..., : bleu.ORDER] > 0).all(axis=-1)  # without smoothing, an order without hits makes BLEU 0
        mean_ter = weights @ self.segments["TER"] / weights.sum(axis=-1) if self.mean_ter else None
        return {
            "BLEU": np.where(whole, PERCENT * bleu.score(counts), 0.0),
            "METEOR": meteor.score(weights @ self.meteor_statistics),
            "TER": ter.score(weights @ self.ter_statistics) if mean_ter is None else mean_ter,
        }

    def of(self, chosen: np.ndarray) -> "Scores":
        """Return the scores of the segments that `chosen`, bool (segments,), chooses."""
        return Scores(
            self.bleu_statistics[chosen], self.meteor_statistics[chosen], self.ter_statistics[chosen], self.mean_ter
        )


def read_references(path: str) -> References:
    """Read a folder with reference0, reference1 …, line i of each for input i, or the formatted .jsonl. Raises UserError."""
    if os.path.isdir(path):
        return References(_read_folder(path))
    if not path.endswith(".jsonl"):
        raise UserError(
            f"{path} must be a folder with reference0, reference1 … or a formatted file that ends in .jsonl"
        )
    return _read_formatted(path)


def read_outputs(path: str, n_inputs: int) -> list[str]:
    """Read an output a line; a final line end ends the last line. Raises UserError if they are not as many as the inputs."""
    outputs = _lines(path)
    if len(outputs) != n_inputs:
        raise UserError(
            f"{path} has {len(outputs)} outputs but the references are of {n_inputs} inputs; one line an input"
        )
    return outputs


def other_input(references: References, formatted: References) -> int | None:
    """Return the number, from 1, of the first input whose references are all others than in the formatted file; None if none is.

    Letters and digits alone are compared, as in ASCII: the decode step and others take texts apart, and fold case and accents.
    """
    pairs = zip(references.groups, formatted.groups, strict=True)
    return next(
        (number for number, (ours, theirs) in enumerate(pairs, 1) if not _letters(ours) & _letters(theirs)), None
    )


def _letters(group: Sequence[str]) -> set[str]:
    return {re.sub(r"[\W_]", "", plain_ascii(text)) for text in group if text}


def _lines(path: str) -> list[str]:
    if tables.is_table(path):
        raise UserError(f"{path} is a table; give plain text, one line an input")
    return [line.strip() for line in inputs.plain_lines(path)]


def _read_folder(folder: str) -> list[list[str]]:
    found = [(match, name) for name in sorted(os.listdir(folder)) if (match := REFERENCE_FILE.fullmatch(name))]
    if not found:
        raise UserError(f"{folder} has no reference0, reference1 …, as gpt2_decode.py --ref_type webnlg writes them")
    sets = sorted({match["set"] for match, _ in found})
    if len(sets) > 1:
        raise UserError(
            f"{folder} has references of several sets ({', '.join(map(repr, sets))}); put each into its own folder"
        )
    numbered = sorted((int(match["number"]), name) for match, name in found)
    if [number for number, _ in numbered] != list(range(len(numbered))):
        missing = next(i for i, (number, _) in enumerate(numbered) if number != i)
        raise UserError(
            f"{folder} has {len(numbered)} reference files but not one reference{missing}; number them from 0"
        )
    columns = [(name, _lines(os.path.join(folder, name))) for _, name in numbered]
    for name, lines in columns:
        if len(lines) != len(columns[0][1]):
            raise UserError(
                f"{folder}: {name} has {len(lines)} lines but {columns[0][0]} has {len(columns[0][1])}; give one line an input"
            )
    groups = [list(group) for group in zip(*(lines for _, lines in columns), strict=True)]
    empty = next((number for number, group in enumerate(groups, 1) if not any(group)), None)
    if empty is not None:
        raise UserError(f"{folder}: line {empty} is empty in every file; expected a reference for each input")
    return groups


def _read_formatted(path: str) -> References:
    groups: dict[str, list[str]] = {}
    categories: dict[str, bool | None] = {}
    for number, line in enumerate(files.lines(path), 1):
        where = f"{path}, line {number}"
        try:
            fields = json.loads(line)
            context, completion, category = fields["context"], fields["completion"], fields.get("cate")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f'{where}: expected a JSON object with "context" and "completion", found {line[:60].strip()!r}'
            ) from error
        if any(isinstance(text, str) and HALF_PAIR.search(text) for text in (context, completion)):
            raise UserError(
                f"{where}: a text holds one half of a surrogate pair such as \\ud83d; expected whole characters"
            )
        if not isinstance(context, str) or not isinstance(completion, str) or not isinstance(category, bool | None):
            raise UserError(
                f'{where}: expected texts as "context" and "completion", and true or false as "cate" if it is there'
            )
        if categories.setdefault(context, category) != category:
            raise UserError(
                f'{where}: "cate" is {json.dumps(category)}, but not in an earlier line with the same context'
            )
        groups.setdefault(context, []).append(" ".join(completion.split()))
    empty = next((context for context, group in groups.items() if not any(group)), None)
    if empty is not None:
        raise UserError(
            f"{path}: there is no reference but an empty one for {empty[:60]!r}; fill it in or drop the line"
        )
    known = [category for category in categories.values() if category is not None]
    if known and len(known) != len(categories):
        raise UserError(f'{path}: "cate" is in some lines only; expected it in every line or in none')
    splits = (
        {name: np.array([c is seen for c in categories.values()]) for name, seen in SPLITS.items()} if known else None
    )
    return References(list(groups.values()), list(groups), splits, are_raw=True)


def score(references: References, systems: Sequence[Sequence[str]], protocol: Protocol, java: Java) -> list[Scores]:
    """Score every system's outputs, one text for each input. Raises UserError if a Java program fails."""
    groups = [_chosen(group, protocol) for group in references.groups]
    for number, (group, chosen) in enumerate(zip(references.groups, groups, strict=True), 1):
        if not any(chosen):  # as a protocol of ASCII leaves nothing of a picture
            raise UserError(
                f"the protocol leaves nothing of the references of input {number}, {' / '.join(filter(None, group))[:60]!r}; give "
                "one with a letter in it, or another --protocol"
            )
    texts = [[protocol.normalise(output) for output in outputs] for outputs in systems]
    padded = [[_unbroken(one) for one in _padded(group, protocol.meteor_references)] for group in groups]
    counting = start(lambda: [_bleu_statistics(outputs, groups, protocol) for outputs in texts])
    aligned = _aligned([[_unbroken(output) for output in outputs] for outputs in texts], padded, java)
    given = [[one for one in group if one] for group in groups]
    every_output = [output for outputs in texts for output in outputs]  # for one set of processes
    edits = ter.statistics(
        every_output, given * len(systems), best_ratio=protocol.mean_ter, case=protocol.ter_case
    ).reshape(len(systems), len(groups), ter.COLUMNS)
    return [Scores(*one, protocol.mean_ter) for one in zip(counting.result(), aligned, edits, strict=True)]


def _aligned(systems: Sequence[Sequence[str]], groups: Sequence[list[str]], java: Java) -> list[np.ndarray]:
    """Return METEOR's statistics of each system; its processes are gone before others use the cores."""
    every_text = itertools.chain(*systems, *groups)
    with files.temporary_folder() as folder:
        selecting = start(meteor.for_texts, java, every_text, folder, len(systems) * len(groups))
        spin_until(selecting.done, "paraphrases")
        with selecting.result() as aligner:
            for outputs in systems:
                aligner.send(outputs, groups)
            return [aligner.receive(len(groups)) for _ in systems]


def _chosen(group: Sequence[str], protocol: Protocol) -> list[str]:
    """Return the references that count, as many for each input; in place of missing ones what the protocol has."""
    chosen = [protocol.normalise(one) for one in group[: protocol.references]]
    if protocol.repeats_first:
        first = next((one for one in map(protocol.normalise, group) if one), "")
        chosen = [one or first for one in chosen]
        return chosen + [first] * (protocol.references - len(chosen))
    return _padded(chosen, protocol.references)


def _padded(group: Sequence[str], size: int) -> list[str]:
    return [*group, *[""] * (size - len(group))]


def _unbroken(text: str) -> str:
    """Return a text that METEOR does not take for several."""
    return files.one_line(text).replace(meteor.SEPARATOR.strip(), "| | |")


def _bleu_statistics(outputs: Sequence[str], groups: Sequence[Sequence[str]], protocol: Protocol) -> np.ndarray:
    """Return (segments, bleu.COLUMNS) as sacrebleu counts them. The reference length is the closest, the shorter of two as close."""
    from sacrebleu.metrics.bleu import BLEU

    counter = BLEU(tokenize=protocol.tokenizer, lowercase=protocol.lowercase, force=True, effective_order=True)
    counted = [counter.sentence_score(output, group) for output, group in zip(outputs, groups, strict=True)]
    return np.array([[*one.counts, *one.totals, one.ref_len] for one in counted])


def as_decoded(protocol: Protocol) -> Protocol:
    """Return a protocol that takes texts as the decode step writes them, for texts as people wrote them: --tokenize --lower."""
    return replace(protocol, normalise=lambda text: split(text.lower()))


def signature(name: str, protocol: Protocol, references: References, java: Java) -> dict:
    """Return every choice that can change a score."""
    return {
        "version": __version__,
        "protocol": name,
        "inputs": len(references.groups),
        "references": protocol.references,
        "missing_references": "reference 0 again" if protocol.repeats_first else "empty; left out of TER",
        "references_sha256": references_sha256(references.groups),
        "bleu": f"sacrebleu {version('sacrebleu')}, tokenize {protocol.tokenizer}, lower case {protocol.lowercase}, 0 to 100",
        "meteor": f"METEOR 1.5, English, -norm, {protocol.meteor_references} references",
        "ter": f"sacrebleu {version('sacrebleu')}, case {protocol.ter_case}, "
        + ("mean of the inputs" if protocol.mean_ter else "edits of all / mean words of all"),
        "unidecode": version("Unidecode"),
        "sha256": {METEOR_JAR: files.sha256(data_file(METEOR_JAR))},
        "java": java.version,
    }
