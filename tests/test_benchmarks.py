"""The benchmarks run, on a toy, and count as they say. Nothing here is timed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lora_nlg.config import ModelConfig

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = (
    "train_step.py",
    "beam.py",
    "whole_set.py",
    "score.py",
    "scaling.py",
    "soak.py",
    "first_call.py",
    "methods.py",
    "pipeline.py",
)


def load(name: str):
    """Return a module of benchmarks/, which no other test can import by accident."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*command, **environment) -> subprocess.CompletedProcess:
    """Run a command in the checkout with one thread a process, and expect it to end well."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def smoke(script: str, *flags) -> dict:
    """Return what a script's smoke run prints as its last line."""
    done = run(sys.executable, BENCHMARKS / script, "--smoke", "--threads", 1, *flags)
    assert "| --- |" in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_comes_without_torch(script):
    """Fails when a heavy import comes before the arguments are parsed."""
    code = "import sys, runpy; sys.modules['torch'] = None; sys.argv[1:] = ['--help']; "
    code += f"runpy.run_path({str(BENCHMARKS / script)!r}, run_name='__main__')"
    assert "usage:" in run(sys.executable, "-c", code, PYTHONPATH=str(BENCHMARKS)).stdout


@pytest.mark.slow
def test_methods_run():
    pytest.importorskip("peft")
    result = smoke("methods.py", "--methods", "prefix_kv,fourier")
    assert set(result["seconds_a_step"]) == {
        "lora",
        "prefix_kv",
        "fourier",
        "PEFT's lora",
        "PEFT's prefix_kv",
        "PEFT's fourier",
    }
    assert set(result["decoding"]) == {"the base", "lora, merged", "prefix_kv"}  # the others are merged as LoRA is


@pytest.mark.slow
def test_train_step_runs():
    pytest.importorskip("peft")
    result = smoke("train_step.py")
    modes = {"ours", "peft", "recipe"}
    assert set(result["seconds_a_step"]) == set(result["memory_mib"]) == modes
    assert set(result["times_slower_than_ours"]) == modes - {"ours"}
    assert "NOT E2E" in result["data"]


@pytest.mark.slow
def test_first_call_runs():
    """That no process differs after the calls is shown by the full run; here that both are counted."""
    result = json.loads(run(sys.executable, BENCHMARKS / "first_call.py", "--smoke").stdout.splitlines()[-1])
    assert result["processes"] == 16 and result["differ_after_calls"] == 0


@pytest.mark.slow
def test_beam_runs():
    pytest.importorskip("transformers")
    result = smoke("beam.py")
    systems = {"ours", "transformers", "floor"} | (
        {"ctranslate2"} if importlib.util.find_spec("ctranslate2") else set()
    )
    assert set(result["seconds"]) == systems


@pytest.mark.slow
def test_beam_compares_merged_adapters_with_the_base():
    result = smoke("beam.py", "--merged")
    assert 0 < result["logits_apart"] < 1e-3
    assert set(result["seconds"]) == {"base", "merged", "apart"} and set(result["switch_seconds"]) == {
        "merged",
        "apart",
    }


@pytest.mark.slow
def test_whole_set_estimates_the_recipe():
    result = smoke("whole_set.py")
    assert (result["lines"], result["distinct"]) == (288, 72)
    assert result["recipe_seconds"]["median"] > result["ours_seconds"]["median"]
    assert result["ours_tokens"] == 8


def test_an_enlarged_model_computes_the_same(monkeypatch):
    """Fails when heads are cut through, a sum over n equal inputs is not divided by n, or a further block adds something."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    whole_set, harness = load("whole_set"), load("harness")
    small = harness.random_model(ModelConfig(n_embd=16, n_layer=2, n_head=2, n_positions=32, vocab_size=50))
    with torch.no_grad():
        for p in small.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    ids = torch.arange(30).view(2, 15)
    for shape in (small.config, ModelConfig(n_embd=48, n_layer=3, n_head=6, n_positions=64, vocab_size=50)):
        large = whole_set.enlarged(small, shape)
        assert large.config == shape
        assert torch.allclose(large.logits(large(ids)), small.logits(small(ids)), atol=1e-5)


@pytest.mark.slow
def test_score_runs():
    result = smoke("score.py")
    assert 0 < result["scores"]["BLEU"] < 1
    assert result["encoding"]["lines"] == 2286


@pytest.mark.slow
def test_scaling_runs_on_two_ranks():
    rows = smoke("scaling.py")["rows"]
    assert [row["ranks"] for row in rows] == [1, 2]
    assert all(row["tokens_a_second"] > 0 and row["peak_mib"] > 0 for row in rows)


@pytest.mark.slow
def test_pipeline_runs_on_more_and_more_data():
    rows = smoke("pipeline.py", "--without_model")["rows"]
    lines = [("format", 60), ("encode", 60), ("ids to text", 20), ("score", 20)]
    assert [(row["program"], row["lines"]) for row in rows] == [*lines, *((name, 2 * n) for name, n in lines)]
    assert all(row["seconds"] > 0 and row["peak_mib"] > 0 for row in rows)


@pytest.mark.slow
def test_gpu_runs_without_one(tmp_path):
    """The stages and their table; on the CPU, which the table says."""
    done = run("bash", BENCHMARKS / "gpu.sh", tmp_path, GPU="0", PYTHON=sys.executable)
    lines = done.stdout.splitlines()
    [result] = [json.loads(line) for line in lines if line.startswith("{")]
    assert result["device"] == "CPU: no result"
    assert result["decoding"]["inputs"] == 4
    assert result["plain"]["ms_a_step"]["median"] > 0
    assert lines[-1].startswith("| pytest -m gpu |")


def test_rounds_are_interleaved():
    """Fails for A A B B, and when a mode with fewer rounds gets the others' number."""
    calls = []
    modes = {name: (lambda number, name=name: calls.append((name, number))) for name in "AB"}
    seconds = load("harness").interleave(modes, {"A": 2, "B": 1})
    assert calls == [("A", 0), ("B", 0), ("A", 1)]
    assert {name: len(values) for name, values in seconds.items()} == {"A": 2, "B": 1}


def test_ratios_are_within_a_round():
    assert load("harness").ratio([2, 40, 3], [1, 10, 1]) == 3  # 2, 4 and 3; the medians' quotient would be 3 / 1


def test_nothing_is_timed_unless_outputs_agree():
    with pytest.raises(SystemExit, match="do not agree"):
        load("harness").require(False, "1 is not 2")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak of a process is asked of Linux here")
def test_memory_is_of_the_process_alone():
    """Fails with getrusage, whose peak a process takes over from its parent."""
    filled = bytearray(os.urandom(1)) * (200 << 20)
    peak = float(
        run(sys.executable, "-c", "import harness; print(harness.peak_mib())", PYTHONPATH=str(BENCHMARKS)).stdout
    )
    assert peak < len(filled) / (1 << 20)


def test_a_step_needs_what_a_real_one_is_counted_to_do():
    """transformers' GPT-2 without padding, counted by torch: the blocks forward, and backward down to the first c_attn's output."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from torch.utils.flop_counter import FlopCounterMode

    C, T, V, layers = 8, 5, 11, 3
    shape = ModelConfig(n_embd=C, n_layer=layers, n_head=2, n_positions=16, vocab_size=V)
    model = load("hugging_face").gpt2(shape)
    model.set_attn_implementation("eager")
    model.requires_grad_(False)
    model.transformer.h[0].attn.c_attn.bias.requires_grad_(True)
    ids = torch.arange(T).unsqueeze(0)
    with FlopCounterMode(display=False) as forward:
        loss = model(ids, labels=ids).loss
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    parts = load("work").training_flop(shape, 1, [T], [T])
    attention_product, logits = 2 * C * T * T, 2 * T * C * V  # eager attention multiplies what the mask then hides
    assert parts["blocks_forward"] == forward.get_total_flops() - layers * 2 * attention_product - logits
    assert parts["blocks_backward"] == backward.get_total_flops() - layers * 4 * attention_product - logits
    assert parts["logits"] == 2 * logits


def test_attention_and_adapters_are_counted_as_by_hand():
    """Two examples of 3 and 2 tokens, one layer, C = 2, R = 1, 4 positions learnt."""
    parts = load("work").training_flop(ModelConfig(2, 1, 1, 4, vocab_size=7), 1, [3, 2], [2, 2])
    assert parts["attention_forward"] == 2 * (2 * 2 * 6 + 2 * 2 * 3)  # two products over 6 and 3 pairs of tokens
    assert parts["attention_backward"] == 3 * (2 * 2 * 6 + 2 * 2 * 3)  # three: the first block's keys learn nothing
    # down, up, their gradients, and that of up's input; in the first block nobody wants that of down's
    assert parts["adapters"] == 40 + 40 + 80 + 40
    assert parts["logits"] == 2 * 2 * 4 * 2 * 7
    assert parts["blocks_forward"] == 5 * 24 + 4 * (8 + 64)  # c_attn at all 5 positions, c_proj and MLP at the learnt 4
    assert parts["blocks_backward"] == 4 * (8 + 64)
    assert parts["needed"] == sum(value for part, value in parts.items() if part != "needed")
