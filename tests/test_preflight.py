"""What is checked before hours of training, and that one failure does not hide the next."""

import collections

import pytest

import preflight
import toy
from lora_nlg import errors
from lora_nlg.errors import UserError
from lora_nlg.training import needs
from runs import write_training

Usage = collections.namedtuple("Usage", "total used free")


@pytest.fixture
def flags(tmp_path, monkeypatch):
    """Flags of a run that could start, with a Java and a vocabulary that pass."""
    monkeypatch.setattr(preflight, "java", lambda: "Java 17 runs")
    monkeypatch.setattr(preflight, "vocabulary", lambda: "GPT-2's")
    return f"{write_training(tmp_path, n_valid=22)} --device cpu --lora_dim 4 --max_step 5".split()


def run(flags, monkeypatch, capsys) -> tuple[int, dict[str, str], str]:
    """Return the exit code, the checks' lines by name, and what stderr says."""
    monkeypatch.setattr("sys.argv", ["preflight.py", *flags])
    code = errors.run(preflight.main)
    said = capsys.readouterr()
    return code, {line[:10].strip(): line[11:] for line in said.out.splitlines()}, said.err


def test_a_run_that_can_start(flags, monkeypatch, capsys):
    code, lines, _ = run(flags, monkeypatch, capsys)
    assert code == 0
    assert list(lines) == ["data", "base", "vocabulary", "java", "work dir", "disk", "memory"]
    assert all(line.startswith("ok") for line in lines.values())
    longest = max(len(e.context) + len(e.completion) for e in toy.examples(22))
    assert f"22 and 22 examples, the longest of {longest} tokens" in lines["data"]


def test_all_failures_are_named_at_once(flags, tmp_path, monkeypatch, capsys):
    def no_java():
        raise UserError("no Java runs")

    (tmp_path / "work").write_text("a file")
    (tmp_path / "base.safetensors").unlink()
    monkeypatch.setattr(preflight, "java", no_java)
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda path: Usage(1, 1, 100))
    monkeypatch.setattr(needs, "_available_memory", lambda: 1000)
    code, lines, error = run(flags, monkeypatch, capsys)
    assert code == 2
    failed = {name for name, line in lines.items() if line.startswith("NO")}
    assert failed == {"base", "java", "work dir", "disk", "memory"}
    assert error.startswith("preflight.py: error: 5 of the checks above failed, the first is base: ")
    assert error.count("\n") == 1
    assert "base.safetensors does not exist" in lines["base"]
    assert "free some space, or lower --keep_last" in lines["disk"]
    assert "smaller --train_batch_size" in lines["memory"]


@pytest.mark.parametrize(("flag", "value"), [("--lora_dim", "33"), ("--lora_targets", "q,x")])
def test_adapters_that_do_not_fit_are_found_out(flags, monkeypatch, capsys, flag, value):
    code, _, error = run([*flags, flag, value], monkeypatch, capsys)
    assert code == 2
    assert f"{flag} must be" in error


def test_data_that_cannot_be_read_fail_where_they_are_needed(flags, tmp_path, monkeypatch, capsys):
    (tmp_path / "train.jsonl").write_text("{}\n")
    code, lines, _ = run(flags, monkeypatch, capsys)
    assert code == 2
    assert {name for name, line in lines.items() if line.startswith("NO")} == {"data", "memory"}
    assert "train.jsonl:1" in lines["data"]


@pytest.mark.parametrize(
    ("adapters", "trained"),
    [
        ("--lora_dim 4", 2 * 4 * 2 * 32 * 2),
        ("--lora_dim 0", 64_992),
        ("--lora_dim 3 --lora_targets o,fc,wte --lora_layers 1", 3 * (64 + 160 + 32 + 211)),
        ("--lora_dim 0 --lora_budget 1k --lora_targets q", 7 * 64 * 2),
    ],
)
def test_disk_is_for_all_saves_that_can_be_there_at_once(flags, adapters, trained, monkeypatch):
    """Three saves, a fourth while it is written, each of weights and two averages; best, final, adapter, and an earlier run's."""
    args = preflight.gpt2_ft.parser().parse_args([*flags, *adapters.split()])
    need = 4 * trained * (4 * 3 + 5)
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda path: Usage(0, 0, need))
    needs.Run(args).disk()
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda path: Usage(0, 0, need - 1))
    with pytest.raises(UserError, match="needs about"):
        needs.Run(args).disk()


def test_memory_grows_with_batch_and_model(flags, monkeypatch):
    def need(*more):
        found = []
        monkeypatch.setattr(needs, "_compare", lambda need, *rest: found.append(need))
        needs.Run(preflight.gpt2_ft.parser().parse_args([*flags, *more])).memory()
        return found[0]

    assert (
        need("--train_batch_size", "16")
        > need("--train_batch_size", "8")
        > need("--train_batch_size", "8", "--seq_len", "9")
    )
    assert need("--model_card", "gpt2.md") - need("--model_card", "gpt2.sm") > 4 * 230e6  # the weights alone
    assert need("--lora_dim", "0", "--model_card", "gpt2.md") > 4 * 4 * 354e6  # weights, gradient, two averages
