"""The programs around text, from their flags to their files."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import download
import format_converting_e2e
import gpt2_decode
import gpt2_encode
import real_data
from lora_nlg.data import bpe
from lora_nlg.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
VOCAB = str(ROOT / "vocab")
GOLDEN = json.loads((ROOT / "tests/golden/files.json").read_text(encoding="utf-8"))["sha256"]
HEAVY = ("torch", "tiktoken", "regex", "pooch", "requests", "huggingface_hub", "safetensors", "tqdm", "numpy")

needs_vocab = pytest.mark.skipif(
    not (ROOT / "vocab/encoder.json").is_file(), reason="no vocabulary: bash scripts/00_setup.sh"
)


def write_lines(path: Path, objects: list) -> str:
    path.write_text("".join(json.dumps(o) + "\n" for o in objects), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("program", ["format_converting_e2e", "gpt2_encode", "gpt2_decode", "download"])
def test_help_answers_without_heavy_imports(program):
    command = [sys.executable, "-X", "importtime", f"src/{program}.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "usage:" in done.stdout
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert imported.isdisjoint(HEAVY)


def test_a_mistake_is_one_sentence_exit_code_2_and_no_file(tmp_path):
    raw, output = tmp_path / "raw.txt", tmp_path / "formatted.jsonl"
    raw.write_text("name : A||a\nbad\n", encoding="utf-8")
    command = [sys.executable, "src/format_converting_e2e.py", str(raw), str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{raw}:2: " in done.stderr
    assert list(tmp_path.iterdir()) == [raw]


def test_format(tmp_path):
    (tmp_path / "raw").write_text("name : A | food : É||Reference one . \n", encoding="utf-8")
    assert format_converting_e2e.main([str(tmp_path / "raw"), str(tmp_path / "out")]) == 0
    expected = '{"context": "name : A | food : \\u00c9", "completion": "Reference one ."}\n'
    assert (tmp_path / "out").read_text(encoding="utf-8") == expected


@needs_vocab
@pytest.mark.parametrize(
    ("flags", "bos", "eos"),
    [
        ([], [], []),
        (["--add_bos"], [50256], []),
        (["--add_eos"], [], [50256]),
        (["--add_bos", "--add_eos"], [50256], [50256]),
    ],
)
def test_encode(tmp_path, flags, bos, eos):
    formatted = write_lines(tmp_path / "in", [{"context": "name", "completion": "The world", "cate": True}])
    output = tmp_path / "out"
    assert gpt2_encode.main(["--vocab", VOCAB, "--input", formatted, "--output", str(output), *flags]) == 0
    # "name", " The", " world" are one token each; the completion begins with a space.
    expected = {"context": [3672, *bos], "completion": [383, 995, *eos]}
    assert [json.loads(line) for line in output.read_text().splitlines()] == [expected]


@pytest.fixture
def encoding_from_a_pipe(tmp_path):
    """A program that encodes what comes through a pipe, the open pipe, and the folder of the output."""
    folder, pipe = tmp_path / "out", tmp_path / "pipe"
    folder.mkdir()
    os.mkfifo(pipe)
    command = [sys.executable, "src/gpt2_encode.py", "--vocab", VOCAB, "--input", pipe, "--output", folder / "encoded"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as program:
        with open(pipe, "w") as lines:
            yield program, lines, folder
        program.kill()


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@needs_vocab
def test_lines_are_written_before_the_last_is_read(encoding_from_a_pipe):
    """Fails if the input, which could be of any length, were all read first. Seen to with list(…) around the reader."""
    program, lines, folder = encoding_from_a_pipe
    for _ in range(5000):
        lines.write('{"context": "name : A", "completion": "One ."}\n')
    lines.flush()
    wait_for(lambda: any(path.stat().st_size for path in folder.iterdir()))
    assert program.poll() is None
    assert not (folder / "encoded").exists()


@needs_vocab
def test_sigterm_leaves_no_temporary_file(encoding_from_a_pipe):
    program, _, folder = encoding_from_a_pipe
    wait_for(lambda: any(folder.iterdir()))
    program.terminate()
    assert program.wait(timeout=60) == 143
    assert list(folder.iterdir()) == []


@pytest.fixture
def decode(tmp_path):
    """A function that writes inputs and predictions, decodes them, and returns (reference file or folder, predicted lines)."""
    encoding = bpe.load_encoding(VOCAB)

    def run(inputs: list[dict], predictions: dict[int, str], *flags: str):
        samples = [
            {"id": line, "predict": [*encoding.encode_ordinary(text), 50256, 0, 0]}
            for line, text in predictions.items()
        ]
        gpt2_decode.main(
            [
                *("--vocab", VOCAB),
                *("--input_file", write_lines(tmp_path / "input", inputs)),
                *("--sample_file", write_lines(tmp_path / "samples", samples)),
                *("--output_ref_file", str(tmp_path / "out/refs")),
                *("--output_pred_file", str(tmp_path / "out/pred")),
                *flags,
            ]
        )
        return tmp_path / "out/refs", (tmp_path / "out/pred").read_text(encoding="utf-8").splitlines()

    return run


INPUTS = [
    {"context": "B", "completion": " One, two", "cate": True},
    {"context": "A", "completion": "Three", "cate": False},
    {"context": "B", "completion": "Four", "cate": True},
]


@needs_vocab
def test_decode_e2e(decode):
    refs, predictions = decode(INPUTS, {0: " early", 1: " Second\n\nnot this", 2: " It's late"})
    assert refs.read_text() == "One, two\nFour\n\nThree\n\n"
    assert predictions == ["It's late", "Second"]


@needs_vocab
def test_decode_tokenized_and_lower_case(decode):
    refs, predictions = decode(INPUTS, {1: "X", 2: " It's late"}, "--tokenize", "--lower")
    assert refs.read_text() == "one , two\nfour\n\nthree\n\n"
    assert predictions == ["it ' s late", "x"]


@needs_vocab
@pytest.mark.parametrize("ref_type", ["webnlg", "dart"])
def test_decode_to_aligned_reference_files(decode, ref_type):
    refs, predictions = decode(INPUTS, {1: "X", 2: "Y"}, "--ref_type", ref_type)
    assert sorted(path.name for path in refs.iterdir()) == ["reference0", "reference1", "reference2", "reference3"]
    first, second = "One, two\nThree\n", "Four\nThree\n"
    assert [(refs / f"reference{i}").read_text() for i in range(4)] == [first, second, first, first]
    assert predictions == ["Y", "X"]


@needs_vocab
def test_decode_says_how_many_references_ref_num_leaves_out(decode, capsys):
    refs, _ = decode(INPUTS, {1: "X", 2: "Y"}, "--ref_type", "webnlg", "--ref_num", "1")
    assert [path.read_text() for path in refs.iterdir()] == ["One, two\nThree\n"]
    assert "left out 1 references" in capsys.readouterr().err


@needs_vocab
@pytest.mark.parametrize(("which", "expected"), [("seen", ["Y"]), ("unseen", ["X"]), ("all", ["Y", "X"])])
def test_decode_filter(decode, which, expected):
    assert decode(INPUTS, {1: "X", 2: "Y"}, "--filter", which)[1] == expected


@needs_vocab
def test_decode_groups_by_the_unique_file(decode, tmp_path):
    (tmp_path / "unique").write_text("0\n1\n1\n")
    refs, predictions = decode(INPUTS, {0: "X", 2: "Y"}, "--ref_unique_file", str(tmp_path / "unique"))
    assert refs.read_text() == "One, two\n\nThree\nFour\n\n"
    assert predictions == ["X", "Y"]
    (tmp_path / "unique").write_text("0\n1\n")
    with pytest.raises(UserError, match=r"has 2 lines but .* has 3"):
        decode(INPUTS, {0: "X"}, "--ref_unique_file", str(tmp_path / "unique"))


@needs_vocab
def test_missing_predictions_are_counted_unless_left_out_on_purpose(decode, tmp_path, capsys):
    with pytest.raises(UserError, match=r"no prediction for 1 of 2 inputs.*--only_predicted"):
        decode(INPUTS, {1: "X"})
    assert not (tmp_path / "out").exists()
    refs, predictions = decode(INPUTS, {1: "X"}, "--only_predicted")
    assert (refs.read_text(), predictions) == ("Three\n\n", ["X"])
    assert "left out 1 of 2" in capsys.readouterr().err


@needs_vocab
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ref_num", "3"], "--ref_num would have no effect"),
        (["--ref_type", "dart", "--ref_num", "0"], "--ref_num must be at least 1"),
        (["--filter", "unseen", "--only_predicted"], "a prediction for no input"),
    ],
)
def test_flags_that_would_be_ignored_or_leave_nothing_are_errors(decode, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        decode(INPUTS, {0: "X"}, *flags)
    assert not (tmp_path / "out").exists()


@needs_vocab
def test_filter_needs_a_category_and_a_line_that_has_it(decode):
    with pytest.raises(UserError, match=':1: --filter needs "cate"'):
        decode([{"context": "A", "completion": "a"}], {0: "X"}, "--filter", "seen")
    with pytest.raises(UserError, match="leaves no line"):
        decode(INPUTS[1:2], {0: "X"}, "--filter", "seen")


def test_the_bundled_card_needs_no_download(capsys):
    assert download.main(["checkpoint", "gpt2.mini"]) == 0
    assert "nothing to download" in capsys.readouterr().out


@real_data.needs("e2e")
@needs_vocab
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_real_data_have_the_recipes_bytes_at_every_stage(tmp_path, split):
    """Fails without the space before a completion, with JSON of other spacing, or with references in another order."""
    raw, formatted, encoded = (tmp_path / f"{split}{suffix}" for suffix in (".txt", "_formatted.jsonl", ".jsonl"))
    raw.symlink_to(real_data.folder("e2e") / raw.name)
    format_converting_e2e.main([str(raw), str(formatted)])
    gpt2_encode.main(["--vocab", VOCAB, "--input", str(formatted), "--output", str(encoded), "--add_bos", "--add_eos"])
    paths = [raw, formatted, encoded]
    if split == "test":
        n_lines = len(formatted.read_bytes().splitlines())
        samples = write_lines(tmp_path / "samples", [{"id": i, "predict": [383, 50256, 0]} for i in range(n_lines)])
        refs, pred = tmp_path / "e2e_ref.txt", tmp_path / "pred.txt"
        flags = ("--vocab", VOCAB, "--sample_file", samples, "--input_file", str(formatted))
        gpt2_decode.main([*flags, "--output_ref_file", str(refs), "--output_pred_file", str(pred)])
        assert pred.read_text() == "The\n" * 630
        paths.append(refs)
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths} == {
        path.name: GOLDEN[path.name] for path in paths
    }
