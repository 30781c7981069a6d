"""Methods beside LoRA, held against the real PEFT in float64: what they compute, their gradients, and the files of both."""

import functools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import gpt2_export
import runs
import toy
from lora_nlg import methods
from lora_nlg.errors import UserError
from lora_nlg.storage import checkpoints, models
from test_methods import trained

pytestmark = pytest.mark.slow  # PEFT's own models

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

IDS = torch.arange(1, 33).view(2, 16)
ORACLE = 1e-9
IN_FLOAT32 = {
    "fourier": 1e-5,
    "pissa": 1e-3,
}  # PEFT computes the FFT, and takes W apart, in float32 whatever the model's dtype is
MODULES = ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"]
LORA = dict(r=2, lora_alpha=6, target_modules=MODULES, fan_in_fan_out=True)
THEIRS = {
    "lora": lambda: peft.LoraConfig(**LORA),
    "dora": lambda: peft.LoraConfig(**LORA, use_dora=True),
    "pissa": lambda: peft.LoraConfig(**LORA, init_lora_weights="pissa"),
    "vera": lambda: peft.VeraConfig(r=3, target_modules=MODULES),
    "vera without projections": lambda: peft.VeraConfig(r=3, target_modules=MODULES, save_projection=False),
    "fourier": lambda: peft.FourierFTConfig(n_frequency=40, target_modules=MODULES, scaling=20.0),
    "ia3": lambda: peft.IA3Config(
        target_modules=["attn.c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True
    ),
    "prefix_kv": lambda: peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "prefix_embed": lambda: peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The toy's base as transformers has it."""
    folder = tmp_path_factory.mktemp("hub")
    checkpoints.save_hugging_face(toy.model(0), folder)
    return folder


def their_base(hub):
    return transformers.GPT2LMHeadModel.from_pretrained(hub, dtype=torch.float32).double().eval()


def logits(model) -> torch.Tensor:
    return model.logits(model.eval()(IDS))


def their_logits(model) -> torch.Tensor:
    return model(input_ids=IDS).logits[:, -IDS.shape[1] :]


def base_as_float32() -> models.GPT2:
    """The toy whose weights are float32 numbers, as PiSSA of PEFT wants them."""
    return toy.model(0).float().double()


def move(parameters) -> None:
    """Move parameters from their start."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator).to(parameter))


@pytest.fixture(scope="module")
def theirs(hub, tmp_path_factory):
    """A function: a PEFT model of a method, moved from its start, with a gradient, and the folder that it saved."""

    @functools.cache
    def made(name: str):
        model, folder = their_base(hub), tmp_path_factory.mktemp("theirs")
        if name == "pissa":
            model = model.float()  # it starts from float32 only
        torch.manual_seed(0)
        wrapped = peft.get_peft_model(model, THEIRS[name]()).double().eval()
        move(p for p in wrapped.parameters() if p.requires_grad)
        their_logits(wrapped).square().sum().backward()
        wrapped.save_pretrained(folder)
        return wrapped, folder

    return made


@pytest.mark.parametrize("name", THEIRS)
def test_theirs_is_read(name, theirs):
    """Logits equal, and gradients: those of the tensors that PEFT shares among q, k and v are the sums of ours."""
    wrapped, folder = theirs(name)
    adapters, model = checkpoints.read(folder), base_as_float32()
    assert models.put_adapters(model, adapters).method == name.split()[0]
    ours, tolerance = logits(model), IN_FLOAT32.get(name, ORACLE)
    assert (ours - their_logits(wrapped)).abs().max() < tolerance
    assert (ours - logits(base_as_float32())).abs().max() > 0.01
    ours.square().sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    expected = {n: p.grad for n, p in wrapped.named_parameters() if p.grad is not None}
    assert gradients and len(expected) == sum(p.requires_grad for p in wrapped.parameters())
    for gradient_name, gradient in gradients.items():
        their_own = expected[their_name(gradient_name, expected)]
        if gradient_name.endswith("c_attn.lora_A"):
            gradient = gradient.view(3, -1, gradient.shape[1]).sum(0)
        elif gradient_name.endswith("vera_d"):
            gradient = gradient.sum(0)
        elif gradient_name == "prefix.kv":
            gradient = gradient.permute(2, 0, 1, 3)
        assert (gradient.reshape(their_own.shape) - their_own).abs().max() < tolerance * their_own.abs().max().clamp(
            min=1
        )


def their_name(ours: str, names) -> str:
    if ours.startswith("prefix"):
        return next(name for name in names if "prompt_encoder" in name)
    module, _, kind = ours.rpartition(".")
    their_kind = {
        "lora_m": "lora_magnitude_vector",
        "vera_d": "vera_lambda_d",
        "vera_b": "vera_lambda_b",
        "fourier_c": "fourierft",
        "ia3_factors": "ia3_l",
    }
    [found] = [name for name in names if f".{module}." in name and their_kind.get(kind, kind) in name]
    return found


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("lora", ""),
        ("lora", "--lora_init pissa"),
        ("lora", "--lora_init pissa --lora_targets k,o,fc --lora_layers 1"),
        ("dora", ""),
        ("dora", "--lora_targets v,fc,proj --lora_layers 0"),
        ("dora", "--lora_targets q,k,v"),
        ("vera", "--vera_dim 3"),
        ("vera", "--vera_dim 3 --lora_targets q,o,fc"),
        ("vera", "--vera_dim 3 --lora_targets proj --lora_layers 1"),
        ("vera", "--vera_dim 3 --lora_targets fc"),
        ("fourier", "--fourier_n 50 --lora_targets o,fc"),
        ("ia3", ""),
        ("prefix_kv", "--prefix_length 4"),
        ("prefix_embed", "--prefix_length 4"),
    ],
)  # fmt: skip
def test_ours_is_read_by_peft_and_comes_back(name, more, hub, tmp_path):
    model = trained(name, more)
    model_files(tmp_path, model)
    needs_base = name == "dora" and "q,k,v" not in more and "o" not in more.split()
    base = f"--init_checkpoint {tmp_path}/base.safetensors" if needs_base else ""
    flags = f"--to peft --output {tmp_path}/peft --lora_checkpoint {tmp_path}/adapter.safetensors {base}"
    assert gpt2_export.main(flags.split()) == 0
    with torch.no_grad():
        expected = logits(model)
        wrapped = peft.PeftModel.from_pretrained(their_base(hub), tmp_path / "peft").double().eval()
        base_in_float32 = 1e-5  # the base of `hub` is stored as float32
        assert (their_logits(wrapped) - expected).abs().max() < base_in_float32
        back = toy.model(0)
        models.put_adapters(back, checkpoints.read(tmp_path / "peft"))
        assert (logits(back) - expected).abs().max() < ORACLE
        assert (logits(toy.model(0)) - expected).abs().max() > 0.01


def model_files(folder, model) -> None:
    runs.write_model(folder)
    base = checkpoints.Base("gpt2.toy", models.fingerprint(toy.model(0)))
    checkpoints.save_adapters(methods.adapter_tensors(model), folder / "adapter.safetensors", model.trained_by, base)


@pytest.mark.parametrize(
    "name", ["bias", "top2", "prefix_layer", "adapter_h", "adapter_l", "lora+prefix_kv", "fourier", "dora"]
)
def test_what_peft_cannot_have_is_one_sentence(name, tmp_path):
    model_files(tmp_path, trained(name))
    flags = f"--to peft --output {tmp_path}/peft --lora_checkpoint {tmp_path}/adapter.safetensors"
    with pytest.raises(UserError) as error:
        gpt2_export.main(flags.split())
    assert "--init_checkpoint" in str(error.value) if name == "dora" else "--to peft cannot express" in str(error.value)
    assert not (tmp_path / "peft").exists()


DAMAGED = [
    ("vera", lambda t, c: t.pop(next(n for n in t if "lambda_d" in n)), "holds not all of vera_lambda_d"),
    ("vera", lambda t, c: c.update(r=4), "not"),
    ("vera", lambda t, c: c.update(bias="all"), "sets bias"),
    ("vera", lambda t, c: c.update(velvet=True), "sets velvet"),
    ("vera", lambda t, c: c.update(projection_prng_key=-1), "projection_prng_key"),
    ("vera", lambda t, c: t.pop("base_model.vera_A"), "one of vera_A and vera_B alone"),
    ("fourier", lambda t, c: c.update(n_frequency=39), "fourierft_spectrum of h.0"),
    ("fourier", lambda t, c: c.update(scaling=0), "scaling"),
    ("fourier", lambda t, c: c.update(n_frequency_pattern={"c_fc": 3}), "sets n_frequency_pattern"),
    ("fourier", lambda t, c: c.update(target_modules=["c_attn"]), "its adapter_config.json leaves out"),
    ("ia3", lambda t, c: c.update(feedforward_modules=["attn.c_attn"]), "feedforward_modules"),
    ("ia3", lambda t, c: c.update(target_modules=["attn.c_attn"]), "its adapter_config.json leaves out"),
    ("ia3", lambda t, c: [t.pop(n) for n in list(t) if "c_attn" in n] and c.update(target_modules=["mlp.c_proj"]), "must scale"),
    ("prefix_kv", lambda t, c: c.update(num_layers=3), "prompt_embeddings is"),
    ("prefix_kv", lambda t, c: c.update(num_transformer_submodules=2), "num_transformer_submodules"),
    ("prefix_kv", lambda t, c: t.update(more=torch.ones(2)), "expected prompt_embeddings alone"),
    ("prefix_embed", lambda t, c: c.update(num_virtual_tokens=2), "prompt_embeddings is"),
    ("prefix_embed", lambda t, c: c.update(peft_type="P_TUNING"), "peft_type"),
    ("dora", lambda t, c: c.update(use_dora=False), "use_dora"),
    ("dora", lambda t, c: t.pop(next(n for n in t if "magnitude" in n)), "holds no lora_magnitude_vector of"),
    ("pissa", lambda t, c: c.update(init_lora_weights="pissa_niter_4"), "init_lora_weights"),
    ("pissa", lambda t, c: c.update(use_dora=True), "use_dora"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGED)
def test_what_the_files_of_peft_contradict_is_one_sentence(name, damage, message, theirs, tmp_path):
    _, folder = theirs(name)
    tensors, config = (
        load_file(folder / "adapter_model.safetensors"),
        json.loads((folder / "adapter_config.json").read_text()),
    )
    damage(tensors, config)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        checkpoints.read(tmp_path)
    assert message in str(error.value)
