"""The golden numbers on a GPU, and what only a GPU has. What a CPU can do as well runs on both, so that it is seen to work."""

import json

import pytest
import torch
from safetensors.torch import save_file

import gpt2_beam
import gpt2_ft
import toy
from lora_nlg import train
from lora_nlg.beam import beam_search
from lora_nlg.dist import Ranks
from lora_nlg.lora import merge_adapters
from lora_nlg.saves import Saves

GOLDEN_RTOL = 1e-9  # the golden numbers' own promise for float64
SAME_PROGRAM = 1e-3  # float32 losses of a compiled step, which adds up in another order, against plain ones
TRAINING = {run["name"]: run for run in toy.golden("train.json")}
SEARCHES = {case["name"]: case for case in toy.golden("beam.json")}
gpu = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))
on_both = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])
on_a_gpu = pytest.mark.parametrize("device", [pytest.param("cuda", marks=gpu)])


@pytest.fixture
def files(tmp_path):
    """Toy files, and the flags that train on them and decode with what was trained."""
    (tmp_path / "config.json").write_text(json.dumps(vars(toy.CONFIG)))
    save_file(toy.tensors(0), tmp_path / "base.safetensors")
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(vars(line)) + "\n" for line in toy.examples(24)))
    model = (
        f"--model_card {tmp_path}/config.json --init_checkpoint {tmp_path}/base.safetensors --work_dir {tmp_path}/work"
    )
    training = (
        f"{model} --train_data {tmp_path}/data.jsonl --valid_data {tmp_path}/data.jsonl --train_batch_size 4 --seq_len 64 "
        "--lora_dim 4 --lora_alpha 32 --lr 0.002 --correct_bias --max_step 14 --log_interval 1 --resume never"
    )
    decoding = (
        f"{model} --data {tmp_path}/data.jsonl --lora_checkpoint {tmp_path}/work/model.final.pt --seq_len 64 --eval_len 20 "
        "--beam 10 --length_penalty 0.8 --eos_token_id 162 --batch_size 5"
    )
    return tmp_path, training.split(), decoding.split()


def losses(folder) -> list[float]:
    lines = [json.loads(line) for line in (folder / "work/log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@on_both
@pytest.mark.parametrize("name", TRAINING)
def test_golden_losses(name, device, tmp_path, capsys):
    golden, flags = TRAINING[name], TRAINING[name]["flags"]
    ranks = Ranks(0, 1, torch.device(device))
    training, optim = toy.training_config(flags)
    model = toy.model(flags["lora_dim"], flags["lora_B_starts_at_zero"]).to(device)
    train_split = train.Split(toy.examples(golden["n_train"]), training, ranks)
    valid = train.Split(toy.examples(golden["n_valid"]), training, ranks, validation=True)
    (tmp_path / "work").mkdir()
    after = train.train(model, train_split, valid, optim, Saves(tmp_path / "work"), ranks)
    assert losses(tmp_path) == pytest.approx(golden["loss_per_micro_batch"], rel=GOLDEN_RTOL)
    assert after == pytest.approx(golden["valid_loss_after"], rel=GOLDEN_RTOL)


@on_both
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", SEARCHES)
def test_golden_ids(name, static, device):
    flags = SEARCHES[name]["flags"]
    model = toy.model(4)
    merge_adapters(model)
    model.to(device).requires_grad_(False)
    prompts = [line.context[-(flags["seq_len"] - flags["eval_len"]) :] for line in toy.examples(200)]
    prompts = prompts[slice(*SEARCHES[name]["examples"])]
    assert beam_search(model, prompts, toy.beam_config(flags), static=static) == SEARCHES[name]["predict"]


@on_both
def test_it_goes_on_where_it_was_saved(device, files, capsys):
    folder, training, _ = files
    whole = [*training, "--device", device, "--precision", "fp64"]
    gpt2_ft.main(whole)
    expected = losses(folder)
    gpt2_ft.main([*whole, "--save_interval", "5"])
    (folder / "work/model.14.pt").unlink()
    (folder / "work/state.14.pt").unlink()
    gpt2_ft.main([*whole, "--resume", "auto"])
    assert losses(folder)[-4:] == pytest.approx(expected[-4:], rel=GOLDEN_RTOL)


@on_both
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_decodes_what_it_learnt(precision, device, files, capsys):
    folder, training, decoding = files
    where = ["--device", device, "--precision", precision]
    gpt2_ft.main([*training, *where])
    gpt2_beam.main([*decoding, *where])
    predictions = [json.loads(line)["predict"] for line in (folder / "work/beam_prediction.jsonl").open()]
    assert len(predictions) == 24
    assert all(len(ids) == 20 and any(ids) for ids in predictions)


@on_a_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_recorded_decoding_writes_the_same_file(precision, device, files, capsys):
    """Fails when a recording reads a tensor that has moved since, or a cast of autocast's that is gone."""
    folder, training, decoding = files
    where = ["--device", device, "--precision", precision]
    gpt2_ft.main([*training, *where])
    outputs = []
    for extra in ([], ["--compile"]):
        gpt2_beam.main([*decoding, *where, *extra])
        outputs.append((folder / "work/beam_prediction.jsonl").read_text().splitlines())
    same = sum(a == b for a, b in zip(*outputs, strict=True))
    assert (
        same == len(outputs[0]) if precision == "fp32" else same > 0
    )  # half precision rounds otherwise in other shapes


@on_a_gpu
def test_a_compiled_step_has_the_same_losses(device, files, capsys):
    folder, training, _ = files
    found = []
    for extra in ([], ["--compile"]):
        gpt2_ft.main([*training, "--device", device, "--precision", "fp32", *extra])
        found.append(losses(folder))
    assert found[1] == pytest.approx(found[0], rel=SAME_PROGRAM)
