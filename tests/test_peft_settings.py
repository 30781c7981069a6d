"""Every setting of a PEFT adapter: computed as PEFT computes it, or refused by name. The oracle is PEFT itself, in float64."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import runs
import toy
from lora_nlg.errors import UserError
from lora_nlg.methods import add_adapters
from lora_nlg.methods.placement import Given
from lora_nlg.storage import checkpoints, models, peft_settings

pytestmark = pytest.mark.slow  # PEFT's own models

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

IDS = torch.arange(48).view(3, 16)
FLOAT64 = dict(rtol=1e-10, atol=1e-10)  # the same sums in another order
FLOAT32_START = dict(rtol=0, atol=1e-5)  # PEFT finds its starts in float32
ENDLESS = r"(?:\w|\w\w|\.|[a-z]|.)+[!?]"  # no name is like that, and there are too many ways to find it out
GPT2_S_MODULES = ["c_attn", "c_proj", "c_fc"]


@pytest.fixture
def files(tmp_path):
    runs.write_model(tmp_path)
    checkpoints.save_hugging_face(toy.model(0), tmp_path / "hub")
    return tmp_path


def their_base(folder, dtype=torch.float64):
    return transformers.GPT2LMHeadModel.from_pretrained(folder / "hub", dtype=dtype).eval()


def their_adapter(folder, dtype=torch.float64, **given):
    """Return PEFT's model with a random adapter, which is what training would have made of it, saved in FOLDER/peft."""
    settings = dict(task_type="CAUSAL_LM", r=4, lora_alpha=12, target_modules=["c_attn"], fan_in_fan_out=True) | given
    torch.manual_seed(0)
    model = peft.get_peft_model(their_base(folder, dtype), peft.LoraConfig(**settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder / "peft")
    return model


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval().double()(IDS).logits


@torch.no_grad()
def our_logits(folder) -> torch.Tensor:
    """Of the toy's base with the adapters of FOLDER/peft, not merged."""
    adapters = checkpoints.read(folder / "peft")
    model = models.base_model(toy.CONFIG, str(folder / "base.safetensors"), torch.Generator(), "fp64", adapters)
    add_adapters(model, adapters.adapter_config(Given(0, None)))
    models.load_adapters(model, adapters)
    return model.eval().logits(model(IDS))


def change_settings(folder, **change) -> None:
    path = folder / "peft/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


UNDERSTOOD = [
    dict(init_lora_weights="gaussian"),
    dict(init_lora_weights=False),
    dict(init_lora_weights="orthogonal"),
    dict(init_lora_weights="mica"),
    dict(fan_in_fan_out=False),  # PEFT warns, and takes what GPT-2's matrices need
    dict(ensure_weight_tying=True),
    dict(target_modules=r".*\.attn\.c_attn"),
    dict(target_modules=r"transformer\.h\.1\.(attn|mlp)\.c_proj"),
    dict(target_modules="all-linear"),
    dict(target_modules=GPT2_S_MODULES, exclude_modules=["mlp.c_proj"]),
    dict(target_modules=GPT2_S_MODULES, exclude_modules=r".*h\.1\..*"),
    dict(target_modules=GPT2_S_MODULES, exclude_modules=["h.0.attn.c_attn", "h.0.attn.c_proj", "c_fc", "mlp.c_proj"]),
    dict(layers_to_transform=1),
    dict(layers_to_transform=[0], layers_pattern="h"),
    dict(layers_to_transform=[0, 1], layers_pattern=["layers", "h"]),
    dict(target_modules=GPT2_S_MODULES, rank_pattern={"attn.c_attn": 2, r"h\.\d\.mlp\.c_fc": 5}, use_rslora=True),
    dict(target_modules=GPT2_S_MODULES, alpha_pattern={r"h\.1\.attn\.c_attn": 3, "c_fc": 0.5}),
    dict(lora_alpha=0.5, lora_dropout=0.1),
    dict(loftq_config={"loftq_bits": 4}, qalora_group_size=8),  # without init_lora_weights="loftq", PEFT drops it
]


@pytest.mark.parametrize(
    "given", UNDERSTOOD, ids=[" ".join(f"{n}={v}" for n, v in each.items()) for each in UNDERSTOOD]
)
def test_what_is_understood_computes_what_peft_computes(files, given):
    theirs = logits(
        their_adapter(files, torch.float32 if given.get("init_lora_weights") == "mica" else torch.float64, **given)
    )
    assert not torch.allclose(theirs, logits(their_base(files)), atol=1e-2)
    saved_in_float32 = FLOAT32_START if given.get("init_lora_weights") == "mica" else FLOAT64
    assert torch.allclose(our_logits(files), theirs, **saved_in_float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_adapter_in_half_precision_is_scaled_in_float32(files, dtype):
    """As PEFT scales it. Fails, by 1e-3, when alpha_pattern's factor is multiplied into half-precision numbers."""
    their_adapter(files, alpha_pattern={"c_attn": 0.7})
    path = files / "peft/adapter_model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)
    theirs = peft.PeftModel.from_pretrained(their_base(files, torch.float32), files / "peft")
    assert torch.allclose(our_logits(files), logits(theirs), rtol=0, atol=1e-5)


def test_every_setting_of_peft_has_been_thought_of():
    """Fails when a release of PEFT adds one: until it is in a table here, it is refused unless it is off."""
    common = {*peft_settings.NO_MATTER, *peft_settings.ONLY}
    known = {*peft_settings.READ, *peft_settings.NO_MATTER_TO_LORA, *common}
    assert {field.name for field in dataclasses.fields(peft.LoraConfig)} <= known
    for kind, (read, no_matter) in peft_settings.OTHERS.items():
        config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[kind]
        new = {field.name for field in dataclasses.fields(config)} - {"peft_type", *read, *no_matter, *common}
        assert new <= {"n_frequency_pattern"}  # refused unless it is off


@pytest.mark.parametrize("init", ["pissa_niter_4"])
def test_a_start_that_changes_the_base_is_refused_until_it_is_converted(files, init):
    """Its A and B are differences from W - scale · B₀ A₀. The conversion that the sentence names makes them ones from W."""
    model = their_adapter(files, torch.float32, init_lora_weights=init)
    torch.manual_seed(0)
    start = peft.get_peft_model(
        their_base(files, torch.float32),
        peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=12, target_modules=["c_attn"], init_lora_weights=init),
    )
    start.peft_config["default"].init_lora_weights = True
    start.save_pretrained(files / "start")
    with pytest.raises(UserError, match=f"init_lora_weights '{init}'.*path_initial_model_for_weight_conversion"):
        checkpoints.read(files / "peft")
    model.save_pretrained(files / "peft", path_initial_model_for_weight_conversion=str(files / "start"))
    assert torch.allclose(our_logits(files), logits(model), **FLOAT32_START)


@pytest.mark.parametrize(
    "given",
    [dict(lora_bias=True), dict(bias="all"), dict(bias="lora_only"), dict(modules_to_save=["ln_f"]),
     dict(alora_invocation_tokens=[3, 4]), dict(trainable_token_indices=[1])],
    ids=str,
)  # fmt: skip
def test_what_peft_saves_with_more_than_lora_is_refused_by_name(files, given):
    their_adapter(files, **given)
    with pytest.raises(UserError, match=f"sets {next(iter(given))}"):
        checkpoints.read(files / "peft")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *(({"init_lora_weights": init}, f"init_lora_weights '{init}'")
          for init in ("olora", "corda", "loftq", "lora_ga", "PiSSA", "of_next_year")),
        ({"init_lora_weights": {"a": 1}}, "init_lora_weights"),
        ({"use_qalora": True}, "sets use_qalora"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "sets layer_replication"),
        ({"target_parameters": ["mlp.weight"]}, "sets target_parameters"),
        ({"megatron_config": {}}, "sets megatron_config"),
        ({"arrow_config": {}, "kasa_config": {}}, "sets arrow_config, kasa_config"),
        ({"monteclora_config": {"rank": 1}, "use_bdlora": {}, "velora_config": {}}, "monteclora_config, use_bdlora, velora_config"),
        ({"of_next_year": True}, "sets of_next_year"),
        ({"of_next_year": 0.5}, "sets of_next_year"),
        ({"of_next_year": 0}, "sets of_next_year"),
        ({"of_next_year": "on"}, "sets of_next_year"),
        *(({"r": r}, "r of adapter_config.json must be a whole number of at least 1") for r in (0, -4, True, 4.0, "4", [4])),
        ({"r": 8}, r"lora_A of transformer\.h\.0\.attn\.c_attn is \(4, 32\), not of rank 8"),
        ({"rank_pattern": {"c_attn": 8}}, "not of rank 8"),
        ({"rank_pattern": {"c_attn": 4.0}}, "rank_pattern of .* must be whole numbers"),
        ({"rank_pattern": ["c_attn"]}, "rank_pattern of .* cannot be understood"),
        *(({"lora_alpha": alpha}, "lora_alpha of .* must be a finite number greater than 0")
          for alpha in (0, -1, True, "12", float("nan"), float("inf"), 10**400)),
        ({"alpha_pattern": {"c_attn": float("nan")}}, "alpha_pattern of .* must be finite numbers"),
        ({"use_rslora": "yes"}, "use_rslora of .* must be true or false"),
        ({"lora_dropout": 1}, "lora_dropout of .* must be at least 0 and less than 1"),
        ({"lora_dropout": "0.1"}, "lora_dropout of .* must be"),
        ({"target_modules": ["c_fc"]}, r"adapts transformer\.h\.0\.attn\.c_attn, which its adapter_config.json leaves out"),
        ({"target_modules": ["c_attn", "c_fc"]}, r"holds no adapters of transformer\.h\.0\.mlp\.c_fc, which .* names"),
        ({"target_modules": "(c_attn"}, "patterns of adapter_config.json cannot be understood"),
        ({"target_modules": ENDLESS}, "patterns of adapter_config.json cannot be understood: regex timed out"),
        ({"exclude_modules": ENDLESS}, "patterns of adapter_config.json cannot be understood: regex timed out"),
        ({"rank_pattern": {ENDLESS: 4}}, "rank_pattern of adapter_config.json cannot be understood: regex timed out"),
        ({"alpha_pattern": {ENDLESS: 4}}, "alpha_pattern of adapter_config.json cannot be understood: regex timed out"),
        ({"layers_to_transform": [0], "layers_pattern": ENDLESS}, "patterns of .* cannot be understood: regex timed out"),
        ({"target_modules": [1]}, "target_modules of .* must be a pattern or a list of names"),
        ({"layers_to_transform": [1]}, r"adapts transformer\.h\.0\.attn\.c_attn, which .* leaves out"),
        ({"layers_to_transform": "1"}, "layers_to_transform of .* must be numbers of layers"),
        ({"exclude_modules": ["h.1.attn.c_attn"]}, r"adapts transformer\.h\.1\.attn\.c_attn, which .* leaves out"),
        ({"peft_type": "ADALORA"}, "does not describe a LoRA adapter"),
    ],
    ids=str,
)  # fmt: skip
def test_other_settings_are_refused_by_name(files, change, words):
    their_adapter(files)
    change_settings(files, **change)
    with pytest.raises(UserError, match=words):
        checkpoints.read(files / "peft")


def test_unknown_settings_that_are_off_are_taken(files):
    """So that the adapters of later releases are read as long as they do nothing new."""
    theirs = logits(their_adapter(files))
    change_settings(files, a=None, b=False, c=[], d={}, e="")
    assert torch.allclose(our_logits(files), theirs, **FLOAT64)


def test_tensors_of_peft_without_their_settings_are_refused(files):
    their_adapter(files)
    (files / "peft/adapter_config.json").rename(files / "elsewhere.json")
    with pytest.raises(UserError, match=r"holds PEFT's adapters without adapter_config\.json beside it"):
        checkpoints.read(files / "peft")


def test_a_file_of_peft_may_have_another_name(files):
    """Fails when its settings are not looked for."""
    theirs = logits(their_adapter(files))
    (files / "peft/adapter_model.safetensors").rename(files / "peft/mine.safetensors")
    adapters = checkpoints.read(files / "peft/mine.safetensors")
    assert adapters.adapter_config().alpha == 12
    (files / "peft/mine.safetensors").rename(files / "peft/adapter_model.safetensors")
    assert torch.allclose(our_logits(files), theirs, **FLOAT64)
