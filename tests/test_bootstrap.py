"""Resampled scores: intervals, paired differences, and the flags that show them."""

import hashlib
import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import measure_scores
import real_data
from metrics import bootstrap, inputs, java, meteor, nist, ptb, results, scores

EDGE = Path(__file__).parent / "golden" / "edge"
REFERENCES, OUTPUTS = str(EDGE / "refs.txt"), str(EDGE / "sys.txt")
E2E_INPUTS = 630


def random_scores(segments: int, quality: float, seed: int = 0) -> scores.Scores:
    """Return a made-up system whose statistics can occur, and that matches `quality` of what it could match."""
    rng = np.random.default_rng(seed)
    words = rng.integers(5, 30, segments)
    lengths = words[:, None] - np.arange(5)  # n-grams of orders 1 to 5
    hits = rng.binomial(lengths, quality)
    bleu = np.column_stack([hits[:, :4], lengths[:, :4], words])
    means, numbers = words + rng.integers(0, 9, segments), rng.integers(1, 9, segments)  # of the references
    ones = np.ones(segments)
    nist_statistics = np.column_stack([3.0 * hits, lengths, means, means * numbers, numbers, ones])
    alignment = np.zeros((segments, meteor.COLUMNS))
    alignment[:, meteor.LENGTHS] = words[:, None]
    alignment[:, 4:6] = alignment[:, meteor.MATCHED] = hits[:, :1]  # exact matches of content words
    alignment[:, meteor.CHUNKS] = 1 + hits[:, 0] // 3
    means = {name: rng.beta(10 * quality, 10 * (1 - quality), segments) for name in ("ROUGE_L", "CIDEr")}
    return scores.Scores(means, bleu, nist_statistics, alignment, nist.SEGMENT_MEANS)


def repeated(one: scores.Scores, order: list[int]) -> scores.Scores:
    """Return the scores of a corpus of these segments of `one`, each as often as it is named."""
    segments = {name: values[order] for name, values in one.segments.items()}
    statistics = (one.bleu_statistics, one.nist_statistics, one.meteor_statistics)
    return scores.Scores(segments, *(values[order] for values in statistics), one.nist_definition)


@pytest.mark.parametrize("definition", [nist.SEGMENT_MEANS, nist.MTEVAL])
def test_a_weight_is_a_number_of_copies(definition):
    one = random_scores(6, 0.6)
    one = scores.Scores(one.segments, one.bleu_statistics, one.nist_statistics, one.meteor_statistics, definition)
    weights = np.array([[2.0, 0, 1, 0, 0, 3], [1, 1, 1, 1, 1, 1]])
    copies = [repeated(one, [0, 0, 2, 5, 5, 5]), one]
    assert one.corpus["NIST"] == pytest.approx(nist.score(one.nist_statistics.sum(axis=0), definition))
    for metric, values in one.weighted(weights).items():
        assert values == pytest.approx([copy.corpus[metric] for copy in copies], abs=1e-12)


def test_a_resample_has_as_many_segments_as_there_are():
    """Fails if inputs are drawn without replacement, or fewer or more of them."""
    one = random_scores(40, 0.6)
    drawn = []
    seen = scores.Scores(one.segments, one.bleu_statistics, one.nist_statistics, one.meteor_statistics, nist.MTEVAL)
    object.__setattr__(seen, "weighted", lambda weights: drawn.append(weights) or {})
    bootstrap.resample(seen, resamples=50)
    [weights] = drawn
    assert weights.shape == (50, 40)
    assert (weights.sum(axis=1) == 40).all()
    assert 0.58 < (weights > 0).mean() < 0.69  # 1 - 1/e = 0.632 of the inputs are in a draw


def test_many_segments_are_drawn_in_blocks_and_give_the_same(monkeypatch):
    """Fails if a block began with the seed anew, or the last one were cut off: 20 draws in blocks of 3."""
    one = random_scores(30, 0.6)
    expected = bootstrap.resample(one, 20)
    monkeypatch.setattr(bootstrap, "DRAWN_AT_ONCE", 3 * 30)
    for metric, values in bootstrap.resample(one, 20).items():
        assert values == pytest.approx(expected[metric], abs=1e-12)


def test_one_segment_has_no_spread():
    one = random_scores(1, 0.6)
    for metric, (low, high) in bootstrap.intervals(one).items():
        assert low == pytest.approx(high) == pytest.approx(one.corpus[metric])


def test_the_spread_is_that_of_a_mean():
    """ROUGE-L is a mean, whose standard error is known: its interval is 1.96 of them to each side."""
    one = random_scores(E2E_INPUTS, 0.6)
    values = one.segments["ROUGE_L"]
    low, high = bootstrap.intervals(one)["ROUGE_L"]
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert [low, high] == pytest.approx([values.mean() - half, values.mean() + half], abs=half / 8)


def test_the_seed_decides():
    one = random_scores(30, 0.6)
    first, again, other = (bootstrap.resample(one, 20, seed) for seed in (1, 1, 2))
    for metric in scores.METRICS:
        assert first[metric].tolist() == again[metric].tolist() != other[metric].tolist()
        assert len(set(first[metric])) > 1


def test_an_interval_holds_95_of_100():
    assert bootstrap.interval(np.arange(1001.0)) == pytest.approx((25, 975))


def test_a_system_does_not_differ_from_itself():
    one = random_scores(30, 0.6)
    for difference in bootstrap.differences(one, one).values():
        assert (difference.value, difference.interval, difference.p) == (0, (0, 0), 1)


def test_a_small_difference_on_every_input_is_found():
    """Fails if the two systems are drawn apart: the inputs differ far more from each other than the systems do."""
    first = random_scores(200, 0.5)
    second = scores.Scores(
        {name: values + 0.001 for name, values in first.segments.items()},
        first.bleu_statistics, first.nist_statistics, first.meteor_statistics, first.nist_definition,
    )  # fmt: skip
    found = bootstrap.differences(first, second)
    assert found["ROUGE_L"].value == pytest.approx(0.001)
    assert found["ROUGE_L"].interval == pytest.approx((0.001, 0.001))
    assert found["ROUGE_L"].p < 0.01
    assert found["BLEU"].p == 1
    assert bootstrap.differences(second, first)["ROUGE_L"].value == pytest.approx(-0.001)


@pytest.mark.parametrize(
    ("below", "above", "p"), [(0, 999, 0.002), (999, 0, 0.002), (24, 975, 0.05), (25, 974, 0.052), (500, 499, 1)]
)
def test_p_counts_the_rarer_sign_on_both_sides(below, above, p):
    resampled = np.array([-1.0] * below + [1.0] * above)
    assert bootstrap.p_value(resampled) == pytest.approx(p)


def test_630_inputs_take_no_time():
    one = random_scores(E2E_INPUTS, 0.6)
    started = time.process_time()
    bootstrap.intervals(one)
    assert time.process_time() - started < 5  # 0.1 s on an idle core; there is no progress bar since none is needed


@pytest.mark.slow
def test_meteor_of_a_corpus_is_what_its_jar_says(edge, tmp_path):
    """Fails if a corpus had the mean of its segments' scores, or summed counts without METEOR's own rule for chunks."""
    runtime = java.find_java()
    groups = inputs.read_references(REFERENCES).groups
    outputs = inputs.read_outputs(OUTPUTS, inputs.References(groups, None)).texts
    most = max(map(len, groups))
    padded = [text for group in groups for text in group + [group[0]] * (most - len(group))]
    texts = ptb.tokenise(runtime, [outputs, padded], tmp_path)
    for name, lines in zip(("sys", "ref"), texts, strict=True):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    flags = ("-Xmx2G", "-jar", java.data_file(java.METEOR_JAR), tmp_path / "sys", tmp_path / "ref")
    command = runtime.command(*flags, "-l", "en", "-norm", "-r", str(most))
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    said = float(done.stdout.rstrip().splitlines()[-1].split()[-1])  # Final score: 0.48…
    assert edge[0].corpus["METEOR"] == pytest.approx(said, abs=1e-12)


@pytest.fixture
def scored(edge, monkeypatch):
    """Let measure_scores.py get the edge corpus's scores without computing them again."""
    monkeypatch.setattr(scores, "score", lambda references, systems, *_: edge[: len(systems)])


@pytest.fixture
def perfect(tmp_path):
    """The first reference of each input as a system's outputs."""
    path = tmp_path / "perfect.txt"
    path.write_text("".join(group[0] + "\n" for group in inputs.read_references(REFERENCES).groups))
    return str(path)


def test_intervals_for_people_and_in_the_table_and_in_json(scored, edge, tmp_path, capsys):
    low, high = bootstrap.intervals(edge[0])["BLEU"]
    assert low < edge[0].corpus["BLEU"] < high
    assert measure_scores.main([REFERENCES, OUTPUTS, "-p", "--bootstrap", "--json", str(tmp_path / "x.json")]) == 0
    assert f"BLEU: 0.7047   95 % interval {low:.4f} to {high:.4f}\n" in capsys.readouterr().out
    result = json.loads((tmp_path / "x.json").read_text())
    assert result["systems"][0]["intervals"]["BLEU"] == [low, high]
    assert result["bootstrap"] == {"resamples": 1000, "seed": bootstrap.SEED, "level": 0.95}

    measure_scores.main([REFERENCES, OUTPUTS, "-p", "--bootstrap", "-t", "-H"])
    header, row = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert header[6:8] == ["BLEU_low", "BLEU_high"]
    assert row[6:8] == [f"{low:.4f}", f"{high:.4f}"]
    assert len(header) == len(row) == 16


def test_two_systems_side_by_side(scored, edge, perfect, tmp_path, capsys):
    measure_scores.main([REFERENCES, OUTPUTS, perfect, "-p", "--paired", "--json", str(tmp_path / "x.json")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"A: {OUTPUTS}", f"B: {perfect}"]
    [bleu] = [line.split() for line in lines if line.startswith("BLEU")]
    assert bleu[1:4] == ["0.7047", "1.0000", "+0.2953"]
    result = json.loads((tmp_path / "x.json").read_text())["paired"]["BLEU"]
    assert result["difference"] == pytest.approx(1 - edge[0].corpus["BLEU"])
    assert 0 < result["interval"][0] < result["difference"] < result["interval"][1]
    assert result["p"] == pytest.approx(0.002, abs=1e-5)


def test_every_system_has_its_own_file_of_segments(scored, edge, perfect, tmp_path):
    files = [str(tmp_path / name) for name in ("a.tsv", "b.tsv")]
    measure_scores.main([REFERENCES, OUTPUTS, perfect, "-l", files[0], "-l", files[1]])
    first, second = (Path(file).read_text().splitlines()[1].split("\t") for file in files)
    assert first[1] == Path(OUTPUTS).read_text().splitlines()[0]
    assert second[1] == Path(perfect).read_text().splitlines()[0]
    assert [float(cell) for cell in second[2:]] == pytest.approx(
        [edge[1].segments[name][0] for name in scores.SEGMENT_METRICS], abs=1e-4
    )


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--paired"], "compares two SYS, but 1 were given"),
        ([OUTPUTS, OUTPUTS, "--paired"], "compares two SYS, but 3 were given"),
        ([OUTPUTS, "--paired", "-t"], "a table of its own"),
        ([OUTPUTS, "-l", "x"], "2 SYS, but 1 -l"),
        (["-l", "x", "-l", "y"], "1 SYS, but 2 -l"),
    ],
)
def test_flags_that_do_not_fit_are_errors(flags, says, capsys):
    with pytest.raises(SystemExit) as exit_:
        measure_scores.main([REFERENCES, OUTPUTS, *flags])
    assert exit_.value.code == 2
    assert says in capsys.readouterr().err


def test_references_are_named_by_the_hash_of_their_file():
    written = hashlib.sha256(b"a b\nc\n\n\xc2\xa3 d\n\n").hexdigest()  # as the decode step writes them
    assert results.references_sha256([["a b", "c"], ["£ d"]]) == written


@real_data.needs("e2e", "scoring")
def test_real_systems_differ(score_once):
    """A tuned system is above an untuned one in every score; two that nearly share a score may not be told apart."""
    groups: dict[str, list[str]] = {}
    for line in (real_data.folder("e2e") / "test.txt").read_text(encoding="utf-8").splitlines():
        source, _, reference = line.strip().partition("||")
        groups.setdefault(source, []).append(reference)
    references = inputs.References(list(groups.values()), None)
    names = ("untuned_gpt2md.txt", "lora_short.txt", "lora_gpt2md.txt")
    systems = [inputs.read_outputs(str(real_data.folder("scoring") / name), references).texts for name in names]
    untuned, short, tuned = score_once(references.groups, systems, nist.SEGMENT_MEANS)
    for other in (untuned, short):
        for difference in bootstrap.differences(other, tuned).values():
            assert difference.interval[0] > 0
            assert difference.p < 0.01
    low, high = bootstrap.intervals(tuned)["BLEU"]
    assert low < 0.6955 < high
    assert 0.01 < (high - low) / 2 < 0.02
