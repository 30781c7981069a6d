"""Decoding a file: what is decoded is kept as it comes, and a killed process goes on to the same output."""

import itertools
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import gpt2_beam
import runs
import toy
from lora_nlg import errors
from lora_nlg.decoding import predictions
from lora_nlg.methods import adapter_tensors, add_adapters
from lora_nlg.methods.placement import LoraConfig
from lora_nlg.storage import checkpoints

SRC = Path(__file__).resolve().parents[1] / "src"


@pytest.fixture
def flags(tmp_path):
    """Flags that decode 30 toy inputs, two of them on two lines, into tmp_path/work."""
    search = "--precision fp64 --device cpu --seq_len 64 --eval_len 20 --beam 3 --eos_token_id 162 --batch_size 4"
    return f"{runs.write_decoding(tmp_path, toy.examples(30) + toy.examples(30)[3:5])} {search}".split()


@pytest.fixture
def whole(flags, tmp_path, capsys):
    """The output of a run without an interruption."""
    gpt2_beam.main([*flags, "--work_dir", str(tmp_path / "whole")])
    return (tmp_path / "whole/beam_prediction.jsonl").read_bytes()


def cut_after(monkeypatch, batches: int) -> None:
    real, count = predictions.beam_search, iter(range(100))

    def beam_search(*args, **named):
        if next(count) == batches:
            raise KeyboardInterrupt
        return real(*args, **named)

    monkeypatch.setattr(predictions, "beam_search", beam_search)


@pytest.fixture
def cut_run(flags, tmp_path, monkeypatch, capsys):
    """A work dir with what three batches of four left."""
    with monkeypatch.context() as cut:
        cut_after(cut, 3)
        with pytest.raises(KeyboardInterrupt):
            gpt2_beam.main(flags)
    capsys.readouterr()
    return tmp_path / "work"


def partial(work: Path) -> Path:
    return work / "beam_prediction.partial.jsonl"


def test_it_goes_on_where_it_was_cut(cut_run, flags, whole, monkeypatch, capsys):
    """Fails when what was decoded is decoded again, lost, or given to another line."""
    assert not (cut_run / "beam_prediction.jsonl").exists()
    cut_after(monkeypatch, 5)  # 18 inputs are left: five batches
    assert gpt2_beam.main([*flags, "--resume"]) == 0
    assert "going on after 12 inputs" in capsys.readouterr().out
    assert (cut_run / "beam_prediction.jsonl").read_bytes() == whole
    assert not partial(cut_run).exists()


@pytest.mark.parametrize("tail", [b'{"context": [1, 2], "pre', b"\x00\x00\n", b'{"context": 3}\n'])
def test_what_a_killed_process_wrote_last_does_not_count(cut_run, flags, whole, tail, capsys):
    with open(partial(cut_run), "ab") as file:
        file.write(tail)
    assert gpt2_beam.main([*flags, "--resume"]) == 0
    assert "going on after 12 inputs" in capsys.readouterr().out
    assert (cut_run / "beam_prediction.jsonl").read_bytes() == whole


def test_without_the_flag_it_starts_anew(cut_run, flags, whole, capsys):
    assert gpt2_beam.main(flags) == 0
    assert "going on" not in capsys.readouterr().out
    assert (cut_run / "beam_prediction.jsonl").read_bytes() == whole


@pytest.mark.parametrize("change", ["--beam 2", "--eval_len 19", "--init_checkpoint random", "--precision fp32"])
def test_other_settings_start_anew(cut_run, flags, change, capsys):
    """Fails when a file of other settings is taken up: its predictions would be mixed in without a word."""
    assert gpt2_beam.main([*flags, *change.split(), "--resume"]) == 0
    assert "going on" not in capsys.readouterr().out


def test_more_data_need_only_the_new_inputs(cut_run, flags, tmp_path, capsys):
    with open(tmp_path / "data.jsonl", "a") as file:
        file.write(json.dumps(vars(toy.examples(31)[30])) + "\n")
    assert gpt2_beam.main([*flags, "--resume"]) == 0
    assert "going on after 12 inputs" in capsys.readouterr().out
    assert len((cut_run / "beam_prediction.jsonl").read_text().splitlines()) == 33


def test_a_finished_output_is_not_decoded_again(flags, tmp_path, capsys):
    gpt2_beam.main(flags)
    output = tmp_path / "work/beam_prediction.jsonl"
    before = output.stat().st_mtime_ns
    assert gpt2_beam.main([*flags, "--resume"]) == 0
    assert "decoded with these settings already" in capsys.readouterr().out
    assert output.stat().st_mtime_ns == before
    output.write_text("changed by hand\n")
    assert gpt2_beam.main([*flags, "--resume"]) == 0
    assert len(output.read_text().splitlines()) == 32


def test_seconds_of_every_distinct_input_are_recorded(flags, tmp_path, monkeypatch, capsys):
    """By a clock that a batch takes one second of. Fails when all inputs of a batch have the same share."""
    monkeypatch.setattr(predictions.time, "perf_counter", itertools.count().__next__)
    gpt2_beam.main(flags)
    record = json.loads((tmp_path / "work/beam_prediction.run.json").read_text())
    assert len(record["input_seconds"]) == 30 and all(seconds > 0 for seconds in record["input_seconds"])
    assert sum(record["input_seconds"]) == pytest.approx(8, abs=0.05)  # batches of four
    assert len(set(record["input_seconds"])) > 30 // 4


def test_a_disk_that_fills_up_is_one_sentence(flags, tmp_path, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(predictions, "open", refuse, raising=False)
    with pytest.raises(errors.UserError, match=r"cannot write .*partial\.jsonl: No space left on device"):
        gpt2_beam.main(flags)


def start(flags: list[str]) -> subprocess.Popen:
    command = [sys.executable, str(SRC / "gpt2_beam.py"), *flags, "--resume"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def n_decoded(work: Path) -> int:
    return max(0, partial(work).read_bytes().count(b"\n") - 1) if partial(work).exists() else 0


@pytest.mark.slow
def test_killed_ten_times_it_writes_the_same_file(flags, tmp_path, capsys):
    """SIGKILL after a batch or more, at random moments within one."""
    runs.write_examples(tmp_path / "data.jsonl", 100)
    work, moments, reached = tmp_path / "work", random.Random(7), 0
    one_by_one = [*flags, "--batch_size", "1"]
    for _ in range(10):
        process = runs.Forked("gpt2_beam", [*one_by_one, "--resume"], tmp_path / "said")
        end = time.monotonic() + 120
        while n_decoded(work) <= reached:
            if time.monotonic() > end or process.poll() is not None:
                process.kill()
                raise AssertionError(process.communicate())
            time.sleep(0.002)
        time.sleep(moments.random() * 0.02)
        process.kill()
        process.communicate()
        assert process.poll() == -signal.SIGKILL
        reached = n_decoded(work)
    assert reached < 100
    assert gpt2_beam.main([*one_by_one, "--resume"]) == 0
    gpt2_beam.main([*one_by_one, "--work_dir", str(tmp_path / "whole")])
    outputs = [(folder / "beam_prediction.jsonl").read_bytes() for folder in (work, tmp_path / "whole")]
    assert outputs[0] == outputs[1]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_says_how_to_go_on(number, code, flags, tmp_path):
    runs.write_examples(tmp_path / "data.jsonl", 200)
    process = start([*flags, "--batch_size", "1"])
    while n_decoded(tmp_path / "work") == 0:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == code
    assert "what is decoded is kept, and the same command with --resume goes on" in said
    assert "Traceback" not in said


# Several adapters in one process


@pytest.fixture
def several(flags, tmp_path):
    """Flags that decode with two adapters of different placement; the second makes a text of its own."""
    adapters = {name: t for name, t in toy.tensors(4).items() if "lora_" in name}
    checkpoints.save_adapters(adapters, tmp_path / "first.safetensors", LoraConfig(4, 32))
    other, model = (
        LoraConfig({"o": 2, "wte": 3}, 8, dropout=0.1, targets=("o", "wte"), layers=(1,), init="gaussian_b:0.3"),
        toy.model(0),
    )
    add_adapters(model, other, torch.Generator().manual_seed(3))
    checkpoints.save_adapters(adapter_tensors(model), tmp_path / "second.safetensors", other)
    names = [str(tmp_path / f"{name}.safetensors") for name in ("first", "second")]
    return [*flags, "--lora_checkpoint", names[0], "--lora_checkpoint", names[1]]


def alone(flags, tmp_path, name: str) -> bytes:
    """What a run of its own decodes with the adapters `name`."""
    gpt2_beam.main(
        [*flags, "--lora_checkpoint", str(tmp_path / f"{name}.safetensors"), "--work_dir", str(tmp_path / name)]
    )
    return (tmp_path / name / "beam_prediction.jsonl").read_bytes()


@pytest.mark.slow
def test_several_adapters_decode_as_each_does_alone(several, flags, whole, tmp_path, capsys):
    """Fails when the second is put on top of the first."""
    assert gpt2_beam.main(several) == 0
    outputs = [(tmp_path / f"work/beam_prediction.{number}.jsonl").read_bytes() for number in (1, 2)]
    assert outputs == [alone(flags, tmp_path, "first"), alone(flags, tmp_path, "second")]
    assert len({*outputs, whole}) == 3
    said = capsys.readouterr().out
    assert (
        said.index("with " + str(tmp_path / "first"))
        < said.index("beam_prediction.1")
        < said.index("beam_prediction.2")
    )
    records = [json.loads((tmp_path / f"work/beam_prediction.{n}.run.json").read_text()) for n in (1, 2)]
    assert [record["settings"]["lora"]["targets"] for record in records] == [["q", "v"], ["o", "wte"]]


@pytest.mark.slow
def test_the_second_adapters_are_merged_into_a_base_that_was_not_rounded_for_the_first(
    several, flags, tmp_path, monkeypatch, capsys
):
    """In half precision one adapter's matrices are stored rounded; what comes after it needs the base as it was."""
    used, real = [], predictions.decode

    def spy(model, *rest):
        used.append({name: p.detach().bfloat16() for name, p in model.named_parameters()})
        return real(model, *rest)

    monkeypatch.setattr(predictions, "decode", spy)
    gpt2_beam.main([*several, "--precision", "bf16"])
    alone([*flags, "--precision", "bf16"], tmp_path, "second")
    _, second, by_itself = used
    assert all(torch.equal(second[name], tensor) for name, tensor in by_itself.items())


@pytest.mark.slow
def test_each_of_several_goes_on_by_itself(several, flags, tmp_path, monkeypatch, capsys):
    """Cut in the second: the first is not decoded again, the second goes on. Fails when one takes the other's predictions."""
    named = [*several, "--output_file", "a.jsonl", "--output_file", "b.jsonl"]
    with monkeypatch.context() as cut:
        cut_after(cut, 8 + 3)  # 30 inputs are eight batches
        with pytest.raises(KeyboardInterrupt):
            gpt2_beam.main(named)
    capsys.readouterr()
    assert (tmp_path / "work/a.jsonl").exists() and not (tmp_path / "work/b.jsonl").exists()
    cut_after(monkeypatch, 5)  # 18 inputs are left
    assert gpt2_beam.main([*named, "--resume"]) == 0
    said = capsys.readouterr().out
    assert "a.jsonl is decoded with these settings already" in said and "going on after 12 inputs" in said
    monkeypatch.undo()
    assert (tmp_path / "work/b.jsonl").read_bytes() == alone(flags, tmp_path, "second")


def test_other_adapters_are_other_settings(several, flags, tmp_path, capsys):
    """Also those that say the same of themselves."""
    halved = {name: t / 2 for name, t in runs.adapters().items()}
    checkpoints.save_adapters(halved, tmp_path / "second.safetensors", LoraConfig(4, 32))
    one = [*flags, "--lora_checkpoint", str(tmp_path / "first.safetensors"), "--output_file", "one.jsonl"]
    gpt2_beam.main(one)
    capsys.readouterr()
    one[-3] = str(tmp_path / "second.safetensors")
    gpt2_beam.main([*one, "--resume"])
    assert "already" not in capsys.readouterr().out


def test_a_wrong_second_adapter_is_found_out_before_the_first_decodes(several, tmp_path):
    tensors = {name: t for name, t in runs.adapters().items() if "h.0" in name}
    checkpoints.save_adapters(tensors, tmp_path / "second.safetensors", LoraConfig(4, 32))
    with pytest.raises(errors.UserError, match=r"second\.safetensors does not fit the model .*h\.1.* is missing"):
        gpt2_beam.main(several)
    assert not (tmp_path / "work").exists()
