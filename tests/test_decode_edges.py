"""Decoding's edges: where a text ends, what an interrupted or another decoding leaves, names of outputs, step 4's flags."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import gpt2_beam
import gpt2_decode
import gpt2_generate
import runs
from lora_nlg import errors, files, locks
from lora_nlg.config import CARDS, BeamConfig
from lora_nlg.decoding import outputs, predictions
from lora_nlg.decoding.beam import Beams, advance, can_win, start_beams
from lora_nlg.tasks import formatted

ROOT = Path(__file__).resolve().parents[1]
COMMA, END, BLANK = 11, 50256, 628
needs_vocab = pytest.mark.skipif(
    not (ROOT / "vocab/encoder.json").is_file(), reason="no vocabulary: bash scripts/00_setup.sh"
)


class Letters:
    """A vocabulary of letters, with the recipe's two end tokens."""

    n_vocab = 50257

    def decode(self, ids):
        return "".join({END: "<|endoftext|>", BLANK: "\n\n"}.get(i, chr(ord("a") + i)) for i in ids)


# Where a text ends


@pytest.mark.parametrize(
    ("ids", "ends", "text"),
    [
        ([1, 2, COMMA, 0, 0], (END, COMMA), "bc"),
        ([1, 2, END, 0, 0], (END, COMMA), "bc"),
        ([1, 2, 3], (END, COMMA), "bcd"),
        ([1, 0, 0, 0], (0,), "b"),
        ([COMMA, 0, 0], (COMMA,), ""),
        ([1, BLANK, 2, 0], (END,), "b"),  # the recipe cuts at a blank line, whatever ended the search
    ],
)
def test_a_text_ends_before_the_first_end_token(ids, ends, text):
    """Fails when what stands behind it, which is padding, becomes a part of the text."""
    assert formatted.text_of(ids, Letters(), ends) == text


@needs_vocab
def test_typed_and_decoded_texts_end_at_the_same_end_token(tmp_path, capsys, monkeypatch):
    """By --eos_token_id of one program and by the record beside the predictions of the other. Fails with `!!!!`."""
    model = ["--model_card", "gpt2.mini", "--init_checkpoint", str(ROOT / "pretrained_checkpoints/gpt2.mini")]
    search = f"--beam 2 --eval_len 30 --eos_token_id {COMMA} --device cpu --length_penalty 0.8".split()
    generator = gpt2_generate.load(
        gpt2_generate.parser().parse_args([*model, "--vocab", str(ROOT / "vocab"), *search]),
        CARDS["gpt2.mini"],
        BeamConfig(2, 30, length_penalty=0.8, no_repeat_ngram_size=4, eos_token_ids=(END, COMMA)),
    )
    mr = "name : The Tall Jar | Type : pub | area : harbour"
    [typed] = generator.answers(mr, "here", 1)
    ids = [*generator.encoding.encode_ordinary(mr), END]
    data, lines = tmp_path / "data.jsonl", tmp_path / "lines.jsonl"
    data.write_text(json.dumps({"context": ids, "completion": [1]}) + "\n")
    lines.write_text(json.dumps({"context": mr, "completion": "A pub"}) + "\n")
    gpt2_beam.main([*model, *search, "--data", str(data), "--seq_len", "256", "--work_dir", str(tmp_path)])
    names = "--sample_file beam_prediction.jsonl --input_file lines.jsonl --output_pred_file p --output_ref_file r"
    monkeypatch.chdir(tmp_path)
    gpt2_decode.main([*names.split(), "--vocab", str(ROOT / "vocab")])
    assert Path("p").read_text().strip() == typed.text
    assert typed.text and "!" not in typed.text and "," not in typed.text


# What a decoding leaves


@pytest.fixture
def flags(tmp_path, capsys):
    """Flags that decode 12 toy inputs in three batches into tmp_path/work."""
    search = "--precision fp64 --device cpu --seq_len 64 --eval_len 8 --beam 1 --eos_token_id 162 --batch_size 4"
    return f"{runs.write_decoding(tmp_path, 12)} {search}".split()


def cut_after(monkeypatch, batches: int, flags: list[str]) -> None:
    real, count = predictions.beam_search, iter(range(100))

    def beam_search(*args, **named):
        if next(count) == batches:
            raise KeyboardInterrupt
        return real(*args, **named)

    with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setattr(predictions, "beam_search", beam_search)
        gpt2_beam.main(flags)


def test_the_end_tokens_of_an_output_are_those_of_its_record(flags, tmp_path):
    gpt2_beam.main(flags)
    output = tmp_path / "work/beam_prediction.jsonl"
    assert outputs.end_tokens(output) == (162,)  # the toy's vocabulary has no other
    assert outputs.end_tokens(output.rename(tmp_path / "own.jsonl")) == (END, BLANK)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"settings": {"search": {"eos_token_ids": ["x"]}}}'])
def test_a_damaged_record_is_one_sentence(content, tmp_path):
    (tmp_path / "a.run.json").write_text(content)
    (tmp_path / "a.jsonl").write_text("{}\n")
    with pytest.raises(errors.UserError, match=r"a\.run\.json is damaged .*decode again, or move it away"):
        outputs.end_tokens(tmp_path / "a.jsonl")


def decode(work: Path) -> None:
    names = ["--output_pred_file", str(work / "prediction.txt"), "--output_ref_file", str(work / "r")]
    lines = work.parent / "lines.jsonl"
    lines.write_text('{"context": "a : b", "completion": "c"}\n' * 12)
    sample = ["--sample_file", str(work / "beam_prediction.jsonl"), "--input_file", str(lines)]
    gpt2_decode.main([*sample, *names, "--vocab", str(ROOT / "vocab")])


@needs_vocab
def test_an_output_that_is_not_its_records_is_refused(flags, tmp_path, monkeypatch):
    """As after an interruption that came before the output, or a change by hand."""
    work = tmp_path / "work"
    gpt2_beam.main(flags)
    decode(work)
    written = (work / "beam_prediction.jsonl").read_text()
    (work / "beam_prediction.jsonl").write_text(written.replace('"id": 11', '"id": 0011'))
    with pytest.raises(errors.UserError, match=r"beam_prediction\.jsonl is not what was decoded, by the sha256"):
        decode(work)
    cut_after(monkeypatch, 1, [*flags, "--beam", "2"])
    for content in (None, written):
        if content:
            (work / "beam_prediction.jsonl").write_text(content)
        with pytest.raises(errors.UserError, match=r"the decoding that .*run\.json is about was interrupted; finish"):
            decode(work)


def test_another_decoding_moves_what_was_made_of_the_last_one(flags, tmp_path, monkeypatch, capsys):
    """Also one that is interrupted. Fails when step 5, a model card or the report take the old for the new decoding's."""
    work, previous = tmp_path / "work", tmp_path / "work/previous_decoding"
    gpt2_beam.main(flags)
    before = {path.name: path.read_bytes() for path in work.glob("beam_*json*")}
    assert len(before) == 2
    before |= {"prediction.txt": b"texts", "scores.json": b"{}"}
    for name in ("prediction.txt", "scores.json", "base.txt"):
        (work / name).write_bytes(before.get(name, b"base"))
    cut_after(monkeypatch, 1, [*flags, "--beam", "2", "--resume"])
    assert {path.name: path.read_bytes() for path in previous.iterdir()} == before
    assert "moved what another decoding left: " in capsys.readouterr().out
    assert not [name for name in ("beam_prediction.jsonl", "prediction.txt", "scores.json") if (work / name).exists()]
    assert (work / "base.txt").read_bytes() == b"base"
    gpt2_beam.main([*flags, "--beam", "2", "--resume"])
    assert "moved" not in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in previous.iterdir()} == before


def test_what_was_made_of_one_decoding_is_not_left_beside_another(flags, tmp_path):
    """The second has had no steps 5 and 6 when a third begins."""
    gpt2_beam.main(flags)
    for name in ("prediction.txt", "scores.json"):
        (tmp_path / "work" / name).write_text("of the first")
    gpt2_beam.main([*flags, "--beam", "2"])
    second = (tmp_path / "work/beam_prediction.run.json").read_bytes()
    gpt2_beam.main([*flags, "--beam", "3"])
    previous = tmp_path / "work/previous_decoding"
    assert {path.name for path in previous.iterdir()} == {"beam_prediction.jsonl", "beam_prediction.run.json"}
    assert (previous / "beam_prediction.run.json").read_bytes() == second


@pytest.mark.parametrize("again", [[], ["--resume"]])
def test_the_same_decoding_moves_nothing(flags, tmp_path, again):
    gpt2_beam.main(flags)
    (tmp_path / "work/scores.json").write_text("{}")
    gpt2_beam.main([*flags, *again])
    assert (tmp_path / "work/scores.json").exists() and not (tmp_path / "work/previous_decoding").exists()


def test_what_cannot_be_moved_is_one_sentence_and_all_is_as_before(flags, tmp_path):
    gpt2_beam.main(flags)
    (tmp_path / "work/previous_decoding").write_text("a file")
    before = {path.name: path.read_bytes() for path in (tmp_path / "work").iterdir()}
    with pytest.raises(errors.UserError, match=r"cannot write .*previous_decoding: a part of its path is a file"):
        gpt2_beam.main([*flags, "--beam", "2"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "work").iterdir()} == before


@needs_vocab
@pytest.mark.parametrize("sample", ["/", "."])
def test_a_sample_file_that_is_a_folder_is_one_sentence(sample, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"context": "a : b", "completion": "c"}\n')
    names = ["--input_file", "in.jsonl", "--output_pred_file", "p", "--output_ref_file", "r"]
    names = [str(tmp_path / name) if not name.startswith("--") else name for name in names]
    with pytest.raises(errors.UserError, match="Is a directory"):
        gpt2_decode.main(["--sample_file", sample, *names, "--vocab", str(ROOT / "vocab")])


# What an interrupted decoding has decoded


def test_other_settings_keep_what_was_decoded_until_those_come_again(flags, tmp_path, monkeypatch, capsys):
    """With mistyped flags in between, twice. Fails when hours of work are deleted without a word."""
    work = tmp_path / "work"
    cut_after(monkeypatch, 2, flags)
    kept = (work / "beam_prediction.partial.jsonl").read_bytes()
    capsys.readouterr()
    cut_after(monkeypatch, 1, [*flags, "--beam", "3", "--resume"])
    said = capsys.readouterr().out
    assert "has other settings (search.beam 1, now 3), so it is kept as " in said
    [aside] = work.glob("beam_prediction.partial.*.jsonl")
    assert aside.read_bytes() == kept and str(aside) in said
    cut_after(monkeypatch, 0, [*flags, "--beam", "4", "--length_penalty", "0", "--resume"])
    assert "(search.beam 3, now 4; search.length_penalty 1.0, now 0.0)" in capsys.readouterr().out
    gpt2_beam.main([*flags, "--resume"])
    said = capsys.readouterr().out
    assert "going on after 8 inputs" in said
    assert "other settings" not in said  # of those nothing was decoded
    [left] = work.glob("*partial*")  # of three beams
    assert b'"beam": 3' in left.read_bytes()


def test_damaged_predictions_are_kept_as_well(tmp_path, capsys):
    path = tmp_path / "a.partial.jsonl"
    path.write_bytes(b"\xff{\nsomething\n")
    predictions.Partial(path, {"model": {"vocab_size": 3}, "search": {"eval_len": 2}}, resume=True)
    assert "has other settings (they cannot be read), so it is kept as" in capsys.readouterr().out
    assert {other.read_bytes() for other in tmp_path.glob("a.partial.*.jsonl")} == {b"\xff{\nsomething\n"}


# Names of outputs


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("beam_prediction.jsonl", "beam_prediction.run.json"),
        ("beam_prediction.2.jsonl", "beam_prediction.2.run.json"),
        ("lp0.8", "lp0.8.run.json"),
        ("lp0.9.jsonl", "lp0.9.run.json"),
        ("a.json", "a.run.json"),
        ("a", "a.run.json"),
        (".jsonl", ".run.json"),
    ],
)
def test_the_record_has_the_whole_name_of_its_output(name, record):
    assert outputs.record_of(Path("w", name)) == Path("w", record)
    assert locks.of_outputs([Path("w", name)])[-1].path == Path("w", record.removesuffix("run.json") + "lock")


def test_outputs_with_dots_in_their_names_share_nothing(flags, tmp_path, monkeypatch):
    """Fails when lp0.8 and lp0.9 have one record: each would be taken for decoded anew, or go on with the other's."""
    work = tmp_path / "work"
    gpt2_beam.main([*flags, "--output_file", "lp0.8"])
    record = (work / "lp0.8.run.json").read_bytes()
    cut_after(monkeypatch, 1, [*flags, "--length_penalty", "0.9", "--output_file", "lp0.9"])
    assert (work / "lp0.8.run.json").read_bytes() == record
    assert {path.name for path in work.iterdir()} >= {"lp0.8", "lp0.8.lock", "lp0.9.lock", "lp0.9.partial.jsonl"}


@pytest.mark.parametrize("name", ["/", ".", "..", "", "./", "x/.."])
def test_an_output_without_a_name_is_one_sentence(flags, tmp_path, name):
    with pytest.raises(errors.UserError, match="--output_file must be the name of a file, but is "):
        gpt2_beam.main([*flags, "--output_file", name])
    assert not (tmp_path / "work").exists()


def test_data_that_the_decoding_would_write_over_are_refused(flags, tmp_path):
    """The file of what is decoded so far is an output, too."""
    (tmp_path / "data.jsonl").rename(tmp_path / "a.partial.jsonl")
    moved = ["--data", str(tmp_path / "a.partial.jsonl"), "--work_dir", str(tmp_path), "--output_file", "a.jsonl"]
    with pytest.raises(errors.UserError, match=r"cannot write .*a\.partial\.jsonl: it is an input, too"):
        gpt2_beam.main([*flags, *moved])


# Numbers


@pytest.mark.parametrize("penalty", [10, -10, 0])
def test_a_whole_length_penalty_is_that_number(penalty):
    """As JSON has it. Fails when scores are divided by 200 ** 10, which no tensor takes."""
    found = []
    for same in (penalty, float(penalty)):
        config = BeamConfig(beam=1, eval_len=200, length_penalty=same, eos_token_ids=(2,))
        logits = torch.log_softmax(torch.tensor([[3.0, 2.0, 1.0]]), -1)
        beams = start_beams(1, config, logits)
        long = Beams(torch.zeros(1, 1, 199, dtype=torch.int64), beams.scores - 5, beams.best_tokens, beams.best_scores)
        ended, _ = advance(logits, torch.tensor([0]), long, config)
        alive = [can_win(long, torch.tensor([bar]), config).tolist() for bar in (-1e30, -1.0, -1e-30)]
        found.append((ended.best_scores.tolist(), alive))
    assert found[0] == found[1]


# Step 4's and step 5's flags


def test_texts_are_not_joined_to_other_inputs(tmp_path):
    """Fails when the test set was made anew, in another order, and old predictions get the new lines' references."""
    output, formatted, encoded = (tmp_path / name for name in ("beam.jsonl", "test_formatted.jsonl", "test.jsonl"))
    output.write_text("{}\n")
    formatted.write_text("{}\n")
    encoded.write_text("first\nsecond\n")
    settings = {"search": {"eos_token_ids": [628]}, "data": files.sha256(encoded)}

    def record(*argv):
        said = {"settings": settings, "sha256": files.sha256(output), "argv": argv}
        (tmp_path / "beam.run.json").write_text(json.dumps(said))
        return outputs.end_tokens(output, formatted)

    assert record("--data", str(encoded)) == (628,)
    encoded.write_text("second\nfirst\n")
    for part in (["--data", "first_half.jsonl"], ["--data=x/test_bos.jsonl"], ["--beam", "3"]):
        assert record(*part) == (628,)  # of which nothing is known here
    for given in (["--data", "x/test.jsonl"], ["--beam", "3", "--data=test.jsonl"]):
        with pytest.raises(errors.UserError, match=r"test.jsonl is not the data that .*beam.jsonl was decoded from"):
            record(*given)
    assert outputs.end_tokens(output, tmp_path / "lines.jsonl") == (628,)  # another name has no encoded file beside it
    encoded.unlink()
    assert outputs.end_tokens(output, formatted) == (628,)


@pytest.fixture
def checkout(tmp_path):
    """The scripts, with files for them to find and a Python that prints what it is called with."""
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    (folder / "src").symlink_to(ROOT / "src")
    (folder / "scripts/00_setup.sh").write_text("")
    python = folder / ".venv/bin/python"
    for path in (python, *(folder / name for name in ("data/mini/test.jsonl", "data/mini/test_formatted.jsonl"))):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    python.write_text('#!/bin/sh\n[ "$1" = -c ] || echo "$@"\n')
    python.chmod(0o755)
    (folder / "trained_models/mini").mkdir(parents=True)
    for name in ("model.final.pt", "beam_base.jsonl", "beam_prediction.jsonl"):
        (folder / "trained_models/mini" / name).write_text("")
    return folder


def step(checkout: Path, script: str, *flags: str) -> tuple[int, list[list[str]], str]:
    """Return the exit code, the words of each call of a program, and what was said on stderr."""
    command = ["bash", checkout / "scripts" / script, *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    calls = [line.split() for line in done.stdout.splitlines() if line.startswith("src/gpt2_")]
    return done.returncode, calls, done.stderr


@pytest.mark.parametrize("given", [["--init_checkpoint", "X"], ["--init-checkpoint=X"]])
@pytest.mark.parametrize("whole", [False, True], ids=["adapters", "whole model"])
def test_another_base_never_takes_the_place_of_the_trained_model(whole, given, checkout):
    if whole:
        (checkout / "trained_models/mini/run.json").write_text('{"lora": {"rank": 0, "alpha": null}}')
    _, calls, said = step(checkout, "04_beam.sh", *given)
    assert said == ""
    parsed = [gpt2_beam.parser().parse_args(call[1:]) for call in calls]
    weights = "trained_models/mini/model.final.pt"
    trained = (weights, None) if whole else ("X", [weights])
    assert [(one.init_checkpoint, one.lora_checkpoint) for one in parsed] == [("X", None), trained]


def test_a_base_that_nothing_is_decoded_with_is_refused(checkout, monkeypatch):
    monkeypatch.setenv("WITHOUT_BASE", "1")
    (checkout / "trained_models/mini/run.json").write_text('{"lora": {"rank": 0, "alpha": null}}')
    code, calls, said = step(checkout, "04_beam.sh", "--init_checkpoint", "X")
    assert (code, calls) == (2, []) and said.startswith("04_beam.sh: error: --init_checkpoint would have no effect")


@pytest.mark.parametrize(
    ("script", "flag"),
    [
        ("04_beam.sh", "--lora_checkpoint"),
        ("04_beam.sh", "--output_file"),
        ("05_decode.sh", "--sample_file"),
        ("05_decode.sh", "--output_pred_file"),
    ],
)
@pytest.mark.parametrize("form", ["{} X", "{}=X"])
def test_flags_that_a_step_gives_itself_are_refused(script, flag, form, checkout):
    """Fails when "the base alone" is decoded with adapters on it, or both decodings go into one file."""
    code, calls, said = step(checkout, script, *form.format(flag.replace("_", "-")).split())
    assert (code, calls) == (2, []) and said.startswith(f"{script}: error: {flag} is this step's own")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("other", "kept"),
    [({}, True), ({"prediction.txt": "b"}, False), ({"base.txt": "b"}, False), ({"reference.txt": "b"}, False)],
    ids=["the same", "outputs", "outputs of the base", "references"],
)
def test_scores_of_other_texts_are_not_left_beside_new_ones(other, kept, checkout):
    """Fails when steps 5 and 7 without step 6 report the scores of texts that are no longer there, or scores are lost for nothing."""
    work = checkout / "trained_models/mini"
    names = ("base.txt", "prediction.txt", "reference.txt")
    for name in names:
        (work / name).write_text("a\n")
    for name in ("scores.json", "slots.json", "comparison.json"):
        (work / name).write_text("{}")
    new = "; ".join(f"echo {other.get(name, 'a')} >trained_models/mini/{name}" for name in names)
    decoding = f"case $1 in src/describe_task.py) echo reference.txt ;; src/gpt2_decode.py) {new} ;; esac"
    (checkout / ".venv/bin/python").write_text(f"#!/bin/sh\n{decoding}\n")
    done = subprocess.run(["bash", checkout / "scripts/05_decode.sh"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [(work / name).exists() for name in ("scores.json", "slots.json", "comparison.json")] == [kept] * 3
    assert ("removed trained_models/mini/scores.json, which was of other texts" in done.stdout) == (not kept)


def test_nor_where_the_second_decoding_fails(checkout):
    """Fails when the next run finds the new texts of the base there already, and takes the scores for theirs."""
    work = checkout / "trained_models/mini"
    for name, text in {"base.txt": "a", "prediction.txt": "a", "reference.txt": "a", "scores.json": "{}"}.items():
        (work / name).write_text(f"{text}\n")
    first = "[ -e once ] && exit 7; echo b >trained_models/mini/base.txt; touch once"
    decoding = f"case $1 in src/describe_task.py) echo reference.txt ;; src/gpt2_decode.py) {first} ;; esac"
    (checkout / ".venv/bin/python").write_text(f"#!/bin/sh\n{decoding}\n")
    done = subprocess.run(["bash", checkout / "scripts/05_decode.sh"], capture_output=True, text=True)
    assert done.returncode == 7 and not (work / "scores.json").exists()


@pytest.mark.parametrize("tokens", [[50256, -11], [10**30], [50257], [True]])
def test_end_tokens_that_are_none_are_not_believed(tokens, tmp_path):
    """Fails when -11 takes a token off the end of the vocabulary."""
    (tmp_path / "a.jsonl").write_text("{}\n")
    said = {"settings": {"search": {"eos_token_ids": tokens}}, "sha256": files.sha256(tmp_path / "a.jsonl")}
    (tmp_path / "a.run.json").write_text(json.dumps(said))
    with pytest.raises(errors.UserError, match=r"a\.run\.json is damaged .*decode again, or move it away"):
        outputs.end_tokens(tmp_path / "a.jsonl")
