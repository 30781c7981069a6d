"""What a run says and decides while it trains: lines, texts with BLEU, which validation is the best one, and an early end."""

import json
import math
from pathlib import Path

import pytest
import torch

import gpt2_ft
import toy
from lora_nlg import dist, samples
from lora_nlg.data import bpe
from lora_nlg.data.examples import Example
from lora_nlg.decoding.beam import beam_search
from lora_nlg.errors import UserError
from lora_nlg.storage import models, tensor_files
from lora_nlg.training import train
from lora_nlg.training.best import Best
from runs import differences, results, write_examples, write_training
from test_dist import LAUNCHERS, run
from test_method_programs import flags_of
from test_resume import FLAGS, PowerCut, cut_and_resumed, cut_at

pytestmark = pytest.mark.slow  # whole trainings

ROOT = Path(__file__).resolve().parents[1]


class Words:
    """In place of GPT-2's vocabulary: each id is a word."""

    def decode(self, ids: list[int]) -> str:
        return " ".join(f"w{i}" for i in ids)


@pytest.fixture
def flags(tmp_path, monkeypatch):
    """Flags of a toy run in tmp_path/work whose validation file has two references for each of six inputs."""
    flags = write_training(tmp_path).split()
    twelve = toy.examples(12)
    both = [Example(twelve[i // 2].context, twelve[i].completion) for i in range(12)]
    write_examples(tmp_path / "valid.jsonl", both)
    monkeypatch.setattr(bpe, "load_encoding", lambda folder: Words())
    return [*flags, *FLAGS]


def lines_of(folder: Path, kind: str) -> list[dict]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line[kind] for line in lines if kind in line]


def listed(folder: Path) -> dict:
    return json.loads((folder / "saves.json").read_text())


# Lines


def test_a_line_before_and_after_each_validation_and_save(flags, capsys):
    """Fails when one of them comes after what it announces."""
    gpt2_ft.main([*flags, "--max_step", "6"])
    said = [line.partition(" | ")[0] for line in capsys.readouterr().out.splitlines()]
    best, save, end = ["saving", "saved"], ["saving", "saved"], ["saving"]
    of_run = [word for word in said if word in ("validating", "validation", "saving", "saved")]
    validation = ["validating", "validation"]
    assert of_run == [*save, *validation, *best, *save, *validation, *best, *end]
    assert said[-1].startswith("saved /")  # the program's own line


@pytest.mark.parametrize("smoothing", ["0", "0.1"])
def test_a_validation_says_that_it_is_not_smoothed_where_training_is(flags, smoothing, capsys):
    gpt2_ft.main([*flags, "--label_smooth", smoothing])
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("validation")]
    assert len(said) == 3
    for line in said:
        assert line.endswith(" | without label smoothing, which the training loss has") == (smoothing != "0")


# Texts


@pytest.mark.parametrize("how", ["lora", "prefix_kv", "dora", "vera", "fourier", "lora bf16"])
def test_decoding_changes_nothing_in_the_training(how, flags, tmp_path, capsys):
    """Fails when it leaves the model in evaluation (dropout), draws at random, or leaves tensors that no gradient goes through."""
    method, _, precision = how.partition(" ")
    flags = [*flags, *flags_of(method).split(), "--precision", precision or "fp64"]
    if method in ("prefix_kv", "vera", "fourier"):
        for flag in ("--lora_dim", "--lora_alpha", "--lora_dropout"):
            at = flags.index(flag)
            del flags[at : at + 2]
    gpt2_ft.main([*flags, "--work_dir", str(tmp_path / "without")])
    gpt2_ft.main([*flags, "--eval_texts", "2"])
    lines, weights = results(tmp_path / "work")
    assert len([line for line in lines if "texts" in line]) == 3
    assert differences(([line for line in lines if "texts" not in line], weights), results(tmp_path / "without")) == []


def test_texts_are_what_the_model_writes_beside_all_references(flags, tmp_path, capsys):
    """Fails when an input is there once for each reference, another model decodes, or BLEU is of those that are shown alone."""
    from sacrebleu.metrics.bleu import BLEU

    gpt2_ft.main([*flags, "--eval_texts", "2"])
    of_log = lines_of(tmp_path / "work", "texts")[-1]
    valid = [json.loads(line) for line in (tmp_path / "valid.jsonl").read_text().splitlines()]
    contexts, longest = [line["context"] for line in valid[::2]], max(len(line["completion"]) for line in valid)
    model = models.merged_model(
        toy.CONFIG, f"{tmp_path}/base.safetensors", tmp_path / "work/model.final.pt", precision="fp64"
    )
    rules = toy.BeamConfig(beam=1, eval_len=longest, eos_token_ids=())
    outputs = [Words().decode(ids) for ids in beam_search(model.eval(), contexts, rules)]
    references = [[Words().decode(line["completion"]) for line in valid[i : i + 2]] for i in range(0, 12, 2)]
    shown = [{"input": Words().decode(contexts[i]), "output": outputs[i], "references": references[i]} for i in (0, 3)]
    assert of_log["shown"] == shown
    assert (of_log["step"], of_log["n_inputs"]) == (14, 6)
    score = BLEU(force=True).corpus_score(outputs, list(map(list, zip(*references, strict=True)))).score
    assert of_log["bleu"] == pytest.approx(score / 100, abs=1e-12)
    said = capsys.readouterr().out
    assert (
        f"texts | step      14 | BLEU {score / 100:.4f} of 6 inputs | greedy, sacreBLEU with 13a tokens: not the"
        in said
    )
    for text in shown:
        block = [f"  input     {text['input']}", f"  output    {text['output']}"]
        assert "\n".join([*block, *(f"  reference {r}" for r in text["references"])]) in said


def test_a_sample_is_spread_over_the_inputs(flags, tmp_path, capsys):
    gpt2_ft.main([*flags, "--eval_texts", "9", "--eval_sample", "3"])
    of_log = lines_of(tmp_path / "work", "texts")[0]
    valid = [json.loads(line) for line in (tmp_path / "valid.jsonl").read_text().splitlines()]
    assert of_log["n_inputs"] == 3
    assert [text["input"] for text in of_log["shown"]] == [Words().decode(valid[i]["context"]) for i in (0, 4, 8)]


def test_texts_that_a_terminal_would_obey_are_shown_harmless(flags, monkeypatch, capsys):
    monkeypatch.setattr(Words, "decode", lambda self, ids: "red \x1b[31m")
    gpt2_ft.main([*flags, "--eval_texts", "1"])
    said = capsys.readouterr().out
    assert "\x1b" not in said and r"output    red \x1b[31m" in said


def test_bleu_of_inputs_with_different_numbers_of_references():
    """By hand: all n-grams are hits, and 9 tokens stand for 10 + 5. Fails when an input with one reference gets an empty second one,
    whose length is nearer than 10."""
    references = [["a b c d e f g h i j"], ["x", "a b c d e"]]
    assert samples.bleu(["a b c d", "a b c d e"], references) == pytest.approx(math.exp(1 - 15 / 9))


def test_logits_that_are_no_numbers_are_one_sentence(flags, monkeypatch):
    model = toy.model()
    with torch.no_grad():
        model.wte.weight[:] = math.nan
    sample_of = samples.sampler(toy.examples(5), toy.CONFIG, 60, Words(), torch.device("cpu"), "fp64", 1)
    with pytest.raises(UserError, match="the logits for input 1 of the validation inputs are no numbers"):
        sample_of(model)


# Which one is the best, and when to stop


@pytest.mark.parametrize(
    ("select", "values", "best", "since"),
    [
        ("loss", [3.0, 2.0, 2.0, 2.5], 1, 2),
        ("bleu", [0.1, 0.3, 0.3, 0.2], 1, 2),
        ("loss", [math.nan, 2.0, math.nan], 1, 1),
        ("loss", [math.nan, math.nan], 0, 1),
        ("bleu", [0.0], 0, 0),
    ],
)
def test_the_best_validation(select, values, best, since):
    counted = Best(select)
    taken = [counted.take(value) for value in values]
    assert max(i for i, is_best in enumerate(taken) if is_best) == best
    assert counted.since == since


def measure(monkeypatch, losses: dict[int, float], bleus: dict[int, float] | None = None) -> None:
    """Let the validation of each step find these, whatever the model."""
    real = train.Run.validate

    def validate(self):
        monkeypatch.setattr(train, "validation_loss", lambda *_: losses.get(self.step, 9.0))
        if bleus is not None:
            self.sample_of = lambda model: train.Sample(bleus.get(self.step, 0.0), "", 1, [])
        real(self)

    monkeypatch.setattr(train.Run, "validate", validate)


@pytest.mark.parametrize(("select", "best"), [("loss", 10), ("bleu", 5)])
def test_select_decides_what_the_best_is(select, best, flags, tmp_path, monkeypatch, capsys):
    measure(monkeypatch, {5: 2.0, 10: 1.0, 14: 1.5}, {5: 0.4, 10: 0.2, 14: 0.3})
    gpt2_ft.main([*flags, "--eval_texts", "1", "--select", select, "--keep_last", "9", "--save_interval", "5"])
    found = listed(tmp_path / "work")["best"]
    assert (found["step"], found["valid_loss"], found["bleu"]) == (
        best,
        {5: 2.0, 10: 1.0}[best],
        {5: 0.4, 10: 0.2}[best],
    )
    one, other = (
        torch.load(tmp_path / f"work/model.{name}.pt", weights_only=True)["model_state_dict"] for name in ("best", best)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


EVERY_TWO = ("--eval_interval", "2", "--early_stop", "2")
LOSSES = {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.0, 10: 1.0}  # 8 is as good as 4 and not better


def test_early_stop_ends_a_run_as_a_finished_one(flags, tmp_path, monkeypatch, capsys):
    """At step 8, in the middle of the schedule. Fails when equal counts as better, or the end has no save or no final file."""
    measure(monkeypatch, LOSSES)
    assert gpt2_ft.main([*flags, *EVERY_TWO, "--log_interval", "1"]) == 0
    work = tmp_path / "work"
    assert listed(work)["final"]["step"] == 8 and listed(work)["saves"][-1]["step"] == 8
    assert (work / "model.final.pt").is_file() and (work / "adapter.safetensors").is_file()
    assert listed(work)["best"]["step"] == 4
    steps, _ = results(work)
    assert [line["step"] for line in steps if "loss" in line] == list(range(1, 9))
    rates = [line["lr"] for line in steps if "lr" in line]
    assert rates[7] == pytest.approx(0.01 * (1 - 7 / 14))  # the schedule is what it was
    assert steps[-1] == {"early_stop": {"step": 8, "select": "loss", "best": 2.0, "validations": 2}}
    said = capsys.readouterr().out
    assert "early stop | step       8 | 2 validations without a better validation loss than 2.0000\n" in said
    assert json.loads((work / "run.json").read_text())["valid_loss"] == 2.0
    assert gpt2_ft.main([*flags, *EVERY_TWO, "--log_interval", "1", "--resume"]) == 0
    assert "finished at step 8" in capsys.readouterr().out


def test_early_stop_by_bleu(flags, tmp_path, monkeypatch, capsys):
    measure(monkeypatch, {2: 3.0, 4: 2.0, 6: 1.0}, {2: 0.5, 4: 0.4, 6: 0.5})
    gpt2_ft.main([*flags, *EVERY_TWO, "--eval_texts", "1", "--select", "bleu"])
    assert listed(tmp_path / "work")["final"]["step"] == 6
    assert "| 2 validations without a better BLEU than 0.5000\n" in capsys.readouterr().out


def test_without_early_stop_a_run_comes_to_its_end(flags, tmp_path, monkeypatch, capsys):
    measure(monkeypatch, LOSSES)
    gpt2_ft.main([*flags, "--eval_interval", "2"])
    assert listed(tmp_path / "work")["final"]["step"] == 14
    assert "early stop" not in capsys.readouterr().out


@pytest.mark.parametrize("step", [4, 5, 7, 8])
def test_a_resumed_run_stops_where_the_whole_one_does(step, flags, tmp_path, monkeypatch, capsys):
    """Saves are of steps 3 and 6. Fails when the count or the best so far is not in a save, or is that of saves.json, which may be
    of a later step than the save."""
    measure(monkeypatch, LOSSES)
    flags = [*flags, *EVERY_TWO]
    assert cut_and_resumed(flags, tmp_path, monkeypatch, lambda cut: cut_at(cut, step)) == []
    assert listed(tmp_path / "work")["best"]["step"] == listed(tmp_path / "whole")["best"]["step"] == 4


def test_a_run_cut_between_its_early_end_and_its_last_file_takes_no_step_more(flags, tmp_path, monkeypatch, capsys):
    measure(monkeypatch, LOSSES)
    flags = [*flags, *EVERY_TWO]

    def at_the_last_file(cut) -> None:
        cut.setattr(train.Saves, "finish", lambda *_: (_ for _ in ()).throw(PowerCut))

    assert cut_and_resumed(flags, tmp_path, monkeypatch, at_the_last_file) == []


# Resuming with other flags, and runs of earlier versions


@pytest.fixture
def cut_run(flags, tmp_path, monkeypatch, capsys):
    """Return what cuts a run with `more` flags in step 11."""

    def cut(*more: str) -> list[str]:
        with monkeypatch.context() as patched:
            cut_at(patched, 11)
            with pytest.raises(PowerCut):
                gpt2_ft.main([*flags, *more])
        return [*flags, *more, "--resume"]

    return cut


@pytest.mark.parametrize(
    ("before", "now", "says"),
    [
        ("", "--early_stop 9", "train.early_stop None, now 9"),
        ("--early_stop 9", "--early_stop 8", "train.early_stop 9, now 8"),
        ("--early_stop 9", "--eval_interval 4", "train.eval_interval 5, now 4"),
        ("--eval_texts 1", "--select bleu", "train.select None, now bleu"),
        ("--eval_texts 1 --select bleu", "--eval_sample 2", "eval_sample 0, now 2"),
    ],
)
def test_what_decides_the_result_cannot_change(before, now, says, cut_run):
    resumed = cut_run(*before.split())
    with pytest.raises(UserError, match="other settings") as error:
        gpt2_ft.main([*resumed, *now.split()])
    assert says in str(error.value)


def test_other_validation_data_stop_a_run_elsewhere(cut_run, tmp_path):
    resumed = cut_run("--early_stop", "9")
    write_examples(tmp_path / "valid.jsonl", 5)
    with pytest.raises(UserError, match=r"other settings \(valid_data"):
        gpt2_ft.main(resumed)


def test_what_is_only_watched_may_change(cut_run, capsys):
    resumed = cut_run("--eval_texts", "1")
    assert gpt2_ft.main([*resumed, "--eval_texts", "2", "--eval_sample", "3", "--eval_interval", "4"]) == 0


def test_a_run_from_before_there_were_these_flags_goes_on(cut_run, flags, tmp_path, capsys):
    """Its saves have no best and its list no such settings. Fails when either is asked for, or the best is forgotten."""
    gpt2_ft.main([*flags, "--work_dir", str(tmp_path / "whole")])
    resumed, work = cut_run(), tmp_path / "work"
    state = tensor_files.load(work / "state.9.pt")[0]
    assert state.pop("best")["since"] == 0
    digest = tensor_files.save_torch(state, work / "state.9.pt")
    saves = listed(work)
    assert {"early_stop", "select", "eval_interval"}.isdisjoint(saves["settings"]["train"])
    saves["saves"][-1]["files"]["state.9.pt"] = digest
    saves["best"]["valid_loss"] = -1.0  # nothing will be better
    (work / "saves.json").write_text(json.dumps(saves))
    assert gpt2_ft.main(resumed) == 0
    assert differences(results(work), results(tmp_path / "whole")) == []
    assert listed(work)["best"] == saves["best"]


# Mistakes


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--select bleu", "--select bleu goes by the BLEU that --eval_texts measures; give --eval_texts as well"),
        ("--eval_sample 5", "--eval_sample would have no effect: only --eval_texts decodes"),
        ("--vocab x", "--vocab would have no effect"),
        ("--eval_texts -1", "--eval_texts must be 0 or more, but is -1"),
        ("--eval_texts 1 --eval_sample -1", "--eval_sample must be 0 or more"),
        ("--early_stop -1", "--early_stop must be 0"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(given, words, flags, tmp_path):
    with pytest.raises(UserError, match=words):
        gpt2_ft.main([*flags, *given.split()])
    assert not (tmp_path / "work").exists()


def test_a_vocabulary_that_is_not_there_is_found_out_first(flags, tmp_path, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"nowhere/encoder\.json does not exist"):
        gpt2_ft.main([*flags, "--eval_texts", "1", "--vocab", "nowhere"])
    assert not (tmp_path / "work").exists()


def test_from_python_bleu_needs_what_decodes(tmp_path):
    config, optim = toy.TrainConfig(select="bleu"), toy.OptimConfig(0.1, 3)
    split = toy_split(config)
    with pytest.raises(UserError, match="--select bleu goes by the BLEU"):
        train.train(toy.model(), split, split, optim, train.Saves(tmp_path), dist.Ranks(0, 1, torch.device("cpu")))


def toy_split(config):
    from lora_nlg.data.batches import Split

    return Split(toy.examples(8), config, dist.Ranks(0, 1, torch.device("cpu")), validation=True)


# Several ranks


def test_another_rank_waits_for_the_one_that_decodes(tmp_path, monkeypatch):
    """It takes the first one's BLEU. Fails when every rank decodes, or a rank judges by a figure of its own."""
    run = train.Run.__new__(train.Run)
    run.ranks, run.step, run.model = dist.Ranks(1, 2, torch.device("cpu")), 7, toy.model()
    run.log, run.sample_of = train.Log(tmp_path, 10, is_main=False), lambda model: pytest.fail("decoded")
    of_first = train.Sample(0.25, "", 1, [])
    monkeypatch.setattr(dist, "from_main", lambda value, ranks: (of_first, False))
    assert run.decode_sample() == 0.25
    monkeypatch.setattr(dist, "from_main", lambda value, ranks: (None, True))
    with pytest.raises(SystemExit):  # with the first one's error, which that one says
        run.decode_sample()


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "vocab/encoder.json").is_file(), reason="no vocabulary: bash scripts/00_setup.sh")
def test_two_ranks_decode_once_and_end_together(flags, tmp_path):
    """A rate that ruins the model: each validation is worse. Fails, by running out of time, when one rank alone stops or decodes
    what waits for the other."""
    more = f"--vocab {ROOT}/vocab --eval_texts 1 --eval_interval 1 --early_stop 2 --lr 3 --lora_dropout 0"
    flags = [*flags, *more.split()]
    done = run("gpt2_ft.py", tmp_path, " ".join(flags), LAUNCHERS["torchrun"])
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("\nearly stop |") == 1
    final = listed(tmp_path / "work")["final"]["step"]
    assert 3 <= final < 14
    assert len(lines_of(tmp_path / "work", "texts")) == done.stdout.count("\ndecoding |") == final
