"""What training and decoding read back of an earlier run is checked: damage is a sentence, or is made anew, and reaches no output."""

import copy
import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gpt2_beam
import gpt2_ft
import runs
import toy
from lora_nlg import dist, record
from lora_nlg.decoding import beam
from lora_nlg.errors import UserError
from lora_nlg.training import log, train
from lora_nlg.training.saves import fault_in

SRC = Path(__file__).resolve().parents[1] / "src"
TRAINING = (
    "--precision fp64 --device cpu --lora_dim 4 --lora_alpha 32 --lr 0.01 --train_batch_size 4 --max_step 4 --save_interval 2 "
    "--log_interval 3"
).split()
DECODING = "--precision fp64 --device cpu --batch_size 4 --beam 2 --eval_len 6 --seq_len 64".split()


@pytest.fixture
def flags(tmp_path):
    """Flags of a toy training in tmp_path/work."""
    return [*runs.write_training(tmp_path).split(), *TRAINING]


@pytest.fixture
def listed(flags, tmp_path, capsys):
    """saves.json of a finished run, as its object."""
    assert gpt2_ft.main(flags) == 0
    return json.loads((tmp_path / "work/saves.json").read_text())


def values(value, path=()):
    """Yield the path of every value within a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from values(part, (*path, key))


def test_saves_json_as_it_is_written_has_no_fault(listed):
    assert fault_in(listed) is None


@pytest.mark.parametrize("damage", [None, 3, -1, "x", [], {}, True, "model.2.pt"])
def test_no_damaged_value_of_saves_json_passes(listed, flags, tmp_path, damage, capsys):
    """Every value but the settings' is replaced in turn. Fails when {} counts as a finished run, or a list as a name."""
    for path in values(listed):
        damaged = copy.deepcopy(listed)
        if not path or path[0] == "settings":
            continue
        parent = damaged
        for key in path[:-1]:
            parent = parent[key]
        if parent[path[-1]] == damage or (damage is None and len(path) == 1 and path[0] in ("best", "final")):
            continue  # not damaged: a run that has no best yet, or no end
        parent[path[-1]] = damage
        if fault_in(damaged) is None:
            assert path in (
                [("saves",)] if damage == [] else [("best", "step"), ("final", "step")] if damage == 3 else []
            ), path
            continue
        (tmp_path / "work/saves.json").write_text(json.dumps(damaged))
        with pytest.raises(UserError, match=r"saves\.json is damaged .*pass --resume never to start anew"):
            gpt2_ft.main([*flags, "--resume"])


@pytest.mark.parametrize(
    "content", ["", "[]", "3", "null", '{"saves": 3}', "[" * 100_000, '"\\ud800"', "{", '{"settings": {}, "saves": []}']
)
def test_no_damaged_saves_json_is_a_traceback(listed, flags, tmp_path, content, capsys):
    (tmp_path / "work/saves.json").write_text(content)
    with pytest.raises(UserError, match=r"saves\.json is damaged"):
        gpt2_ft.main([*flags, "--resume", "auto"])


@pytest.mark.parametrize("name", ["../model.2.pt", "/etc/passwd", "model\u001b[2J.pt"])
def test_saves_json_lists_files_of_its_folder_only(listed, name):
    listed["saves"][0]["files"][name] = "0" * 64
    assert "no name of a file of a run" in fault_in(listed)


DAMAGES = [
    lambda d: d | {"predict": [[]] * len(d["predict"])},
    lambda d: d | {"predict": [999] * len(d["predict"])},
    lambda d: d | {"predict": [-1] * len(d["predict"])},
    lambda d: d | {"predict": [True] * len(d["predict"])},
    lambda d: d | {"predict": d["predict"][:-1]},
    lambda d: d | {"predict": "abcdef"},
    lambda d: d | {"predict": {}},
    lambda d: d | {"context": [1.5]},
    lambda d: d | {"context": []},
    lambda d: d | {"seconds": "1"},
    lambda d: d | {"seconds": math.nan},
    lambda d: [],
    lambda d: 7,
]


def cut_after_three_batches(flags, monkeypatch):
    """Decode until an error in the fourth batch: what the first three gave is kept."""
    count, real = iter(range(99)), beam.beam_search
    with monkeypatch.context() as cut:
        cut.setattr(
            "lora_nlg.decoding.predictions.beam_search", lambda *a, **k: real(*a, **k) if next(count) < 3 else 1 / 0
        )
        with pytest.raises(ZeroDivisionError):
            gpt2_beam.main(flags)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_partial_prediction_is_decoded_again(tmp_path, damage, capsys, monkeypatch):
    """Fails when a prediction of a wrong type, or ids beyond the vocabulary, reach the output."""
    flags = [*runs.write_decoding(tmp_path, 22).split(), *DECODING]
    whole = tmp_path / "work/beam_prediction.jsonl"
    gpt2_beam.main(flags)
    expected = whole.read_bytes()
    partial = tmp_path / "work/beam_prediction.partial.jsonl"
    cut_after_three_batches(flags, monkeypatch)
    first, *lines = partial.read_text().splitlines(keepends=True)
    lines[2] = json.dumps(damage(json.loads(lines[2]))) + "\n"
    partial.write_text(first + "".join(lines))
    capsys.readouterr()
    assert gpt2_beam.main([*flags, "--resume"]) == 0
    assert "going on after 2 inputs" in capsys.readouterr().out
    assert whole.read_bytes() == expected


# Numbers that are none


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_an_error_that_names_the_input(tmp_path, monkeypatch, value):
    """Fails when NaN counts as impossible: the predictions would be zeros, and the exit code 0."""
    model = toy.model()
    real = type(model).logits
    monkeypatch.setattr(
        type(model), "logits", lambda self, hidden: real(self, hidden).index_fill(0, torch.tensor([1]), value)
    )
    with pytest.raises(beam.NotANumber) as error:
        beam.beam_search(model, [[1], [2, 3], [4]], toy.BeamConfig(2, 4))
    assert error.value.prompt == 1
    flags = [*runs.write_decoding(tmp_path, 22).split(), *DECODING]
    with pytest.raises(UserError, match=r"the logits for input \d+ of the data \(counted from 1\) are no numbers"):
        gpt2_beam.main(flags)


def test_skip_nan_in_fp16_leaves_the_batch_out(flags, tmp_path, monkeypatch, capsys):
    """With one micro-batch an update, nothing is left of it. Fails when the scaler is asked to take a step without gradients."""
    real, count = train.masked_loss, iter(range(1, 99))
    monkeypatch.setattr(
        train, "masked_loss", lambda m, b, *s: real(m, b, *s) * (math.nan if m.training and next(count) == 2 else 1)
    )
    assert gpt2_ft.main([*flags, "--precision", "fp16", "--skip_nan"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "work/log.jsonl").read_text().splitlines()]
    assert [line["skipped"]["step"] for line in lines if "skipped" in line] == [2]


def test_what_another_rank_leaves_out_is_named(tmp_path, monkeypatch, capsys):
    """Fails when only rank 0 reports: nobody would learn of rank 1's batch."""
    ranks = dist.Ranks(1, 2, torch.device("cpu"))
    run = train.Run.__new__(train.Run)
    run.ranks, run.step, run.skipped, run.config = ranks, 7, [], toy.TrainConfig(skip_nan=True)
    run.skip([3, 4], "the loss is nan")
    sent = run.skipped
    main = train.Run.__new__(train.Run)
    main.ranks, main.skipped, main.config = dist.Ranks(0, 2, torch.device("cpu")), [], run.config
    main.log = log.Log(tmp_path, 10, True)
    monkeypatch.setattr(dist, "gather_to_main", lambda value, ranks: [value, sent])
    main.report_skipped()
    main.log.close()
    assert json.loads((tmp_path / "log.jsonl").read_text())["skipped"] == {
        "step": 7,
        "items": [3, 4],
        "reason": "the loss is nan",
        "rank": 1,
    }
    assert "skipped | step       7 | rank 1 | the loss is nan | items 3, 4" in capsys.readouterr().out


# The log


@pytest.mark.parametrize("is_full", ["stdout", "both"])
def test_a_log_that_is_full_from_a_line_on_is_a_warning(is_full, tmp_path):
    """With 2>&1, as scripts have it, the warning cannot be written either. A program of its own, for its standard files are closed."""
    program = (
        f"import os, sys; sys.path.insert(0, {str(SRC)!r})\n"
        "from lora_nlg.training import log\n"
        "of_run = log.Log.__new__(log.Log)\n"
        "full = os.open('/dev/full', os.O_WRONLY)\n"
        f"for number in {[1] if is_full == 'stdout' else [1, 2]}: os.dup2(full, number)\n"
        "of_run._print('a line'); of_run._print('another')\n"
        f"open({str(tmp_path / 'end')!r}, 'w').write('reached')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "end").read_text() == "reached"
    assert done.stderr.count("what the training says cannot be written") == (is_full == "stdout")


def test_a_reader_of_the_log_that_goes_away_is_a_warning(tmp_path):
    """As a full disk is. Fails when hours of training end, unsaved, for a line that nobody reads."""
    command = [sys.executable, str(SRC / "gpt2_ft.py"), *runs.write_training(tmp_path).split()]
    command += "--lora_dim 4 --max_step 30 --train_batch_size 4 --log_interval 1 --device cpu".split()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "examples," not in process.stdout.readline():
        assert process.poll() is None
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait() == 0, said
    assert said.count("warning: what the training says cannot be written (Broken pipe); it goes on") == 1
    assert (tmp_path / "work/model.final.pt").is_file()


@pytest.mark.parametrize(
    "program", ["src/describe_task.py e2e --field references", "src/count_parameters.py --lora_dim 4"]
)
def test_of_a_program_it_is_one_sentence(program):
    with open("/dev/full", "w") as full:
        command = [sys.executable, *program.split()]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=SRC.parent)
    assert done.returncode == 2
    assert "error: cannot write its output: No space left on device" in done.stderr and done.stderr.count("\n") == 1


def test_a_name_that_is_no_utf8_is_recorded_so_that_it_can_be_read(tmp_path):
    """As half of a surrogate pair it made run.json one that no later step read."""
    made = record.Record(tmp_path / "run.json", ["--work_dir", "caf\udce9"])
    made.write()
    assert json.loads((tmp_path / "run.json").read_text())["argv"] == ["--work_dir", "caf\\udce9"]


def test_closed_standard_files_are_no_traceback(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"context": "a", "completion": "b"}\n')
    encode = f"{sys.executable} src/gpt2_encode.py --input {tmp_path}/in.jsonl --output {tmp_path}/out.jsonl >&- 2>&-"
    assert subprocess.run(["bash", "-c", encode], cwd=SRC.parent).returncode == 0
    assert (tmp_path / "out.jsonl").is_file()
    ask = f"{sys.executable} src/gpt2_generate.py --init_checkpoint nowhere --model_card gpt2.sm <&-"
    done = subprocess.run(["bash", "-c", ask], cwd=SRC.parent, capture_output=True, text=True)
    assert done.returncode == 2 and "standard input is closed" in done.stderr


def test_a_disk_full_at_a_log_line_is_a_warning(flags, tmp_path, monkeypatch, capsys):
    """Half a line fits, later ones do again. Fails when the training ends, or half a line stays in the log."""
    real, count = log.Log._append, iter(range(99))

    class Full:
        """A file on a disk that is full."""

        def __init__(self, file):
            self.file, self.name = file, file.name

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, content):
            return self.file.write(content[:5])

    def append(self, line):
        full, file = next(count) == 1, self.file
        self.file = Full(file) if full else file
        real(self, line)
        self.file = file

    monkeypatch.setattr(log.Log, "_append", append)
    assert gpt2_ft.main([*flags, "--log_interval", "1"]) == 0
    said = capsys.readouterr().err
    assert said.count("log.jsonl cannot be written (No space left on device)") == 1
    assert "warning: 1 lines of log.jsonl could not be written" in said
    lines = [json.loads(line) for line in (tmp_path / "work/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "step" in line] == [1, 3, 4]
    assert errno.ENOSPC


@pytest.mark.parametrize("restored", [1, 3])
def test_losses_of_a_save_and_of_a_gpu_are_one_interval(tmp_path, restored):
    """The meta device stands for a GPU: tensors of two devices cannot be stacked. Fails when restored losses stay on the CPU."""
    state = dict(losses=torch.zeros(restored), n_tokens=5, seconds=1.0, bytes=0)
    resumed = log.Log(tmp_path, 10, True, state=state, step=restored)
    resumed.add(torch.zeros((), device="meta"), 5)
    assert resumed._stacked().shape == (restored + 1,) and resumed._stacked().device.type == "meta"
    resumed.close()


@pytest.mark.parametrize("name", ["saves.json", "model.4.pt", "state.2.pt", "run.json", "model.final.pt"])
@pytest.mark.parametrize("resume", [[], ["--resume", "auto"], ["--resume", "never"]])
def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_is_moved(flags, tmp_path, name, resume, capsys):
    """Fails when a run's results are in previous/ by the time that the folder is found out."""
    assert gpt2_ft.main(flags) == 0
    work = tmp_path / "work"
    (work / name).rename(tmp_path / "away")
    (work / name).mkdir()
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.suffix != ".lock"}
    with pytest.raises(UserError, match=f"{name}(: it)? is a folder"):
        gpt2_ft.main([*flags, *resume])
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.suffix != ".lock"} == before


def test_what_saves_json_says_twice_is_not_believed(listed, flags, tmp_path, capsys):
    """Fails when the second list, which is empty, starts a run anew that deletes the first one's saves."""
    text = (tmp_path / "work/saves.json").read_text()
    (tmp_path / "work/saves.json").write_text(text.rstrip().removesuffix("}") + ', "saves": []}')
    with pytest.raises(UserError, match=r"saves\.json is damaged \(it has 'saves' twice\)"):
        gpt2_ft.main(flags)


def test_a_second_prediction_for_an_input_is_not_believed(tmp_path, monkeypatch, capsys):
    flags = [*runs.write_decoding(tmp_path, 22).split(), *DECODING]
    gpt2_beam.main(flags)
    expected = (tmp_path / "work/beam_prediction.jsonl").read_bytes()
    partial = tmp_path / "work/beam_prediction.partial.jsonl"
    cut_after_three_batches(flags, monkeypatch)
    one = json.loads(partial.read_text().splitlines()[1])
    with open(partial, "a") as file:
        file.write(json.dumps(one | {"predict": one["predict"][::-1]}) + "\n")
    assert gpt2_beam.main([*flags, "--resume"]) == 0
    assert (tmp_path / "work/beam_prediction.jsonl").read_bytes() == expected


def test_skip_nan_in_fp16_of_the_first_batch_of_one_rank(flags, tmp_path, monkeypatch, capsys):
    """Others have something to learn from, so the step is taken. Fails when a scaler that has scaled nothing is asked to undo it."""
    real, count = train.masked_loss, iter(range(1, 99))
    monkeypatch.setattr(
        train, "masked_loss", lambda m, b, *s: real(m, b, *s) * (math.nan if m.training and next(count) == 1 else 1)
    )
    monkeypatch.setattr(dist, "sum_over_ranks", lambda value, ranks: 1)

    def as_others_have_them(trained, *_):
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

    monkeypatch.setattr(dist, "average_gradients", as_others_have_them)
    assert gpt2_ft.main([*flags, "--precision", "fp16", "--skip_nan"]) == 0


@pytest.mark.parametrize("program", ["train", "decode"])
def test_a_pipe_is_no_data(program, flags, tmp_path):
    """It would be read once for the data and once, empty, for their sha256. Fails when it is waited for."""
    if program == "decode":
        flags = [*runs.write_decoding(tmp_path, 3).split(), *DECODING]
    name = tmp_path / ("train.jsonl" if program == "train" else "data.jsonl")
    name.unlink()
    os.mkfifo(name)
    with pytest.raises(UserError, match="is a pipe or a device, which can be read once; save it to a file"):
        (gpt2_ft if program == "train" else gpt2_beam).main(flags)


def test_a_run_that_comes_to_nothing_takes_no_weights_place(flags, tmp_path, capsys):
    """Fails when the second start after a finished run deletes what the first one moved to previous/."""
    assert gpt2_ft.main(flags) == 0
    weights = (tmp_path / "work/model.final.pt").read_bytes()
    for _ in range(3):
        with pytest.raises(UserError, match="the loss of step"):
            gpt2_ft.main([*flags, "--lr", "1e37", "--save_interval", "100"])
        assert (tmp_path / "work/previous/model.final.pt").read_bytes() == weights
    assert gpt2_ft.main(flags) == 0 and gpt2_ft.main([*flags, "--random_seed", "3"]) == 0
    assert (tmp_path / "work/previous/model.final.pt").read_bytes() == weights


@pytest.mark.parametrize("program", ["train", "decode"])
def test_an_empty_work_dir_is_not_the_current_one(program, flags, tmp_path, monkeypatch):
    if program == "decode":
        flags = [*runs.write_decoding(tmp_path, 3).split(), *DECODING]
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    with pytest.raises(UserError, match="--work_dir must be the name of a folder, but is ''"):
        (gpt2_ft if program == "train" else gpt2_beam).main([*flags, "--work_dir", ""])
    assert set(tmp_path.iterdir()) == before


OF_A_TRAINING = [
    "model.final.pt",
    "state.2.pt",
    "saves.json",
    "log.jsonl",
    "adapter.safetensors",
    "run.json",
    "run.jsonl",
]


@pytest.mark.parametrize("name", OF_A_TRAINING)
def test_an_output_takes_no_place_of_a_trainings(name, tmp_path):
    """Fails when predictions stand in the place of weights, or a decoding waits for its own lock."""
    flags = [*runs.write_decoding(tmp_path, 3).split(), *DECODING]
    with pytest.raises(UserError, match="--output_file must be a name that no file of a training has"):
        gpt2_beam.main([*flags, "--output_file", name])


def test_an_output_takes_no_place_of_its_own_base(tmp_path):
    flags = [*runs.write_decoding(tmp_path, 3).split(), *DECODING]
    before = (tmp_path / "base.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"base\.safetensors: it is an input, too, and would be lost"):
        gpt2_beam.main([*flags, "--work_dir", str(tmp_path), "--output_file", "base.safetensors"])
    assert (tmp_path / "base.safetensors").read_bytes() == before


@pytest.mark.parametrize("resume", ["9" * 5000, "1" * 30, "-1", "two"])
def test_a_step_that_no_run_has_is_one_sentence(resume, flags, tmp_path, capsys):
    gpt2_ft.main(flags)
    listed = json.loads((tmp_path / "work/saves.json").read_text())
    (tmp_path / "work/saves.json").write_text(json.dumps(listed | {"final": None}))
    with pytest.raises(UserError, match="--resume must be auto, never or the step of a save"):
        gpt2_ft.main([*flags, f"--resume={resume}"])


def test_a_seed_beyond_all_is_one_sentence(tmp_path):
    flags = [*runs.write_decoding(tmp_path, 3).split(), *DECODING, "--init_checkpoint", "random"]
    with pytest.raises(UserError, match="--random_seed must be from 0 to"):
        gpt2_beam.main([*flags, "--random_seed", str(2**64)])
