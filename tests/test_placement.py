"""Adapters anywhere in the model, at any rank: properties over random placements, the flags that describe them, the budget."""

import argparse
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gpt2_export
import gpt2_ft
import runs
import toy
from lora_nlg.config import CARDS
from lora_nlg.errors import UserError
from lora_nlg.methods import adapter_config, adapter_tensors, add_adapters, merge_adapters, placement
from lora_nlg.methods.placement import TARGETS, Given, LoraConfig
from lora_nlg.storage import checkpoints, models

IDS = torch.arange(48).view(3, 16)
FLOAT64 = dict(rtol=1e-10, atol=1e-10)  # the same sums in another order
C, V, N_LAYER = toy.CONFIG.n_embd, toy.CONFIG.vocab_size, toy.CONFIG.n_layer
# By the paper: (in, out) of each matrix, the tensors' names, and which outputs of the module are the target's
SIZES = {"q": (C, C), "k": (C, C), "v": (C, C), "o": (C, C), "fc": (C, 4 * C), "proj": (4 * C, C), "wte": (C, V)}
MODULES = {
    "attn.c_attn": "qkv", "attn.c_proj": ("o",), "mlp.c_fc": ("fc",), "mlp.c_proj": ("proj",), "wte": ("wte",),
}  # fmt: skip
SOME = settings(
    derandomize=True,
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def loras(draw) -> LoraConfig:
    named = draw(st.sets(st.sampled_from(TARGETS), min_size=1))
    targets = tuple(target for target in TARGETS if target in named)
    rank = draw(st.integers(1, 5) | st.tuples(*[st.integers(1, 5)] * len(targets)))
    return LoraConfig(
        dict(zip(targets, rank, strict=True)) if isinstance(rank, tuple) else rank,
        alpha=draw(st.sampled_from([1.0, 3.0, 32.0])),
        dropout=draw(st.sampled_from([0.0, 0.1])),
        targets=targets,
        layers=draw(st.sampled_from([None, (0,), (1,)])),
        init=draw(st.sampled_from(["kaiming", "gaussian:0.02", "gaussian_b:0.3"])),
        scaling=draw(st.sampled_from(["alpha/r", "rslora"])),
    )


def adapted(lora: LoraConfig):
    """The toy with adapters whose B is not zero either, in use."""
    model, generator = toy.model(0), torch.Generator().manual_seed(1)
    add_adapters(model, lora, generator)
    with torch.no_grad():
        for tensor in adapter_tensors(model).values():
            tensor.normal_(0, 0.3, generator=generator)
    return model.eval()


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.logits(model.eval()(IDS))


def modules(lora: LoraConfig) -> dict[str, tuple[str, ...]]:
    """The adapted modules' names, and their targets."""
    found = {}
    for name, held in MODULES.items():
        targets = tuple(target for target in held if target in lora.targets)
        layers = range(N_LAYER) if lora.layers is None else lora.layers
        found |= {full: targets for full in ([name] if name == "wte" else [f"h.{i}.{name}" for i in layers]) if targets}
    return found


def dense(lora: LoraConfig, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The toy's weights with scale · B A on top, by the paper's formula, out of a file's tensors."""
    weights = {name: tensor.clone() for name, tensor in toy.tensors(0).items()}
    for module, targets in modules(lora).items():
        A, B, row, column = tensors[f"{module}.lora_A"], tensors[f"{module}.lora_B"], 0, 0
        ranks = [lora.rank[t] if isinstance(lora.rank, dict) else lora.rank for t in targets]
        side_by_side = len(set(ranks)) > 1
        for target, R in zip(targets, ranks, strict=True):
            out = SIZES[target][1]
            B_target = B[:, column : column + R] if side_by_side else B[row : row + out]
            scale = lora.alpha / (R if lora.scaling == "alpha/r" else R**0.5)
            delta = scale * B_target @ A[column : column + R]  # (out, in)
            if module == "wte":
                weights["wte.weight"] += delta
            else:
                start = "qkv".index(target) * C if module.endswith("c_attn") else 0
                weights[f"{module}.weight"][:, start : start + out] += delta.T
            row, column = row + out, column + R
    return weights


def plain(weights: dict[str, torch.Tensor]):
    model = toy.model(0)
    model.load_state_dict(weights)
    return model


@SOME
@given(loras())
def test_the_function_is_that_of_the_dense_formula_merged_or_not(lora):
    """Fails when a target's B meets another's A, a scale or a layer is mixed up, or the head does not see the adapted embedding."""
    model = adapted(lora)
    expected = logits(plain(dense(lora, adapter_tensors(model))))
    assert torch.allclose(logits(model), expected, **FLOAT64)
    assert not torch.allclose(expected, logits(toy.model(0)), atol=1e-4)
    merge_adapters(model)
    assert torch.allclose(logits(model), expected, **FLOAT64)
    assert {type(module) for module in model.modules()} == {type(module) for module in toy.model(0).modules()}


@SOME
@given(loras())
@pytest.mark.slow
def test_float32_learns_the_same(lora):
    """float32 on a CPU goes through other kernels, and what they give is added to in place."""
    double, single = adapted(lora), adapted(lora).float()
    for model in (double, single):
        torch.log_softmax(model.logits(model(IDS)), dim=-1)[..., 0].mean().backward()
    for name, parameter in double.named_parameters():
        if parameter.requires_grad:
            grad = single.get_parameter(name).grad.double()
            torch.testing.assert_close(grad, parameter.grad, rtol=1e-3, atol=1e-4 * parameter.grad.abs().max().item())


@SOME
@given(loras())
def test_packed_rows_are_adapted_like_batches(lora):
    """(N, C) in place of (B, T, C), through every adapted module."""
    model = adapted(lora)
    with torch.no_grad():
        for name in modules(lora):
            module = model.get_submodule(name)
            call = module.logits if name == "wte" else module
            x = torch.randn(
                3, 16, module.lora_A.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(2)
            )
            assert torch.allclose(call(x.view(48, -1)), call(x).view(48, -1), **FLOAT64)
        if "wte" in lora.targets:
            assert torch.equal(model.wte(IDS.view(48)), model.wte(IDS).view(48, C))


@SOME
@given(loras())
def test_gradients_are_where_adapters_are(lora):
    model = adapted(lora)
    model.logits(model(IDS)).square().sum().backward()
    names = {f"{module}.lora_{matrix}" for module in modules(lora) for matrix in "AB"}
    assert {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()} == names
    assert {name for name, p in model.named_parameters() if p.requires_grad} == names
    for name in names:  # every one of the R
        grad = model.get_parameter(name).grad
        assert grad.any(dim=1 if name.endswith("A") else 0).all()


@SOME
@given(loras())
def test_the_number_of_parameters(lora):
    """R · (in + out) a matrix, by the model and by the formula."""
    expected = 0
    for targets in modules(lora).values():
        for target in targets:
            expected += (lora.rank[target] if isinstance(lora.rank, dict) else lora.rank) * sum(SIZES[target])
    model = adapted(lora)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected == lora.n_parameters(toy.CONFIG)


@SOME
@given(lora=loras())
@pytest.mark.slow
def test_saved_and_loaded_they_are_the_same(lora, tmp_path):
    model = adapted(lora)
    tensors = adapter_tensors(model)
    base = checkpoints.Base("gpt2.toy", models.fingerprint(model))
    checkpoints.save_recipe(model, tmp_path / "model.final.pt", base, 14)
    checkpoints.save_adapters(tensors, tmp_path / "adapter.safetensors", lora, base, 14)
    for name in ("model.final.pt", "adapter.safetensors"):
        read = checkpoints.read(tmp_path / name)
        assert read.adapter_config(Given(0, None)) == lora == adapter_config(model)
        other = toy.model(0)
        add_adapters(other, lora)
        models.load_adapters(other, read)
        loaded = adapter_tensors(other)
        assert set(loaded) == set(tensors) and all(torch.equal(loaded[name], t) for name, t in tensors.items())


@SOME
@given(lora=loras())
@pytest.mark.slow
def test_exported_they_are_the_same_function(lora, tmp_path, capsys):
    """Every form of gpt2_export.py, read back by the programs' readers; PEFT's cannot express the embedding's."""
    model = adapted(lora)
    runs.write_model(tmp_path)
    checkpoints.save_adapters(adapter_tensors(model), tmp_path / "adapter.safetensors", lora)
    given = f"--model_card {tmp_path}/config.json --lora_checkpoint {tmp_path}/adapter.safetensors".split()
    base = f"--init_checkpoint {tmp_path}/base.safetensors --precision fp64".split()
    expected = logits(model)

    gpt2_export.main(["--to", "hf", "--output", str(tmp_path / "hf"), *given, *base])
    merged = models.base_model(toy.CONFIG, str(tmp_path / "hf"), torch.Generator(), "fp64")
    assert torch.allclose(logits(merged), expected, **FLOAT64)
    for form, name in (("loralib", "recipe.pt"), ("safetensors", "own.safetensors"), ("peft", "peft")):
        export = ["--to", form, "--output", str(tmp_path / name), *given]
        if form == "peft" and "wte" in lora.targets:
            with pytest.raises(UserError, match="--to peft cannot express adapters of wte"):
                gpt2_export.main(export)
            continue
        gpt2_export.main(export)
        read = checkpoints.read(tmp_path / name)
        other = toy.model(0)
        add_adapters(other, read.adapter_config(Given(0, None)))
        models.load_adapters(other, read)
        assert torch.allclose(logits(other), expected, **FLOAT64), form


# Starts


@pytest.mark.parametrize(("init", "std_A", "std_B"), [("gaussian:0.02", 0.02, 0), ("gaussian_b:0.3", 0.3, 0.3)])
def test_gaussian_starts(init, std_A, std_B):
    model = toy.model(0)
    add_adapters(model, LoraConfig(16, init=init, targets=TARGETS), torch.Generator().manual_seed(1))
    for name, tensor in adapter_tensors(model).items():
        assert tensor.std().item() == pytest.approx(std_A if name.endswith("A") else std_B, rel=0.15)


@pytest.mark.parametrize("init", ["kaiming", "gaussian:0.5"])
def test_with_b_zero_every_placement_starts_as_the_base(init):
    model = toy.model(0)
    before = logits(model)
    add_adapters(model, LoraConfig({target: 2 for target in TARGETS} | {"v": 3}, targets=TARGETS, init=init))
    assert torch.equal(logits(model), before)


def test_kaiming_is_by_what_goes_in():
    """1 / √fan_in: half as wide for mlp.c_proj, which has four times the inputs; the embedding's A takes hidden states."""
    model = toy.model(0)
    add_adapters(model, LoraConfig(16, targets=TARGETS), torch.Generator().manual_seed(1))
    for name, tensor in adapter_tensors(model).items():
        if name.endswith("lora_A"):
            bound = (128 if "mlp.c_proj" in name else 32) ** -0.5
            assert 0.95 * bound < tensor.abs().max() <= bound


# Flags


def flags(text: str = "", card: str = "gpt2.md") -> LoraConfig:
    parser = argparse.ArgumentParser()
    placement.add_flags(parser)
    for flag, default, kind in (("lora_dim", "0", str), ("lora_alpha", 128.0, float), ("model_card", card, str)):
        parser.add_argument(f"--{flag}", default=default, type=kind)
    return placement.from_flags(parser.parse_args(text.split()), CARDS[card])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--lora_dim 4", LoraConfig(4)),
        ("--lora_dim 4 --lora_targets v,q", LoraConfig(4)),
        ("--lora_dim 4 --lora_targets all", LoraConfig(4, targets=TARGETS)),
        ("--lora_dim 4 --lora_layers 0-23", LoraConfig(4)),
        ("--lora_dim 4 --lora_layers 5-7,0,2,6", LoraConfig(4, layers=(0, 2, 5, 6, 7))),
        ("--lora_dim v=4,q=8", LoraConfig({"q": 8, "v": 4})),
        ("--lora_dim v=4,q=4", LoraConfig(4)),
        ("--lora_dim 1 --lora_alpha 2 --lora_dropout 0.1 --lora_scaling rslora --lora_init gaussian:0.02",
         LoraConfig(1, 2, dropout=0.1, init="gaussian:0.02", scaling="rslora")),
        ("", LoraConfig(0)),
    ],
)  # fmt: skip
def test_what_the_flags_mean(text, expected):
    assert flags(text) == expected


@pytest.mark.parametrize(
    ("budget", "targets", "rank"),
    [
        ("0.39M", "q,k,v,o", 1),  # 196 608 a rank
        ("393216", "q,v", 4),
        ("393215", "q,v", 3),
        ("0.4M", "q,v", 4),
        ("98304", "q,v", 1),
        ("18M", "all", 36),
        ("786.432k", "q", 16),
    ],
)
def test_the_budget_is_kept_and_used(budget, targets, rank):
    """The parameters at `rank` fit, and at the next one they do not."""
    lora = flags(f"--lora_budget {budget} --lora_targets {targets}")
    limit = placement.parse_budget(budget)
    assert lora.rank == rank
    assert lora.n_parameters(CARDS["gpt2.md"]) <= limit < lora.n_parameters(CARDS["gpt2.md"]) // rank * (rank + 1)


def test_the_paper_at_one_budget():
    """Table 5's placements of GPT-3, whose budget of 18M is r = 8 for one matrix, 4 for two, 2 for four: the same ratios here."""
    budget = LoraConfig(8, targets=("q",)).n_parameters(CARDS["gpt2.md"])
    ranks = [flags(f"--lora_budget {budget} --lora_targets {targets}").rank for targets in ("q", "o", "q,v", "q,k,v,o")]
    assert ranks == [8, 8, 4, 2]


def test_what_training_says_before_it_starts_and_keeps_in_its_record(tmp_path, capsys):
    """The rank comes from the budget; what is printed and recorded is what is on the disk in the end."""
    given = f"{runs.write_model(tmp_path)} --work_dir {tmp_path}/work "
    runs.write_examples(tmp_path / "data.jsonl", 8)
    given += f"--train_data {tmp_path}/data.jsonl --valid_data {tmp_path}/data.jsonl --device cpu --max_step 2"
    gpt2_ft.main([*given.split(), *"--lora_budget 4k --lora_targets q,k,v,o --lora_layers 1".split()])
    said = capsys.readouterr().out
    trained, total = 4 * 2 * 15 * 32, 64_992 + 3_840
    assert f"{total:,} parameters, 3,840 trained (5.58 %)" in said
    assert "adapters on q,k,v,o of layers 1, rank 15: 0.02 MB on disk, 0.03 MB of memory for Adam's averages" in said
    record = json.loads((tmp_path / "work/run.json").read_text())
    assert record["settings"]["lora"]["rank"] == 15
    assert (record["trained_parameters"], record["share_of_model"]) == (trained, trained / total)
    assert record["optimizer_bytes"] == 8 * trained
    assert record["bytes_on_disk"] == 4 * trained
    assert 0 < (tmp_path / "work/adapter.safetensors").stat().st_size - record["bytes_on_disk"] < 2_000
    state = torch.load(tmp_path / "work/state.2.pt", weights_only=True)["optimizer"]["state"]
    averages = [t for of_one in state.values() for t in of_one.values() if isinstance(t, torch.Tensor) and t.dim()]
    assert sum(t.numel() * t.element_size() for t in averages) == record["optimizer_bytes"]
