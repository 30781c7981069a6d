"""Where methods meet files, other programs and each other: what was wrong there once."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import count_parameters
import gpt2_beam
import gpt2_export
import gpt2_ft
import runs
import toy
from lora_nlg import api, dist, methods
from lora_nlg.config import OptimConfig, TrainConfig
from lora_nlg.data.examples import Example
from lora_nlg.errors import UserError
from lora_nlg.methods import vera
from lora_nlg.methods.fourier import FourierConfig
from lora_nlg.methods.pairs import PairConfig
from lora_nlg.methods.placement import Given, LoraConfig
from lora_nlg.methods.prefix import PrefixConfig
from lora_nlg.model.gpt2 import store_frozen_in
from lora_nlg.storage import checkpoints, models
from test_methods import TOLERANCE, config_of, flags_of, hidden, trained


def write(folder, model, base=None):
    """Write the toy, and the file of a model that was trained on it."""
    runs.write_model(folder)
    path = folder / "adapter.safetensors"
    base = base or checkpoints.Base("gpt2.toy", models.fingerprint(toy.model(0)))
    checkpoints.save_adapters(methods.adapter_tensors(model), path, model.trained_by, base)
    return path


def export(folder, to: str, *flags: str) -> None:
    command = f"--to {to} --output {folder}/out --lora_checkpoint {folder}/adapter.safetensors".split()
    assert gpt2_export.main([*command, *flags]) == 0


@pytest.mark.parametrize("more", ["", "--lora_targets q,k,o,fc --lora_layers 1", "--lora_scaling rslora"])
def test_pissa_for_the_recipe_is_plain_lora_of_twice_the_rank(more, tmp_path):
    """It reads lora_A and lora_B alone: what they started as would be left out without a word."""
    model = trained("lora", f"--lora_init pissa {more}")
    write(tmp_path, model)
    export(tmp_path, "loralib")
    plain = checkpoints.read(tmp_path / "out")
    assert {name.rpartition(".")[2] for name in plain.tensors} == {"lora_A", "lora_B"}
    back = toy.model(0)
    models.put_adapters(back, plain)
    assert (hidden(back) - hidden(model)).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ["dora", "vera", "fourier", "ia3", "prefix_kv", "bias"])
def test_what_the_recipe_cannot_have_is_one_sentence(name, tmp_path):
    write(tmp_path, trained(name))
    with pytest.raises(UserError, match="--to loralib cannot express"):
        export(tmp_path, "loralib")


def test_the_lengths_of_doras_other_outputs_come_from_its_own_base(tmp_path):
    write(tmp_path, trained("dora"))
    other = {name: 1.7 * tensor for name, tensor in toy.tensors(0).items()}
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="is not the base that"):
        export(tmp_path, "peft", "--init_checkpoint", f"{tmp_path}/other.safetensors")
    write(tmp_path, trained("dora", "--lora_targets fc"))
    with pytest.raises(UserError, match="would have no effect"):
        export(tmp_path, "peft", "--init_checkpoint", f"{tmp_path}/base.safetensors")


def test_a_file_of_two_methods_loses_neither(tmp_path):
    """Saved again without what it said: adapters and a prefix, of which one would have been left out."""
    path = write(tmp_path, trained("lora+prefix_kv"))
    save_file(load_file(path), path)
    with pytest.raises(UserError, match="does not describe it"):
        models.put_adapters(toy.model(0), checkpoints.read(path), Given(2, 8))
    said = {"method": "prefix_kv", "settings": json.dumps({"method": "prefix_kv", "prefix_length": 14})}
    save_file(load_file(path), path, said)
    with pytest.raises(UserError, match="beside what --method prefix_kv trains"):
        models.put_adapters(toy.model(0), checkpoints.read(path))


def test_two_budgets_are_one_too_many():
    args = flags_of("vera", "--lora_budget 300 --trained_budget 6k")
    args.method, args.lora_dim = "lora", "0"
    with pytest.raises(UserError, match="give one of the two"):
        methods.from_flags(args, toy.CONFIG)


@pytest.mark.parametrize(
    "flags",
    [
        "--method vera --lora_dim 4", "--method bias --prefix_length 4", "--method prefix_kv --adapter_dim 3",
        "--lora_dim 4 --init_checkpoint nowhere", "--lora_dim 4 --lora_checkpoint nowhere.pt",
    ],
)  # fmt: skip
def test_counting_refuses_flags_that_the_method_does_not_read(flags):
    with pytest.raises(UserError, match="would have no effect"):
        count_parameters.main(flags.split())


def test_counting_knows_the_size_of_a_number(capsys):
    sizes = []
    for precision in ("fp32", "bf16", "fp64"):
        count_parameters.main(f"--model_card gpt2.mini --lora_dim 4 --precision {precision}".split())
        sizes.append(capsys.readouterr().out.splitlines()[1].split()[0])
    assert sizes == ["0.07", "0.07", "0.13"]


@pytest.mark.parametrize("name", ["dora", "ia3"])
def test_a_small_change_of_a_factor_counts_in_half_precision(name):
    """The factor rounded before it multiplies is 1, and what was learnt had no effect until it was merged."""
    outputs = []
    for factor in (1.0, 1.003):
        model = toy.model(0).float()
        methods.add_adapters(model, config_of(name), torch.Generator().manual_seed(1))
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "lora_m" in parameter_name or "ia3" in parameter_name:
                    parameter.mul_(factor)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            outputs.append(model.h[0].attn.c_attn(torch.ones(64, 32))[:, -32:].float().abs().mean())
    assert not torch.equal(*outputs)


def test_vera_of_a_file_that_does_not_say_its_sizes_says_them_when_it_is_trained_on():
    """As PEFT's without projections: 0 is nothing that the file knows better, and would make it impossible to export."""
    ours = config_of("vera", "--vera_dim 4")
    theirs = dataclasses.replace(ours, n_in=0, n_out=0, seed=5)
    assert methods.as_in_file(ours, theirs) == dataclasses.replace(ours, seed=5)
    vectors = {"h.0.attn.c_attn.vera_b": torch.zeros(64), "h.0.attn.c_attn.vera_d": torch.zeros(2, 4)}
    vera.METHOD.check_start(theirs, vectors, Path("x"), dataclasses.replace(ours, seed=5))


def test_a_scale_that_is_a_whole_number_is_read_again(tmp_path):
    model = toy.model(0)
    methods.add_adapters(model, FourierConfig(5, scale=300))
    assert checkpoints.read(write(tmp_path, model)).config.scale == 300


def test_a_pair_does_not_take_what_it_would_not_read():
    for of_lora, says in (
        (LoraConfig(2, 8, init="pissa"), "pissa would have no effect"),
        (LoraConfig(0), "needs a rank"),
    ):
        with pytest.raises(UserError, match=says):
            PairConfig(of_lora, PrefixConfig("prefix_kv", 2))


def test_doras_norms_are_not_taken_in_half_precision():
    model = trained("dora").float()
    conv = model.h[0].attn.c_attn
    exact = conv.factors()
    store_frozen_in(model, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert (conv.factors() - exact).abs().max() < 2e-3  # that of W in half precision


def test_an_output_without_weights_stays_without():
    """0 / 0 where DoRA's norm is none: also of an output that it does not adapt."""
    model = toy.model(0)
    with torch.no_grad():
        model.h[0].attn.c_attn.weight[:, [3, 40]] = 0  # of q, of k
    base = hidden(model)
    methods.add_adapters(model, config_of("dora"), torch.Generator().manual_seed(1))
    assert (hidden(model) - base).abs().max() < TOLERANCE


def peft_folder(tmp_path, **more):
    """A folder of PEFT's own, moved from its start."""
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    checkpoints.save_hugging_face(toy.model(0), tmp_path / "hub")
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hub", dtype=torch.float32)
    made = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["c_attn"], fan_in_fan_out=True, **more)
    wrapped = peft.get_peft_model(model, made)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    wrapped.save_pretrained(tmp_path / "peft")
    return tmp_path / "peft"


def test_pefts_pissa_decodes_and_is_no_adapter_without_its_base(tmp_path, capsys):
    folder = peft_folder(tmp_path, init_lora_weights="pissa")
    decoding = runs.write_decoding(tmp_path, 4).split()
    assert (
        gpt2_beam.main([*decoding, *f"--seq_len 40 --eval_len 4 --device cpu --lora_checkpoint {folder}".split()]) == 0
    )
    for to in ("peft", "safetensors", "loralib"):
        with pytest.raises(UserError, match="started as a part of its base"):
            gpt2_export.main(f"--to {to} --output {tmp_path}/out --lora_checkpoint {folder}".split())


@pytest.mark.parametrize(
    ("name", "more", "flags"),
    [
        ("lora", "--lora_init pissa", "--lora_dim 2 --lora_alpha 8"),
        ("vera", "--vera_dim 4", "--method vera --vera_dim 4"),
        ("fourier", "--fourier_n 9", "--method fourier --fourier_n 9"),
    ],
)
def test_training_goes_on_from_what_only_a_file_can_say(name, more, flags, tmp_path):
    """How PiSSA started, and seeds of other programs."""
    model = trained(name, more)
    if name != "lora":
        config = type(model.trained_by)(**{**vars(model.trained_by), "seed": 5})
        model = toy.model(0)
        methods.add_adapters(model, config, torch.Generator().manual_seed(1))
    files = runs.write_training(tmp_path)
    path = write(tmp_path, model)
    command = (
        f"{files} {flags} --lora_checkpoint {path} --max_step 2 --train_batch_size 2 --precision fp64 --device cpu"
    )
    assert gpt2_ft.main(command.split()) == 0
    saved = checkpoints.read(tmp_path / "work/adapter.safetensors")
    assert saved.config == model.trained_by


@pytest.mark.parametrize("targets", ["fc", "proj", "o,proj", "q,fc"])
def test_vera_says_how_large_its_projections_are(targets):
    """Guessed from the tensors they were wrong where the MLP is not four times as wide."""
    config = config_of("vera", f"--vera_dim 3 --lora_targets {targets}")
    assert (config.n_in, config.n_out) == (
        128 if "proj" in targets else 32,
        {"fc": 128, "proj": 32, "o,proj": 32, "q,fc": 128}[targets],
    )


def test_more_singular_vectors_than_there_are_is_one_sentence():
    args = flags_of("lora", "--lora_init pissa --lora_targets fc")
    args.lora_dim, args.lora_init = "33", "pissa"
    with pytest.raises(UserError, match="fewer than the rank 33"):
        methods.from_flags(args, toy.CONFIG)


SETTINGS = [
    ("prefix_kv", {"prefix_length": "3"}), ("prefix_kv", {"prefix_length": -1}), ("prefix_kv", {"method": "bogus"}),
    ("prefix_kv", {"prefix_length": 10**12}), ("adapter_h", {"adapter_dim": 1.5}), ("adapter_h", {"adapter_dim": None}),
    ("adapter_h", {"adapter_dim": 10**12}), ("vera", {"dim": 10**12}), ("vera", {"targets": ["x"]}), ("vera", {"targets": []}),
    ("vera", {"layers": 3}), ("vera", {"seed": "a"}), ("vera", {"seed": 2**70}), ("fourier", {"n": 10**12}),
    ("fourier", {"joined": True}), ("fourier", {"seed": 1.5}), ("top2", {"n_blocks": 99}), ("top2", {"n_blocks": "2"}),
    ("ia3", {"joined": 1}), ("ia3", {"joined": True}),
    ("bias", {"unknown": 1}), ("vera", "[[[["), ("vera", "[" * 100_000), ("vera", "3"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change"), SETTINGS, ids=lambda value: str(value)[:40])
def test_damaged_settings_are_one_sentence(name, change, tmp_path):
    path = write(tmp_path, trained(name))
    with safe_open(path, "pt") as file:
        said = file.metadata()
    if isinstance(change, dict):
        said["settings"] = json.dumps({**json.loads(said["settings"]), **change})
    else:
        said["settings"] = change
    save_file(load_file(path), path, said)
    with pytest.raises(UserError):
        models.put_adapters(toy.model(0), checkpoints.read(path))


def test_the_api_keeps_the_base_of_what_it_trained(tmp_path):
    """Blocks that are trained stand in the base's place, which was hashed after them; and a refusal leaves the model as it was."""
    base = checkpoints.Base("toy", models.fingerprint(toy.model(0)))
    network = toy.model(0)
    model = api.Model(network, None, dist.start("cpu", 0, 1, 0), "fp64", "toy")
    object.__setattr__(model, "_encoded", lambda pairs: toy.examples(len(pairs)))
    settings = TrainConfig(2, 2, seq_len=64, precision="fp64", log_interval=1, eval_interval=100, save_interval=100)
    pairs = [("a", "b")] * 4
    model.train(pairs, pairs[:2], tmp_path / "one", config_of("top2"), OptimConfig(1e-3, 2), settings)
    model.save(tmp_path / "top2.safetensors")
    assert checkpoints.read(tmp_path / "top2.safetensors").base == base
    untouched = hidden(network)
    with pytest.raises(UserError, match="is empty"):  # found out before anything is put on
        object.__setattr__(model, "_encoded", lambda pairs: [Example([1], []) for _ in pairs])
        model.train(pairs, pairs[:2], tmp_path / "none", config_of("prefix_kv"), OptimConfig(1e-3, 2), settings)
    object.__setattr__(model, "_encoded", lambda pairs: toy.examples(len(pairs)))
    with pytest.raises(UserError, match="fewer than the rank 99"):  # from within the start
        model.train(
            pairs, pairs[:2], tmp_path / "none", LoraConfig(99, 8, init="pissa"), OptimConfig(1e-3, 2), settings
        )
    assert network.trained_by is None and torch.equal(hidden(network), untouched)
    model.train(pairs, pairs[:2], tmp_path / "two", config_of("lora+prefix_kv"), OptimConfig(1e-3, 2), settings)
    before = hidden(network)
    with pytest.raises(UserError, match="load the base alone"):
        model.train(pairs, pairs[:2], tmp_path / "three", LoraConfig(2, 8), OptimConfig(1e-3, 2), settings)
    assert torch.equal(hidden(network), before)


NOT_ALL = [
    {"alpha": None, "targets": "k,v"}, {"alpha": None, "scaling": "rslora"}, {"rank": None}, {"method": "prefix_kv"},
    {"method": "full"}, {"method": "ia3"}, {"scalinh": "rslora", "version": "9.9"}, {"later": "1", "version": "9.9"},
]  # fmt: skip


@pytest.mark.parametrize("change", NOT_ALL)
def test_a_description_that_is_not_whole_is_not_passed_over(change, tmp_path):
    """Fails when a file of k and v, whose alpha is lost, is read as one of q and v; or a later version's setting is left out."""
    said = {"rank": "4", "alpha": "32.0", "targets": "q,v"} | change
    path = tmp_path / "a.safetensors"
    save_file(runs.adapters(), path, {name: value for name, value in said.items() if value is not None})
    with pytest.raises(
        UserError, match=r"says of its adapters what cannot be understood \((it has|its \w+ is not known here)"
    ):
        models.put_adapters(toy.model(0), checkpoints.read(path), Given(0, 32))


@pytest.mark.parametrize(
    ("name", "setting"), [("fourier", "scale"), ("fourier", "seed"), ("vera", "targets"), ("adapter_h", "adapter_dim")]
)
def test_a_setting_that_is_lost_is_not_made_up(name, setting, tmp_path):
    path = write(tmp_path, trained(name))
    with safe_open(path, "pt") as file:
        said = file.metadata()
    fields = json.loads(said["settings"])
    del fields[setting]
    save_file(load_file(path), path, said | {"settings": json.dumps(fields)})
    with pytest.raises(UserError, match=f"its settings have no {setting}"):
        checkpoints.read(path)
