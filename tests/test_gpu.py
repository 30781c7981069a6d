"""Whole runs on a GPU, and what only a GPU has; the golden numbers are on both devices in their own files.

What a CPU can do as well runs there too, so that it is seen to work.
"""

import json

import pytest

import gpt2_beam
import gpt2_ft
import toy
from runs import write_examples, write_model

GOLDEN_RTOL = 1e-9  # the golden numbers' own promise for float64
SAME_PROGRAM = 1e-3  # float32 losses of a compiled step, which adds up in another order, against plain ones


@pytest.fixture
def files(tmp_path):
    """Toy files, and the flags that train on them and decode with what was trained."""
    model = f"{write_model(tmp_path)} --work_dir {tmp_path}/work"
    write_examples(tmp_path / "data.jsonl", 24)
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


@toy.on_every_device
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


@toy.on_every_device
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_decodes_what_it_learnt(precision, device, files, capsys):
    folder, training, decoding = files
    where = ["--device", device, "--precision", precision]
    gpt2_ft.main([*training, *where])
    gpt2_beam.main([*decoding, *where])
    predictions = [json.loads(line)["predict"] for line in (folder / "work/beam_prediction.jsonl").open()]
    assert len(predictions) == 24
    assert all(len(ids) == 20 and any(ids) for ids in predictions)


@toy.on_a_gpu
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
    # Half precision rounds otherwise in other shapes.
    assert same == len(outputs[0]) if precision == "fp32" else same > 0


@toy.on_a_gpu
def test_a_compiled_step_has_the_same_losses(device, files, capsys):
    folder, training, _ = files
    found = []
    for extra in ([], ["--compile"]):
        gpt2_ft.main([*training, "--device", device, "--precision", "fp32", *extra])
        found.append(losses(folder))
    assert found[1] == pytest.approx(found[0], rel=SAME_PROGRAM)
