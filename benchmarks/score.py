"""Time the five scores, and encoding: this project against the same jars and metrics one after the other.

    python benchmarks/score.py --system OUTPUTS.txt

Each is a fresh process that reads the references of E2E's test set and one output for each of its 630 inputs.
    ours    eval/e2e/measure_scores.py -p
    public  as the public scorer goes about it, with pycocoevalcap: the PTB tokenizer for the references, again for the outputs,
            then METEOR, ROUGE-L, CIDEr, and then BLEU and NIST; these two by this project's functions, which are not slower
Before any timing all five scores must agree to 4 decimals. Without --system the outputs are the first references without every
seventh word. Encoding is src/gpt2_encode.py over the training lines in a process that has imported everything: reading, ids, writing.
Does not measure segment scores or intervals.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import harness

DECIMALS = 4
METRICS = ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")
MEASURE = harness.ROOT / "eval" / "e2e" / "measure_scores.py"
LEFT_OUT = 7  # of the made outputs: every seventh word


def raw_file(split: str, smoke: bool) -> tuple[Path, str]:
    """Return the raw lines of `split` and what they are: E2E where it is, else the bundled data."""
    path = harness.E2E / f"{split}.txt"
    if path.is_file() and not smoke:
        return path, f"E2E, {split}"
    return harness.MINI / f"{split}.txt", f"NOT E2E but the bundled mini data, {split}"


def write_inputs(raw: Path, folder: Path) -> None:
    """Write refs.txt, as the decode step does, and sys.txt, made outputs."""
    from lora_nlg.tasks import e2e, formatted

    groups: dict[str, list[str]] = {}
    for mr, reference in e2e.read_raw(raw):
        groups.setdefault(mr, []).append(formatted.standardise(reference, tokenize=False, lower=False))
    (folder / "refs.txt").write_text("".join("\n".join(group) + "\n\n" for group in groups.values()), encoding="utf-8")
    outputs = [" ".join(w for i, w in enumerate(g[0].split(), 1) if i % LEFT_OUT) for g in groups.values()]
    (folder / "sys.txt").write_text("".join(output + "\n" for output in outputs), encoding="utf-8")


def public_scores(refs: str, system: str) -> dict[str, float]:
    """Return the five scores, one metric after the other."""
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    from metrics import bleu, inputs, ngrams, nist, tokenise

    references = inputs.read_references(refs)
    outputs = inputs.read_outputs(system, references).texts
    scores = {}
    captions = {i: [{"caption": text} for text in group] for i, group in enumerate(references.groups)}
    groups = PTBTokenizer().tokenize(captions)
    results = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(outputs)})
    for name, metric in (("METEOR", Meteor), ("ROUGE_L", Rouge), ("CIDEr", Cider)):
        scores[name] = float(metric().compute_score(groups, results)[0])

    counted = [ngrams.References(list(map(tokenise.tokenise, group))) for group in references.groups]
    pairs = list(zip(map(tokenise.tokenise, outputs), counted, strict=True))
    bits = nist.Information(counted)
    scores["BLEU"] = float(bleu.score(sum(bleu.statistics(output, group) for output, group in pairs)))
    of_nist = sum(nist.statistics(output, group, bits) for output, group in pairs)
    scores["NIST"] = float(nist.score(of_nist, nist.SEGMENT_MEANS))
    return scores


def own_scores(refs: str, system: str, folder: Path) -> dict[str, float]:
    """Return the five scores as measure_scores.py has them."""
    command = [sys.executable, MEASURE, refs, system, "-p", "--json", folder / "scores.json"]
    subprocess.run(command, stdout=sys.stderr, check=True)
    [one] = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["systems"]
    return one["scores"]


def time_encoding(raw: Path, folder: Path, repeats: int) -> tuple[int, list[float]]:
    """Return the number of lines, and the seconds that encoding them took each time."""
    import gpt2_encode
    from lora_nlg.tasks import e2e

    pairs = list(e2e.read_raw(raw))
    formatted = folder / "formatted.jsonl"
    lines = [json.dumps({"context": mr, "completion": reference}) + "\n" for mr, reference in pairs]
    formatted.write_text("".join(lines), encoding="utf-8")
    flags = f"--add_bos --add_eos --vocab {harness.ROOT / 'vocab'} --input {formatted} --output {folder / 'ids.jsonl'}"

    def encode(_: int) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            gpt2_encode.main(flags.split())

    encode(0)  # imports, and warms up
    return len(pairs), harness.interleave({"encoding": encode}, {"encoding": repeats})["encoding"]


def main(argv: list[str] | None = None) -> int:
    """Check, time, report."""
    p = harness.parser(__doc__)
    p.add_argument("--system", help="outputs for the inputs of the test set, one a line; default: made from references")
    p.add_argument("--public_of", nargs=2, metavar=("REF", "SYS"), help="only print the scores of the public way")
    args = p.parse_args(argv)
    if args.public_of:
        print(json.dumps(public_scores(*args.public_of)))
        return 0

    from metrics import java

    os.environ["PATH"] = f"{Path(java.find_java().path).parent}{os.pathsep}{os.environ['PATH']}"  # pycocoevalcap's java
    if args.smoke:
        args.repeats = 1
    raw, data = raw_file("test", args.smoke)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(raw, folder)
        refs, system = str(folder / "refs.txt"), args.system or str(folder / "sys.txt")
        found: dict[str, dict[str, float]] = {}

        def ours(_: int) -> None:
            found["ours"] = own_scores(refs, system, folder)

        def public(_: int) -> None:
            found["public"] = harness.in_own_process("score.py", "--public_of", refs, system)

        harness.say("checking, which also warms up")
        ours(0)
        public(0)
        rounded = [{name: round(found[way][name], DECIMALS) for name in METRICS} for way in ("ours", "public")]
        harness.require(rounded[0] == rounded[1], f"scores of ours {rounded[0]} and of the public way {rounded[1]}")
        modes = {"public": public, "ours": ours}
        seconds = {} if args.smoke else harness.interleave(modes, dict.fromkeys(modes, args.repeats))
        train, _ = raw_file("train", args.smoke)
        lines, encoding = time_encoding(train, folder, args.repeats)

    share = harness.ratio(seconds["ours"], seconds["public"]) if seconds else None
    results = {
        "benchmark": "score",
        "data": data,
        "system": args.system or "first references without every seventh word",
        "scores": rounded[0],
        "seconds": {way: harness.spread(values) for way, values in seconds.items()},
        "ours_of_public": share,
        "encoding": {"lines": lines, "seconds": harness.spread(encoding)},
    }
    parts = {"public": 1, "ours": share}
    rows = [(f"scores, {way}", results["seconds"][way]["median"], parts[way]) for way in seconds]
    rows.append((f"encoding {lines:,} lines", results["encoding"]["seconds"]["median"], ""))
    harness.report(args, results, harness.table(("what", "s", "of the public way"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
