"""What exports make of settings, of folders with something in them, and of names; each was once silently wrong or a traceback."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import loralib
import pytest
import torch
from safetensors.torch import load_file

import gpt2_export
import runs
import toy
from lora_nlg import errors, files, methods
from lora_nlg.config import ModelConfig, VariantConfig
from lora_nlg.errors import UserError
from lora_nlg.methods.lora import wide_B
from lora_nlg.methods.placement import LoraConfig
from lora_nlg.methods.vera import Projections, VeraConfig
from lora_nlg.storage import checkpoints, fitting, hub, models, tensor_files
from metrics import files as metrics_files
from metrics.errors import UserError as MetricsError
from runs import write_model
from test_placement import adapted

ROOT = Path(__file__).resolve().parents[1]


def write(folder, lora, name="adapter.safetensors", base=None, dtype=torch.float64):
    """Write the toy and adapters of it, and return their model."""
    write_model(folder)
    model = adapted(lora)
    tensors = {name: tensor.detach().to(dtype) for name, tensor in methods.adapter_tensors(model).items()}
    checkpoints.save_adapters(tensors, folder / name, lora, base)
    return model


def export(folder, to, *flags, output="out", name="adapter.safetensors"):
    command = ["--to", to, "--output", str(folder / output), "--lora_checkpoint", str(folder / name), *flags]
    return gpt2_export.main(command)


def everything_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# The recipe's own layer


@pytest.mark.parametrize("scaling", ["alpha/r", "rslora"])
def test_the_recipes_layer_computes_what_was_exported_for_it(scaling, tmp_path):
    """Its scale is alpha / rank whatever the file says. Fails when RSLoRA's √R is lost: half of ΔW at rank 4."""
    model = write(tmp_path, LoraConfig(4, 8.0, scaling=scaling))
    export(tmp_path, "loralib", output="out.pt")
    held = torch.load(tmp_path / "out.pt", weights_only=True)["model_state_dict"]
    width = toy.CONFIG.n_embd
    layer = loralib.MergedLinear(
        width, 3 * width, r=4, lora_alpha=8, enable_lora=[True, False, True], bias=False
    ).double()
    with torch.no_grad():
        layer.weight.zero_()
        for matrix in ("lora_A", "lora_B"):
            getattr(layer, matrix).copy_(held[f"module.transformer.h.0.attn.c_attn.{matrix}"])
        ours = model.h[0].attn.c_attn.delta_weight()
        assert torch.allclose(layer(torch.eye(width, dtype=torch.float64)), ours, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    ("lora", "fits"),
    [
        (LoraConfig(4, 8.0), True),
        (LoraConfig(4, 8.0, targets=("q", "k")), False),
        (LoraConfig(4, 8.0, targets=("q", "v", "fc")), False),
        (LoraConfig(4, 8.0, layers=(1,)), False),
        (LoraConfig({"q": 2, "v": 4}, 8.0), False),
    ],
)
def test_what_the_recipes_layer_has_no_place_for_is_said(lora, fits, tmp_path, capsys):
    write(tmp_path, lora)
    assert export(tmp_path, "loralib", output="out.pt") == 0
    assert ("the recipe's own layer has adapters of q and v alone" in capsys.readouterr().err) == (not fits)


# Half precision


def test_pefts_form_of_half_precision_is_not_rounded_again(tmp_path):
    lora = LoraConfig({"q": 3, "v": 4}, 8.0)
    write(tmp_path, lora, dtype=torch.float16)
    export(tmp_path, "peft")
    own = load_file(tmp_path / "adapter.safetensors")["h.0.attn.c_attn.lora_B"]
    packed = load_file(tmp_path / "out/adapter_model.safetensors")
    [theirs] = [tensor for name, tensor in packed.items() if ".h.0." in name and "lora_B" in name]
    scales = [1.0, lora.scale_of("v") / lora.scale_of("q")]
    assert torch.equal(theirs.double(), wide_B(own.float(), ("q", "v"), [3, 4], scales).double())


def test_veras_projections_are_those_of_the_training(tmp_path):
    """Drawn in half precision they are other numbers than the ones that were trained with."""
    model = toy.model(0)
    config = VeraConfig(4, n_in=toy.CONFIG.n_embd, n_out=3 * toy.CONFIG.n_embd)
    methods.add_adapters(model, config, torch.Generator().manual_seed(1))
    tensors = {name: tensor.detach().half() for name, tensor in methods.adapter_tensors(model).items()}
    checkpoints.save_adapters(tensors, tmp_path / "adapter.safetensors", config)
    export(tmp_path, "peft")
    A = load_file(tmp_path / "out/adapter_model.safetensors")["base_model.vera_A"]
    drawn = Projections(config.n_in, config.n_out, config, torch.empty(0)).vera_A
    assert torch.equal(A, drawn.repeat(2, 1))  # for the query and for the value


# Shapes


@pytest.mark.parametrize("target", ["proj", "fc"])
@pytest.mark.parametrize("to", ["peft", "safetensors"])
def test_vera_knows_the_inner_width_of_its_base(target, to, tmp_path):
    """It stands in no tensor of the file. Fails where n_inner is not 4 C."""
    plain = ModelConfig(n_embd=16, n_layer=2, n_head=2, n_positions=32, vocab_size=50)
    sizes = (20, 16) if target == "proj" else (16, 20)
    from lora_nlg.model.gpt2 import empty_model, init_weights

    model = empty_model(VariantConfig(**vars(plain), n_inner=20))
    init_weights(model, torch.Generator().manual_seed(1))
    config = VeraConfig(4, n_in=sizes[0], n_out=sizes[1], targets=(target,))
    methods.add_adapters(model, config, torch.Generator().manual_seed(1))
    checkpoints.save_adapters(methods.adapter_tensors(model), tmp_path / "adapter.safetensors", config)
    assert export(tmp_path, to) == 0


def test_a_layer_that_no_model_has_is_found_out_at_once():
    """Two hundred models of 3,000 layers are not built for it."""
    tensors = {f"h.{layer}.attn.c_attn.lora_A": torch.zeros(4, 768) for layer in (0, 3000)}
    started = time.monotonic()
    with pytest.raises(UserError, match="does not hold what it says"):
        fitting.check(tensors, LoraConfig(2, 4.0), Path("x"))
    assert time.monotonic() - started < 60


# Names of bases


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("openai-community/gpt2-medium", "openai-community/gpt2-medium"),
        ("gpt2-medium@main", "openai-community/gpt2-medium"),
        ("pretrained_checkpoints/gpt2-medium", "openai-community/gpt2-medium"),
        ("pretrained_checkpoints/gpt2-medium/model.safetensors", "openai-community/gpt2-medium"),
        ("trained_models/mine/model.final.pt", ""),
        ("gpt2/experiments/mine/model.final.pt", ""),
        ("gpt2/mine.pt", ""),
        ("pretrained_checkpoints/gpt2", ""),
        ("random", ""),
        (None, ""),
    ],
)
def test_a_base_is_published_where_its_place_says_so(given, name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for folder in ("pretrained_checkpoints", "trained_models", "gpt2/experiments"):
        (tmp_path / folder).mkdir(parents=True)
    assert hub.published(given, "gpt2.md") == name


@pytest.mark.parametrize(
    ("name", "expected"), [(None, "openai-community/gpt2-medium"), ("", None), ("me/mine", "me/mine")]
)
def test_adapters_of_weights_that_are_not_published_name_no_base(name, expected, tmp_path):
    """PEFT would load GPT-2 under them without a word. Files from before say nothing, and their card stands for it."""
    base = checkpoints.Base("gpt2.md", models.fingerprint(toy.model(0)), name)
    write(tmp_path, LoraConfig(4, 8.0), base=base)
    assert checkpoints.read(tmp_path / "adapter.safetensors").base == base
    export(tmp_path, "peft")
    said = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == expected
    assert ("openai-community" in (tmp_path / "out/README.md").read_text()) == bool(expected and "openai" in expected)


def test_a_name_that_a_terminal_would_obey_is_shown_in_the_card(tmp_path):
    write(tmp_path, LoraConfig(4, 8.0))
    export(tmp_path, "peft", output="ev\x1b[2J\nil")
    card = (tmp_path / "ev\x1b[2J\nil/README.md").read_text()
    assert "\x1b" not in card and "# ev\\x1b[2J\\nil\n" in card


# Folders with something in them


def merged(folder, *flags, name="adapter.safetensors"):
    base = ["--model_card", f"{folder}/config.json", "--init_checkpoint", f"{folder}/base.safetensors"]
    return export(folder, "hf", *base, *flags, name=name)


@pytest.mark.parametrize("way", ["peft", "hf"])
@pytest.mark.parametrize("fails_at", ["_save_json", "write_texts"])
def test_an_export_that_fails_leaves_the_one_before(way, fails_at, tmp_path, monkeypatch):
    """Fails when new tensors lie beside old settings: alpha 2 for 64 is a factor of 32, without a word."""
    write(tmp_path, LoraConfig(4, 2.0))
    write(tmp_path, LoraConfig(4, 64.0), name="other.safetensors")
    make = merged if way == "hf" else lambda folder, **more: export(folder, "peft", **more)
    assert make(tmp_path) == 0
    before = everything_in(tmp_path / "out")

    def full(*_):
        raise files.cannot_write(Path("x"), OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(checkpoints if fails_at == "_save_json" else gpt2_export, fails_at, full)
    with pytest.raises(UserError, match="No space left"):
        make(tmp_path, name="other.safetensors")
    assert everything_in(tmp_path / "out") == before and len(list((tmp_path / "out").iterdir())) == len(before)
    monkeypatch.undo()
    assert make(tmp_path, name="other.safetensors") == 0
    assert everything_in(tmp_path / "out") != before


@pytest.mark.parametrize("at", range(1, 9))
def test_an_export_that_fails_while_it_is_put_in_place_puts_back_the_one_before(at, tmp_path, monkeypatch):
    """At whichever move. Fails when files that were not moved yet are taken for new ones and deleted."""
    write(tmp_path, LoraConfig(4, 2.0))
    write(tmp_path, LoraConfig(4, 64.0), name="other.safetensors")
    export(tmp_path, "peft")
    (tmp_path / "out/mine.txt").write_text("mine")
    before, real, moves = everything_in(tmp_path / "out"), os.replace, iter(range(1, 100))

    def replace(old, new):
        if Path(old).parent != Path(new).parent and next(moves) == at:
            raise OSError(errno.EIO, "Input/output error")
        real(old, new)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(UserError, match="Input/output error"):
        export(tmp_path, "peft", name="other.safetensors")
    assert everything_in(tmp_path / "out") == before
    assert len(list((tmp_path / "out").iterdir())) == len(before)


@pytest.mark.parametrize("name", ["README.md", "generation_config.json", "adapter_config.json"])
def test_a_folder_in_the_place_of_a_file_is_found_out_before_anything_is_written(name, tmp_path):
    write(tmp_path, LoraConfig(4, 2.0))
    (tmp_path / "out" / name).mkdir(parents=True)
    with pytest.raises(UserError, match="it is a folder"):
        export(tmp_path, "peft")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


@pytest.fixture
def vocabulary(tmp_path, monkeypatch):
    """GPT-2's vocabulary, for the toy's model."""
    monkeypatch.setattr(gpt2_export.config, "GPT2_VOCAB_SIZE", toy.CONFIG.vocab_size)
    return {name: (ROOT / "vocab" / published).read_bytes() for name, published in gpt2_export.TOKENIZER_FILES.items()}


def test_a_vocabulary_that_is_not_gpt2s_is_not_written_over(vocabulary, tmp_path):
    write(tmp_path, LoraConfig(4, 2.0))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/vocab.json").write_text("mine")
    with pytest.raises(UserError, match=r"vocab.json is not GPT-2's, and would be lost"):
        merged(tmp_path)
    assert everything_in(tmp_path / "out") == {"vocab.json": b"mine"}


def test_a_vocabulary_that_is_a_link_to_ours_is_no_trouble(vocabulary, tmp_path):
    write(tmp_path, LoraConfig(4, 2.0))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/vocab.json").symlink_to(ROOT / "vocab/encoder.json")
    assert merged(tmp_path) == 0
    assert {name: (tmp_path / "out" / name).read_bytes() for name in vocabulary} == vocabulary
    assert (ROOT / "vocab/encoder.json").read_bytes() == vocabulary["vocab.json"]


# Places that are no files, and files that cannot be come at


@pytest.mark.parametrize("twin", [(files, UserError), (metrics_files, MetricsError)], ids=["lora_nlg", "metrics"])
def test_a_pipe_or_a_device_is_not_replaced_by_a_file(twin, tmp_path):
    """As root a program would turn /dev/null into a file. Fails when it is found out after hours, or not at all."""
    module, error = twin
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path / "link", Path("/dev/stdout"), Path("/dev/no such thing")):
        with pytest.raises(error, match="it is a device or a pipe"):
            module.check_outputs([place], [])
    with pytest.raises(error, match="it is a device or a pipe"), module.atomic_writer(tmp_path / "pipe") as file:
        file.write("x")
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_symlink()


PROGRAMS = [
    ["src/gpt2_generate.py", "--model_card", "gpt2.mini", "--init_checkpoint", "X"],
    ["src/gpt2_generate.py", "--model_card", "X"],
    ["src/gpt2_export.py", "--to", "peft", "--lora_checkpoint", "X", "--output", "o"],
    ["src/gpt2_encode.py", "--vocab", "X", "--input", "i", "--output", "o"],
    ["src/format_own_data.py", "X", "o"],
    ["eval/report.py", "X", "--data", "d"],
    ["eval/e2e/measure_scores.py", "X", "X"],
    ["eval/triples/measure_scores.py", "X", "X", "--protocol", "dart"],
    ["eval/slots.py", "X", "--data", "d"],
]


@pytest.mark.slow
@pytest.mark.parametrize("command", PROGRAMS, ids=lambda command: " ".join(command[:2]))
def test_a_name_that_no_file_can_have_is_one_sentence(command, tmp_path):
    words = [str(ROOT / command[0]), *(word.replace("X", "x" * 300) for word in command[1:])]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, input="")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr and "x" * 300 in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_rights_are_one_sentence(capsys, monkeypatch):
    """As in a folder that is another user's alone."""

    def main(_):
        raise PermissionError(errno.EACCES, "Permission denied", "locked/model.pt")

    monkeypatch.setattr(sys, "argv", ["gpt2_beam.py"])
    assert errors.run(main) == 2
    said = "error: cannot reach locked/model.pt: Permission denied; check the name, and the rights of its folders\n"
    assert capsys.readouterr().err.endswith(said)


def test_a_fault_of_ours_is_still_a_traceback():
    def main(_):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "what we forgot to make")

    with pytest.raises(FileNotFoundError):
        errors.run(main)


def test_weights_that_cannot_be_read_are_not_called_damaged(tmp_path, monkeypatch):
    """safetensors says that there is no such file."""
    runs.write_model(tmp_path)

    def locked(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", locked)
    with pytest.raises(
        UserError, match=r"cannot read .*base.safetensors: Permission denied; check the path and its rights"
    ):
        tensor_files.load(tmp_path / "base.safetensors")
