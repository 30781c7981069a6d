"""Training against the golden numbers, in process and through the command line."""

import json
import math
import sys

import pytest
import torch
from safetensors import safe_open

import gpt2_ft
import toy
from lora_nlg import errors
from lora_nlg.config import TrainConfig
from lora_nlg.data import batches
from lora_nlg.data.examples import Example
from lora_nlg.dist import Ranks
from lora_nlg.training import train
from lora_nlg.training.log import Log
from lora_nlg.training.saves import Saves
from runs import write_adapters, write_card, write_examples, write_training

GOLDEN_RTOL = 1e-9  # the golden numbers' own promise for float64
ONE_CPU = Ranks(0, 1, torch.device("cpu"))
RUNS = {run["name"]: run for run in toy.golden("train.json")}


def close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=GOLDEN_RTOL)


def read_log(work_dir) -> tuple[list[dict], list[dict]]:
    lines = [json.loads(line) for line in (work_dir / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line], [line["eval"] for line in lines if "eval" in line]


@pytest.mark.usefixtures("two_threads")
@toy.on_every_device
@pytest.mark.parametrize("name", RUNS)
def test_golden_run(name, device, tmp_path, capsys):
    """Every loss, rate, validation loss and final tensor. Fails with torch's AdamW, β's swapped, a schedule that moves once an
    update, masks shifted by one, validation on the jlm mask, or fillers drawn from another generator."""
    golden, alone = RUNS[name], Ranks(0, 1, torch.device(device))
    training, optim = toy.training_config(golden["flags"])
    model = toy.model(golden["flags"]["lora_dim"], golden["flags"]["lora_B_starts_at_zero"]).to(device)
    train_split = batches.Split(toy.examples(golden["n_train"]), training, alone)
    valid = batches.Split(toy.examples(golden["n_valid"]), training, alone, validation=True)
    assert close(train.validation_loss(model, valid, alone), golden["valid_loss_before"])
    assert close(train.train(model, train_split, valid, optim, Saves(tmp_path), alone), golden["valid_loss_after"])
    steps, evals = read_log(tmp_path)
    assert [s["step"] for s in steps] == list(range(1, optim.max_step + 1))
    for logged, loss, lr in zip(steps, golden["loss_per_micro_batch"], golden["lr_per_micro_batch"], strict=True):
        assert close(logged["loss"], loss)
        assert close(logged["lr"], lr)
    assert len(evals) == 1
    parameters = dict(model.named_parameters())
    for key, (total, absolute) in golden["final_sum_and_abs_sum"].items():
        assert close(parameters[key].sum().item(), total)
        assert close(parameters[key].abs().sum().item(), absolute)


def test_golden_item_order():
    """Fails with fillers of another seed, or drawn once in place of every time, and with epochs counted from 0."""
    golden = RUNS["recipe"]
    training, _ = toy.training_config(golden["flags"])
    split = batches.Split(toy.examples(golden["n_train"]), training, ONE_CPU)
    epochs = [items for epoch in (1, 2, 3) for items in split.order.epoch(epoch)]
    assert epochs[: golden["flags"]["max_step"]] == golden["item_ids_per_micro_batch"]


@pytest.fixture
def files(tmp_path):
    """A toy base, adapters and data on disk, and the flags that train on them."""
    write_adapters(tmp_path / "start.safetensors", b_is_zero=True)
    return tmp_path, [*write_training(tmp_path).split(), "--device", "cpu"]


RECIPE = (
    "--precision fp64 --log_interval 1 --train_batch_size 4 --label_smooth 0.1 --correct_bias --adam_beta2 0.999 "
    "--warmup_step 3 --max_step 14 --lora_dim 4 --lora_alpha 32 --lr 0.002 --random_seed 110"
).split()


def command_line(flags: dict) -> list[str]:
    """Spell a golden run's flags as a person would, who leaves out what has no effect."""
    not_given = {"correct_bias", "lora_B_starts_at_zero", "i_steps", "i_lrs"} | (
        set() if flags["lora_dim"] else {"lora_alpha"}
    )
    words = [f"--{name} {value}" for name, value in flags.items() if name not in not_given]
    return " ".join(words + ["--correct_bias"] * flags["correct_bias"]).split()


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("name", RUNS)
def test_golden_run_through_the_command_line(name, files, capsys):
    """Fails when a flag does not reach its setting, or what is saved is not what was trained."""
    folder, flags = files
    golden, lora_dim = RUNS[name], RUNS[name]["flags"]["lora_dim"]
    write_adapters(folder / "start.safetensors", lora_dim, golden["flags"]["lora_B_starts_at_zero"])
    given = [*flags, *command_line(golden["flags"]), *"--precision fp64 --log_interval 1 --save_interval 5".split()]
    if lora_dim:
        given += ["--lora_checkpoint", str(folder / "start.safetensors")]
    assert gpt2_ft.main(given) == 0

    steps, evals = read_log(folder / "work")
    assert all(close(s["loss"], g) for s, g in zip(steps, golden["loss_per_micro_batch"], strict=True))
    assert all(close(s["lr"], g) for s, g in zip(steps, golden["lr_per_micro_batch"], strict=True))
    assert set(steps[0]) == {"step", "epoch", "lr", "loss", "avg_loss", "ppl", "ms_per_batch", "tokens_per_s"}
    assert close(evals[-1]["valid_loss"], golden["valid_loss_after"])
    last, epoch = golden["flags"]["max_step"], 6  # micro-batches
    epochs = range(epoch, last + 1, epoch)
    newest = sorted({*range(5, last + 1, 5), *epochs, last})[-3:]
    saves = {f"{kind}.{step}.pt" for kind in ("model", "state") for step in newest}
    saves |= {f"model.{step}.pt" for step in epochs}
    assert {p.name for p in (folder / "work").glob("*.pt")} == {*saves, "model.best.pt", "model.final.pt"}
    saved = torch.load(folder / "work/model.final.pt", weights_only=True)["model_state_dict"]
    sums = golden["final_sum_and_abs_sum"]
    assert all(close(saved[f"module.transformer.{key}"].sum().item(), total) for key, (total, _) in sums.items())
    record = json.loads((folder / "work/run.json").read_text())
    assert record["settings"]["optim"]["max_step"] == golden["flags"]["max_step"]
    if lora_dim:
        assert set(saved) == {f"module.transformer.{key}" for key in sums}
        assert record["trained_parameters"] == 1024  # 4 R C a layer
        with safe_open(folder / "work/adapter.safetensors", "pt") as file:
            assert file.metadata()["step"] == str(golden["flags"]["max_step"])
            assert all(torch.equal(file.get_tensor(key), saved[f"module.transformer.{key}"]) for key in sums)


def test_adapters_to_start_from_are_checked_like_those_to_decode_with(files, capsys):
    """A second run goes on from the first one's adapters, which know their alpha, their rank and their base."""
    folder, flags = files
    gpt2_ft.main([*flags, *RECIPE])
    first = str(folder / "work/adapter.safetensors")
    with pytest.raises(errors.UserError, match="alpha 32, not 128; pass --lora_alpha 32"):
        gpt2_ft.main([*flags, *RECIPE, "--lora_checkpoint", first, "--lora_alpha", "128"])
    with pytest.raises(errors.UserError, match="rank 4, not 8"):
        gpt2_ft.main([*flags, *RECIPE, "--lora_checkpoint", first, "--lora_dim", "8"])
    with pytest.raises(errors.UserError, match="trained on another base"):
        gpt2_ft.main([*flags, *RECIPE, "--lora_checkpoint", first, "--init_checkpoint", "random"])
    assert gpt2_ft.main([*flags, *RECIPE, "--lora_checkpoint", first, "--work_dir", str(folder / "second")]) == 0
    losses = [read_log(folder / name)[0][0]["loss"] for name in ("work", "second")]
    assert losses[1] < losses[0]


def test_other_targets_train_save_and_go_on(files, capsys):
    """2 R C numbers a target and layer; a second run finds the targets in the file."""
    folder, flags = files
    gpt2_ft.main([*flags, *RECIPE, "--lora_targets", "v,q,k"])
    assert json.loads((folder / "work/run.json").read_text())["trained_parameters"] == 3 * 2 * 4 * 32 * 2
    again = [
        *flags,
        *RECIPE,
        "--lora_checkpoint",
        str(folder / "work/model.final.pt"),
        "--work_dir",
        str(folder / "second"),
    ]
    with pytest.raises(errors.UserError, match="adapts q,k,v, not q,v; pass --lora_targets q,k,v"):
        gpt2_ft.main(again)
    assert gpt2_ft.main([*again, "--lora_targets", "q,k,v"]) == 0


def test_printed_line_has_the_recipes_columns(files, capsys):
    _, flags = files
    gpt2_ft.main([*flags, *RECIPE])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch"))
    columns = [column.split() for column in line.split("|")]
    assert [" ".join(column[:-1]) for column in columns] == [
        "epoch", "step", "batches", "lr", "ms/batch", "loss", "avg loss", "ppl",
    ]  # fmt: skip
    assert float(columns[3][-1]) == pytest.approx(0.002 / 3, rel=1e-2)  # after the first of three warm-up steps


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close_to_fp32(files, precision, capsys):
    folder, flags = files
    losses = {}
    for name in ("fp32", precision):
        gpt2_ft.main([*flags, *RECIPE, "--precision", name])
        losses[name] = [s["loss"] for s in read_log(folder / "work")[0]]
    assert losses[precision] == pytest.approx(losses["fp32"], rel=0.02)  # 8 bits of mantissa
    assert losses[precision] != losses["fp32"]


def test_max_step_is_the_schedule_and_max_epoch_stops(files, capsys):
    """22 examples in batches of 4 are 6 micro-batches an epoch; the rate falls towards 0 at step 14 all the same."""
    folder, flags = files
    gpt2_ft.main([*flags, *RECIPE, "--max_epoch", "1"])
    steps, _ = read_log(folder / "work")
    assert [s["step"] for s in steps] == list(range(1, 7))
    assert close(steps[-1]["lr"], RUNS["recipe"]["lr_per_micro_batch"][5])


def test_results_of_an_earlier_run_are_kept_in_a_folder_of_their_own(files, capsys):
    folder, flags = files
    gpt2_ft.main([*flags, *RECIPE])
    names = ("model.final.pt", "model.best.pt", "adapter.safetensors", "log.jsonl")
    first = {name: (folder / "work" / name).read_bytes() for name in names}
    gpt2_ft.main([*flags, *RECIPE, "--max_step", "4"])
    assert {name: (folder / "work/previous" / name).read_bytes() for name in names} == first
    assert (folder / "work/adapter.safetensors").read_bytes() != first["adapter.safetensors"]
    assert not (folder / "work/model.14.pt").exists()  # no later step can take it for the second run's


def test_cut_examples_are_counted(files, capsys):
    _, flags = files
    gpt2_ft.main([*flags, *RECIPE, "--seq_len", "12", "--max_step", "4"])
    cut = sum(len(e.context) + len(e.completion) > 12 for e in toy.examples(22))
    assert f"warning: {cut} examples are longer than --seq_len 12" in capsys.readouterr().err
    assert 0 < cut < 22


SHORT, LONG, NO_TEXT = Example([1, 2], [3, 4]), Example([1] * 12, [3, 4]), Example([1, 2], [])


@pytest.mark.parametrize(
    ("train_file", "valid_file", "says"),
    [
        ([LONG] * 5, [SHORT], "no training example has a token of its text within --seq_len 12; raise it"),
        ([LONG, NO_TEXT], [SHORT], "no training example has a token of its text within --seq_len 12; raise it"),
        ([SHORT], [LONG] * 3, "no validation example has a token of its text within --seq_len 12; raise it"),
        ([NO_TEXT], [SHORT], "the text of every training example is empty"),
    ],
)
def test_nothing_to_learn_from_is_refused(train_file, valid_file, says, files):
    """The loss of such data was 0.00, and a run of it ended well."""
    folder, flags = files
    write_examples(folder / "train.jsonl", train_file)
    write_examples(folder / "valid.jsonl", valid_file)
    with pytest.raises(errors.UserError, match=says):
        gpt2_ft.main([*flags, *RECIPE, "--seq_len", "12"])
    assert not (folder / "work").exists()


def test_examples_whose_text_is_cut_off_are_counted(files, capsys):
    folder, flags = files
    write_examples(folder / "train.jsonl", [SHORT, LONG, LONG, NO_TEXT, Example([1, 2], [3] * 11)])
    gpt2_ft.main([*flags, *RECIPE, "--seq_len", "12", "--max_step", "4"])
    said = "warning: 3 examples are longer than --seq_len 12 and are cut, 2 of them before their text begins\n"
    assert said in capsys.readouterr().err


def test_a_seq_len_beyond_the_positions_is_the_positions(files, capsys):
    """As the tutorial's 512 on the small card of 256: the smaller of the two, said once, and recorded."""
    folder, flags = files
    write_card(folder, n_positions=12)
    gpt2_ft.main([*flags, *RECIPE, "--init_checkpoint", "random", "--seq_len", "13", "--max_step", "4"])
    said = capsys.readouterr().err
    card = folder / "config.json"
    assert said.count(f"warning: --seq_len 13 is more than the 12 positions of {card}, so it is 12\n") == 1
    assert "are longer than --seq_len 12 and are cut" in said
    assert json.loads((folder / "work/run.json").read_text())["settings"]["train"]["seq_len"] == 12
    gpt2_ft.main([*flags, *RECIPE, "--init_checkpoint", "random", "--seq_len", "12", "--max_step", "4"])
    assert "positions" not in capsys.readouterr().err


def test_dropout_changes_training_but_not_validation(files, capsys):
    folder, flags = files
    runs = []
    for extra in ([], ["--lora_dropout", "0.5"]):
        gpt2_ft.main([*flags, *RECIPE, "--lora_checkpoint", str(folder / "start.safetensors"), *extra])
        runs.append(read_log(folder / "work")[0])
    assert runs[0][0]["loss"] == runs[1][0]["loss"]  # B is zero: dropout has nothing to act on yet
    assert runs[0][5]["loss"] != runs[1][5]["loss"]


MISTAKES = [
    ("--max_step 5 --roll_interval 3", "no effect"),
    ("--max_step 5 --scheduler inv_sqrt", "constant"),
    ("", "--max_epoch or --max_step"),
    ("--max_epoch 0", "--max_epoch must be at least 1"),
    ("--max_step 5 --lora_dim 4 --no_decay_bias", "--no_decay_bias would have no effect"),
    ("--max_step 0", "--max_step must be at least 1"),
    ("--max_step 5 --warmup_step 5", "--warmup_step must be less than"),
    ("--max_step 5 --lora_dropout 0.1", "--lora_dropout would have no effect: --lora_dim 0"),
    ("--max_step 5 --lora_targets q", "--lora_targets would have no effect"),
    ("--max_step 5 --lora_dim 4 --lora_targets q,w", "--lora_targets must be some of q,k,v"),
    ("--max_step 5 --lora_alpha 32", "--lora_alpha would have no effect"),
    ("--max_step 5 --i_steps 0,5", "--i_steps would have no effect"),
    ("--scheduler cycle --i_steps 0,5 --i_lrs 0,1 --max_step 3", "--max_step would have no effect"),
    ("--max_step 5 --lora_dim -1", "--lora_dim must be 0"),
    ("--max_step 5 --lr nan", "--lr must be"),
    ("--max_step 5 --fp16 --precision bf16", "contradicts"),
    ("--max_step 5 --model_card gpt3", "--model_card must be one of"),
    ("--max_step 5 --device tpu", "--device must be"),
    ("--max_step 5 --train_batch_size 0", "--train_batch_size must be at least 1"),
    ("--max_step 5 --init_checkpoint /nowhere.bin", "/nowhere.bin does not exist"),
    ("--scheduler cycle", "--i_steps must be two or more"),
    ("--scheduler cycle --i_steps 0,a", "--i_steps must be numbers"),
    ("--max_step 5 --no_such_flag", "unknown flag --no_such_flag"),
]


@pytest.mark.parametrize(("flags", "words"), MISTAKES)
def test_mistakes_get_one_sentence(files, flags, words, monkeypatch, capsys):
    folder, given = files
    monkeypatch.setattr("sys.argv", ["gpt2_ft.py", *given, *flags.split()])
    try:
        code = errors.run(gpt2_ft.main)
    except SystemExit as stopped:  # argparse's own
        code = stopped.code
    assert code == 2
    assert words in capsys.readouterr().err
    assert not (folder / "work").exists()


def test_validation_averages_batches_not_positions():
    """The recipe averages the batches' means, so a batch with few positions weighs as much as one with many."""
    model = toy.model()
    training = TrainConfig(valid_batch_size=2, precision="fp64")
    examples = toy.examples(3)
    valid = batches.Split(examples, training, ONE_CPU, validation=True)
    losses = [train.masked_loss(model, batch) for batch in valid.batches(0)]
    expected = torch.stack(losses).mean().item()
    assert (
        train.validation_loss(model, batches.Split(examples, training, ONE_CPU, validation=True), ONE_CPU) == expected
    )


def test_tensorboard_has_the_logs_figures(files, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, flags = files
    gpt2_ft.main([*flags, *RECIPE, "--tensorboard", "--eval_interval", "7"])
    events = EventAccumulator(str(folder / "work/tensorboard")).Reload()
    steps, evals = read_log(folder / "work")
    for tag, name in (("loss/training", "avg_loss"), ("lr", "lr"), ("tokens_per_s", "tokens_per_s")):
        points = {event.step: event.value for event in events.Scalars(tag)}
        assert points == pytest.approx({line["step"]: line[name] for line in steps}, rel=1e-6)
    assert [e.step for e in events.Scalars("loss/validation")] == [line["step"] for line in evals] == [7, 14]


def test_tensorboard_that_is_not_installed_is_one_sentence(files, monkeypatch, capsys):
    _, flags = files
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(errors.UserError, match="--tracker tensorboard needs the package tensorboard; install it"):
        gpt2_ft.main([*flags, *RECIPE, "--tensorboard"])


@pytest.mark.slow
def test_a_compiled_step_has_the_same_losses(files, capsys, monkeypatch):
    """One graph without a break for each shape: torch's tracing is real, its code generator, which takes minutes, is not."""
    folder, flags = files
    graphs, shapes, losses = [], set(), []

    def compile_quickly(function, dynamic, mode):
        def keep(graph, inputs):
            graphs.append(graph)
            return graph.forward

        return torch._dynamo.optimize(keep, nopython=True, dynamic=dynamic)(function)

    real = batches.Split.batch
    monkeypatch.setattr(
        batches.Split, "batch", lambda self, items: shapes.add(tuple((b := real(self, items)).ids.shape)) or b
    )
    for extra in ([], ["--compile"]):
        shapes.clear()
        with monkeypatch.context() as patched:
            patched.setattr(torch, "compile", compile_quickly)
            patched.setattr(batches, "COMPILED_MULTIPLE", 8)
            gpt2_ft.main([*flags, *RECIPE, *extra, "--resume", "never", "--eval_interval", "100"])
        losses.append([line["loss"] for line in read_log(folder / "work")[0]])
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
    static = {shape for shape in shapes if len(shape) == 2 and shape[0] == 4 and shape[1] % 8 == 0}
    assert 1 < len(graphs) <= len(static)


def test_sharing_prompts_trains_on_inputs(files, capsys):
    folder, flags = files
    gpt2_ft.main([*flags, *RECIPE, "--share_prompts", "--length_window", "2"])
    assert len(read_log(folder / "work")[0]) == 14


def test_interval_average_starts_anew(tmp_path, capsys):
    log = Log(tmp_path, max_step=4, is_main=True)
    for step, loss in enumerate((1.0, 2.0, 3.0, 5.0), 1):
        log.add(torch.tensor(loss), n_tokens=7)
        if step % 2 == 0:
            log.interval(1, step, step, 0.1, 0.1)
    log.close()
    assert [line["avg_loss"] for line in read_log(tmp_path)[0]] == [1.5, 4.0]
