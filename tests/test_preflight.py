"""What is checked before hours of training, and that one failure does not hide the next."""

import collections
import json
from pathlib import Path

import pytest
import torch

import gpt2_beam
import preflight
import toy
from lora_nlg import config, errors, locks, memory
from lora_nlg.data import bpe
from lora_nlg.decoding import beam
from lora_nlg.decoding import needs as decoding_needs
from lora_nlg.errors import UserError
from lora_nlg.training import needs
from runs import write_adapters, write_card, write_decoding, write_training
from test_train import MISTAKES

Usage = collections.namedtuple("Usage", "total used free")


@pytest.fixture
def flags(tmp_path, monkeypatch):
    """Flags of a run that could start, with a Java and a vocabulary that pass."""
    monkeypatch.setattr(preflight, "java", lambda: "Java 17 runs")
    monkeypatch.setattr(preflight, "vocabulary", lambda args: "GPT-2's")
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
    assert list(lines) == ["flags", "data", "base", "vocabulary", "java", "work dir", "disk", "memory"]
    assert all(line.startswith("ok") for line in lines.values())
    longest = max(len(e.context) + len(e.completion) for e in toy.examples(22))
    assert f"22 and 22 examples, the longest of {longest} tokens" in lines["data"]


VOCABULARY = preflight.vocabulary


def test_texts_need_their_vocabulary_and_a_model_that_has_it(flags, tmp_path, monkeypatch):
    """Before hours of training. Fails when --vocab is not looked at, or is where nothing is decoded."""
    monkeypatch.setattr(bpe, "check_files", lambda folder: calls.append(str(folder)))
    parse, calls = preflight.gpt2_ft.parser().parse_args, []
    assert VOCABULARY(parse(flags)) == VOCABULARY(parse([*flags, "--eval_texts", "1", "--vocab", "v"]))
    assert [Path(call).name for call in calls] == ["vocab", "vocab", "v"]
    write_card(tmp_path, vocab_size=50258)
    with pytest.raises(UserError, match="has 50258 tokens, more than GPT-2's 50257, so its outputs are no texts"):
        VOCABULARY(parse([*flags, "--eval_texts", "1"]))


def test_all_failures_are_named_at_once(flags, tmp_path, monkeypatch, capsys):
    def no_java():
        raise UserError("no Java runs")

    (tmp_path / "work").write_text("a file")
    (tmp_path / "base.safetensors").unlink()
    monkeypatch.setattr(preflight, "java", no_java)
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda path: Usage(1, 1, 100))
    monkeypatch.setattr(memory, "available", lambda: 1000)
    code, lines, error = run(flags, monkeypatch, capsys)
    assert code == 2
    failed = {name for name, line in lines.items() if line.startswith("NO")}
    assert failed == {"base", "java", "work dir", "disk", "memory"}
    assert error.startswith("preflight.py: error: 5 of the checks above failed, the first is base: ")
    assert error.count("\n") == 1
    assert "base.safetensors does not exist" in lines["base"]
    assert "free some space, lower --keep_last, or pass --no_keep_epochs" in lines["disk"]
    assert "smaller --train_batch_size" in lines["memory"]


def test_a_seq_len_beyond_the_positions_is_said_once(both, tmp_path, monkeypatch, capsys):
    """For training and decoding together. Fails when either is checked with more than the positions."""
    write_card(tmp_path, n_positions=16)
    both += ["--eval_len", "16"]
    code, lines, said = run(["--seq_len", "512", *both], monkeypatch, capsys)
    assert said.count("so it is 16\n") == 1
    assert "the longest of 16 tokens" in lines["data"]
    assert "--eval_len 16 leaves no room for the context in --seq_len 16" in lines["decoding"]
    assert code == 2


@pytest.mark.parametrize(
    ("more", "words"),
    [
        *MISTAKES,
        ("--max_step 1 --lora_dim 4 --lora_checkpoint FOLDER/adapters.safetensors", "rank 2, not 4"),
        ("--max_step 1 --lora_dim 4 --init_checkpoint FOLDER/adapters.safetensors", "holds LoRA adapters"),
        ("--max_step 1 --lora_dim 4 --seq_len 64 --model_card gpt2.mini", "does not fit the model"),
        ("--max_step 1 --compare_curve FOLDER/config.json", "config.json"),
        ("--max_step 1 --work_dir FOLDER --train_data FOLDER/model.final.pt", "model.final.pt"),
        ("--max_step 1 --train_batch_size 16 --world_size 3", "makes 2 batches of 16, too few for 3 processes"),
        ("--max_step 1 --rank 2", "--rank must be from 0 to"),
        ("--max_step 1 --lora_dim 2 --lora_plus_ratio 0", "--lora_plus_ratio must be greater than 0"),
        ("--max_step 1 --weight_decay inf", "--weight_decay must be 0 or more, and finite"),
        ("--max_step 1 --resume 3", "holds no run to go on with"),
    ],
)
def test_what_training_refuses_is_refused_before(more, words, tmp_path, flags, monkeypatch, capsys):
    """Fails when a check of the training's beginning is left out; the first rows are test_train.py's own."""
    write_adapters(tmp_path / "adapters.safetensors", rank=2)
    (tmp_path / "model.final.pt").write_bytes((tmp_path / "train.jsonl").read_bytes())
    given = [*flags[: flags.index("--lora_dim")], *more.replace("FOLDER", str(tmp_path)).split()]
    try:
        code, _, said = run(given, monkeypatch, capsys)
    except SystemExit as stopped:  # argparse's own
        code, said = stopped.code, capsys.readouterr().err
    assert code == 2
    assert words in said and said.startswith("preflight.py: error: ") and said.count("\n") == 1
    assert not (tmp_path / "work").exists()


def test_an_unfinished_run_with_other_settings_is_refused_before(flags, tmp_path, monkeypatch, capsys):
    short = [*flags, "--save_interval", "2"]
    preflight.gpt2_ft.main(short)
    listed = json.loads((tmp_path / "work/saves.json").read_text())
    (tmp_path / "work/saves.json").write_text(json.dumps({**listed, "final": None}))
    capsys.readouterr()
    code, lines, _ = run([*short, "--resume", "auto"], monkeypatch, capsys)
    assert (code, lines["work dir"][-24:]) == (0, "; it goes on from step 5")
    for more, words in (
        (["--resume", "auto", "--lr", "7"], "other settings (optim.lr 1e-05, now 7.0)"),
        (["--resume", "auto", "--world_size", "2"], "world_size 1, now 2"),
        ([], "holds a run saved at step 5; pass --resume"),
    ):
        code, _, said = run([*short, *more], monkeypatch, capsys)
        assert code == 2 and words in said
    monkeypatch.setenv("RANK", "0")
    assert "RANK is in the environment" in run([*short, "--resume", "auto"], monkeypatch, capsys)[2]


def test_a_folder_in_use_is_refused_before_and_none_is_left(flags, tmp_path, monkeypatch, capsys):
    deep = [*flags, "--work_dir", str(tmp_path / "a/b/c")]
    assert run(deep, monkeypatch, capsys)[0] == 0
    assert not (tmp_path / "a").exists()
    with locks.held(locks.of_folder(tmp_path / "a")):
        code, lines, _ = run([*flags, "--work_dir", str(tmp_path / "a")], monkeypatch, capsys)
    assert code == 2
    assert "is in use by" in lines["work dir"]


def test_the_help_is_of_preflight(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["preflight.py"])
    with pytest.raises(SystemExit):
        preflight.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith(
        "usage: preflight.py [flags of gpt2_ft.py, below] [-- flags of gpt2_beam.py] Check, before hours"
    )
    assert "--world_size is the number of processes on this machine" in shown


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
    """Three saves, a fourth while it is written, each of weights and two averages; best, final, adapter, and an earlier run's; the
    weights of three epochs of 3 batches, and an earlier run's."""
    args = preflight.gpt2_ft.parser().parse_args([*flags, *adapters.split(), "--max_step", "10"])
    need = 4 * trained * (4 * 3 + 5 + 2 * 3)
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda path: Usage(0, 0, need))
    needs.Run(args).disk()
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda path: Usage(0, 0, need - 1))
    with pytest.raises(UserError, match="lower --keep_last, or pass --no_keep_epochs"):
        needs.Run(args).disk()
    args.no_keep_epochs = True
    needs.Run(args).disk()


def test_memory_grows_with_batch_and_model(flags, monkeypatch):
    def need(*more):
        found = []
        monkeypatch.setattr(memory, "compare", lambda need, *rest: found.append(need))
        needs.Run(preflight.gpt2_ft.parser().parse_args([*flags, *more])).memory()
        return found[0]

    assert (
        need("--train_batch_size", "16")
        > need("--train_batch_size", "8")
        > need("--train_batch_size", "8", "--seq_len", "9")
    )
    assert need("--model_card", "gpt2.md") - need("--model_card", "gpt2.sm") > 4 * 230e6  # the weights alone
    assert need("--lora_dim", "0", "--model_card", "gpt2.md") > 4 * 4 * 354e6  # weights, gradient, two averages


def test_memory_knows_the_method(flags):
    """With few tokens what a batch keeps is small beside a matrix of each layer."""

    def numbers(method):
        args = preflight.gpt2_ft.parser().parse_args(
            f"--train_data t --valid_data v --model_card gpt2.sm {method}".split()
        )
        return needs.Run(args).numbers([4])

    lora, C, L = numbers("--lora_dim 4"), 768, 12
    assert numbers("--method fourier") - lora > 0.9 * L * 3 * C * C
    assert numbers("--method fourier --lora_targets q,k,v,o,fc,proj") - lora > 0.9 * L * 12 * C * C
    assert numbers("--lora_dim 0") - numbers("--method bias") > 4 * 123e6  # gradients, two averages, their roots


# The decoding that follows


def decoding_need(flags: str, n_contexts: int, length: int, world_size: int = 1) -> float:
    """Return the estimate for distinct contexts of one length."""
    args = gpt2_beam.parser().parse_args(["--data", "none", *flags.split()])
    contexts = [[number, *range(1, length)] for number in range(n_contexts)]
    return gpt2_beam.needed_memory(args, contexts, world_size)


def test_the_cache_of_the_papers_run_takes_8_7_gb():
    """GPT-2 Medium, 64 inputs of 61 tokens, 10 beams of 64: 24 layers, 691 slots, keys and values of width 1024 in float32."""
    search = config.BeamConfig(beam=10, eval_len=64)
    cache = decoding_needs.cache_bytes(config.model_config("gpt2.md"), 64, 61, search, 4)
    assert round(cache / 1e9, 1) == 8.7
    need = decoding_need("--model_card gpt2.md --batch_size 64 --beam 10 --eval_len 64", 630, 61)
    weights, logits = 4 * 354.8e6, 4 * 640 * 50257
    assert cache + weights + 3 * logits < need < cache + weights + 10 * logits + 2e9


def test_the_estimated_cache_is_the_one_that_a_search_makes(monkeypatch):
    """Fails when a cache gets another shape or type than the estimate knows."""
    made = []

    class Kept(beam.Cache):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(sum(x.numel() * x.element_size() for x in (*self.keys, *self.values)))

    monkeypatch.setattr(beam, "Cache", Kept)
    search = config.BeamConfig(beam=3, eval_len=5, eos_token_ids=(1,))
    beam.beam_search(toy.model(), [[2, 3, 4], [5]], search)
    assert made == [decoding_needs.cache_bytes(toy.CONFIG, 2, 3, search, 8)]


def test_decoding_needs_what_its_flags_say():
    paper = "--model_card gpt2.md --eval_len 64 --beam 10"
    need = decoding_need(f"{paper} --batch_size 64", 630, 61)
    assert decoding_need(f"{paper} --batch_size 32", 630, 61) < 0.6 * need
    assert decoding_need(f"{paper} --batch_size 64 --beam 2", 630, 61) < 0.4 * need
    assert decoding_need(f"{paper} --batch_size 64 --precision bf16", 630, 61) < 0.6 * need
    assert decoding_need(f"{paper} --batch_size 64 --precision fp64", 630, 61) > 1.9 * (need - memory.RUNTIME)
    assert decoding_need(f"{paper} --batch_size 999", 64, 61) == need  # no more sentences than there are
    assert decoding_need(f"{paper} --batch_size 64", 128, 61, world_size=4) < 0.6 * need  # 32 each
    assert decoding_need(paper, 5, 61, world_size=2) == decoding_need(paper, 3, 61)  # the first rank has one more


@pytest.fixture
def both(flags, tmp_path):
    """Flags of a training and of its decoding."""
    return [*flags, "--", *f"--model_card {tmp_path}/config.json --data {tmp_path}/valid.jsonl --eval_len 8".split()]


def test_decoding_that_does_not_fit_is_refused_before_training(both, monkeypatch, capsys):
    code, lines, _ = run(both, monkeypatch, capsys)
    assert code == 0
    assert lines["decoding"].startswith("ok  needs about ")
    monkeypatch.setattr(memory, "available", lambda: 2e9)
    monkeypatch.setattr(decoding_needs, "LOGIT_COPIES", 5_000)  # as of a great model: the toy is small
    code, lines, error = run([*both, "--device", "cpu", "--batch_size", "22", "--beam", "211"], monkeypatch, capsys)
    assert code == 2
    assert {name for name, line in lines.items() if line.startswith("NO")} == {"decoding"}
    assert "2.0 GB of memory available; use a smaller --batch_size" in error
    assert "or a smaller --beam, in the preset's DECODE" in error


def test_decoding_that_the_model_does_not_allow_is_refused_before_training(both, monkeypatch, capsys):
    code, lines, _ = run([*both, "--eval_len", "512"], monkeypatch, capsys)
    assert code == 2
    assert lines["decoding"].startswith("NO  --")


# Several processes


def gpus(monkeypatch, *free: float) -> None:
    """Let torch say that there are GPUs with so many bytes free."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (free[gpu.index], 80e9))


def test_every_gpu_that_a_process_takes_is_looked_at(both, monkeypatch, capsys):
    """Fails when only the first GPU is asked."""
    gpus(monkeypatch, 80e9, 79e9, 5e6, 4e6)
    both[both.index("--device") + 1] = "cuda"
    code, lines, _ = run(["--world_size", "2", *both], monkeypatch, capsys)
    assert code == 0
    for name in ("memory", "decoding"):
        assert "80.0 GB free on cuda:0; " in lines[name]
        assert lines[name].endswith("79.0 GB free on cuda:1")
    code, lines, _ = run(["--world_size", "3", *both], monkeypatch, capsys)
    assert code == 2
    for name in ("memory", "decoding"):
        assert "5 MB free on cuda:2; use a smaller" in lines[name]


def test_a_gpu_that_is_missing_is_said(both, monkeypatch, capsys):
    gpus(monkeypatch, 80e9, 80e9)
    both[both.index("--device") + 1] = "cuda"
    code, lines, _ = run(["--world_size", "3", *both], monkeypatch, capsys)
    assert code == 2
    for name in ("memory", "decoding"):
        assert "wants GPU 2, but this machine has 2" in lines[name]


def test_a_gpu_that_another_process_has_to_itself_is_named(monkeypatch):
    def exclusive(gpu):
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nmore")

    gpus(monkeypatch, 80e9)
    monkeypatch.setattr(torch.cuda, "mem_get_info", exclusive)
    with pytest.raises(UserError, match=r"^cuda:0 does not say .*busy or unavailable\); choose another GPU$"):
        memory.check(1, [torch.device("cuda:0")], "")


def test_processes_on_one_cpu_share_its_memory(flags, monkeypatch, capsys):
    monkeypatch.setattr(memory, "available", lambda: 1e9)
    assert run(flags, monkeypatch, capsys)[0] == 0
    code, lines, _ = run(["--world_size", "2", *flags], monkeypatch, capsys)
    assert code == 2
    assert "for 2 processes, 1.0 GB of memory available" in lines["memory"]


def test_several_processes_on_one_named_gpu_are_refused(flags, monkeypatch, capsys):
    gpus(monkeypatch, 80e9, 80e9)
    flags[flags.index("--device") + 1] = "cuda:1"
    code, lines, _ = run(["--world_size", "2", *flags], monkeypatch, capsys)
    assert code == 2
    assert "would put 2 processes on one GPU" in lines["memory"]


@pytest.mark.parametrize(("free", "says"), [(1e6, "warning: decoding needs about "), (1e12, "")])
def test_decoding_alone_warns_and_goes_on(free, says, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "available", lambda: free)
    flags = f"{write_decoding(tmp_path, 3)} --device cpu --eval_len 4 --precision fp64"
    assert gpt2_beam.main(flags.split()) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: decoding")]
    assert len(said) == bool(says)
    assert all(
        line.startswith(says) and "1 MB of memory available; use a smaller --batch_size" in line for line in said
    )
