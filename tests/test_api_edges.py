"""What Python lets through and the package refuses: settings, arguments and models that nothing could be trained or generated with."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import tiktoken
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import lora_nlg
import toy
from lora_nlg import api, dist, methods
from lora_nlg.config import BeamConfig, FactorConfig, OptimConfig, TrainConfig
from lora_nlg.errors import Stopped, UserError
from lora_nlg.methods.bottleneck import AdapterConfig
from lora_nlg.methods.fourier import FourierConfig
from lora_nlg.methods.ia3 import IA3Config
from lora_nlg.methods.pairs import PairConfig
from lora_nlg.methods.placement import DoraConfig, LoraConfig
from lora_nlg.methods.prefix import PrefixConfig
from lora_nlg.methods.subsets import BiasConfig, TopConfig
from lora_nlg.methods.vera import VeraConfig
from lora_nlg.model import gpt2
from lora_nlg.storage import checkpoints, models

LORA = LoraConfig(2, 8)
OPTIM = OptimConfig(1e-3, 2)
DIVERGES = OptimConfig(1e30, 4)
SETTINGS = TrainConfig(2, 2, seq_len=64, log_interval=1, eval_interval=100, save_interval=100)
PAIRS = [("a", "b")] * 4
BYTES = tiktoken.Encoding("bytes", pat_str=".", mergeable_ranks={bytes([n]): n for n in range(256)}, special_tokens={})
CYCLE = partial(OptimConfig, 1e-3, 10, scheduler="cycle", i_steps=(0, 5), i_lrs=(0.1, 0.2))
RULES = BeamConfig(2, 4, eos_token_ids=(1,))


def a_model(dtype: torch.dtype = torch.float32) -> api.Model:
    """Return the toy, whose pairs are always those of the formula."""
    model = api.Model(toy.model(0).to(dtype), None, dist.start("cpu", 0, 1, 0), "fp32", "toy")
    object.__setattr__(model, "_encoded", lambda pairs: toy.examples(len(pairs)))
    return model


def train(model: api.Model, work_dir, lora=LORA, optim=OPTIM, settings=SETTINGS) -> float:
    return model.train(PAIRS, PAIRS[:2], work_dir, lora, optim, settings)


# Precision


@pytest.mark.parametrize(
    ("dtype", "precision", "computes"),
    [
        (torch.float32, "fp64", "fp32"), (torch.float64, "fp32", "fp64"), (torch.float64, "bf16", "fp64"),
        (torch.float64, "fp16", "fp64"),
    ],
)  # fmt: skip
def test_a_precision_that_the_model_does_not_compute_in_is_refused(dtype, precision, computes, tmp_path):
    model = a_model(dtype)
    says = f"precision {precision} would have no effect: the model computes in {computes}"
    with pytest.raises(UserError, match=says):
        train(model, tmp_path / "work", settings=replace(SETTINGS, precision=precision))
    assert model.network.trained_by is None and not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("dtype", "precision"), [(torch.float32, "fp32"), (torch.float32, "bf16"), (torch.float64, "fp64")]
)
def test_a_precision_that_the_model_computes_in_is_trained_in(dtype, precision, tmp_path):
    train(model := a_model(dtype), tmp_path, settings=replace(SETTINGS, precision=precision))
    assert model.network.trained_by == LORA


# Configurations


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LoraConfig(2, 8, targets=("v", "q")), r"--lora_targets must be .* in this order, but is \('v', 'q'\)"),
        (lambda: LoraConfig(2, 8, targets=["q", "v"]), r"--lora_targets must be a tuple"),
        (lambda: LoraConfig(2, 8, targets=("q", "z")), r"--lora_targets must be .*but is \('q', 'z'\)"),
        (lambda: LoraConfig(2, 8, targets=()), r"--lora_targets must be .*but is \(\)"),
        (lambda: LoraConfig(2, 8, targets=None), "targets must be a tuple, but is None"),
        (lambda: LoraConfig(2, "32"), "alpha must be a number, but is '32'"),
        (lambda: LoraConfig(2.0, 4), "rank must be a whole number .* but is 2.0"),
        (lambda: LoraConfig(True, 4), "rank must be a whole number .* but is True"),
        (lambda: LoraConfig({"q": 2.5, "v": 2}, 4), "--lora_dim must be whole numbers, but is q=2.5,v=2"),
        (lambda: LoraConfig(2, 4, init=None), "init must be a string, but is None"),
        (lambda: LoraConfig(2, 4, dropout="0"), "dropout must be a number, but is '0'"),
        (lambda: LoraConfig(2, 1e39), r"--lora_alpha must be no more than 3.40282e\+38, but is 1e\+39"),
        (lambda: DoraConfig(2, 1e300), "--lora_alpha must be no more than"),
        (lambda: FourierConfig(3, scale=1e39), r"--fourier_scale must be no more than 3.40282e\+38, but is 1e\+39"),
        (lambda: FourierConfig(3, scale=1e300), "--fourier_scale must be no more than"),
        (lambda: FourierConfig(3, scale="x"), "scale must be a number, but is 'x'"),
        (lambda: FourierConfig(0), "FourierConfig's n must be a whole number of at least 1, but is 0"),
        (lambda: FourierConfig(3, seed=None), r"seed must be a whole number \(int\), but is None"),
        (lambda: FourierConfig(3, seed=-1), "seed must be from 0 to .* but is -1"),
        (lambda: VeraConfig(0), "VeraConfig's dim must be a whole number of at least 1, but is 0"),
        (lambda: VeraConfig(-1), "dim must be a whole number of at least 1, but is -1"),
        (lambda: VeraConfig(2, targets=("zz",)), r"targets must be some of q, k, .* but is \('zz',\)"),
        (lambda: VeraConfig(2, targets=()), r"targets must be some of q, k, .* but is \(\)"),
        (lambda: VeraConfig(2, seed=2**63), "seed must be from 0 to"),
        (lambda: PrefixConfig("prefix_kv", 0), "prefix_length must be a whole number of at least 1, but is 0"),
        (lambda: PrefixConfig("prefix", 3), "method must be prefix_embed or prefix_layer or prefix_kv, but is 'prefix'"),
        (lambda: AdapterConfig("prefix_kv", 3), "method must be adapter_h or adapter_l, but is 'prefix_kv'"),
        (lambda: AdapterConfig("adapter_h", 0), "adapter_dim must be a whole number of at least 1, but is 0"),
        (lambda: BiasConfig("top2"), "method must be bias, but is 'top2'"),
        (lambda: TopConfig(0), "n_blocks must be a whole number of at least 1, but is 0"),
        (lambda: IA3Config(1), "joined must be True or False, but is 1"),
        (lambda: PairConfig(DoraConfig(2, 4.0), PrefixConfig("prefix_kv", 3)), "lora must be a LoraConfig, but is Dora"),
        (lambda: PairConfig(LORA, AdapterConfig("adapter_h", 3)), "prefix must be a PrefixConfig, but is AdapterConf"),
        (lambda: BeamConfig(eos_token_ids=5), "eos_token_ids must be a tuple, but is 5"),
        (lambda: BeamConfig(2.5, 4), "BeamConfig's beam must be a whole number .* but is 2.5"),
        (lambda: BeamConfig(2, 4.5), "eval_len must be a whole number .* but is 4.5"),
        (lambda: OptimConfig(1e-3, 2.5), "OptimConfig's max_step must be a whole number .* but is 2.5"),
        (lambda: replace(SETTINGS, train_batch_size=2.5), "train_batch_size must be a whole number .* but is 2.5"),
        (lambda: replace(SETTINGS, random_seed=1.5), "random_seed must be a whole number .* but is 1.5"),
        (lambda: BeamConfig("3"), r"beam must be a whole number \(int\), but is '3'"),
        (lambda: OptimConfig("1e-3", 5), "lr must be a number, but is '1e-3'"),
        (lambda: OptimConfig(1e-3, 5, scheduler=None), "scheduler must be a string, but is None"),
        (lambda: CYCLE(i_steps=("0", "5")), r"--i_steps must be two or more rising steps from 0, but is \('0', '5'\)"),
        (lambda: CYCLE(i_steps=(), i_lrs=()), "--i_steps must be two or more rising steps"),
        (lambda: CYCLE(i_lrs=("1", 2)), "--i_lrs must be rates of 0 or more"),
        (lambda: TrainConfig("8"), "train_batch_size must be a whole number"),
        (lambda: TrainConfig(seq_len=5.0), "seq_len must be a whole number .* but is 5.0"),
        (lambda: FactorConfig("2"), "lora_plus_ratio must be a number, but is '2'"),
    ],
)  # fmt: skip
def test_a_configuration_that_nothing_could_be_trained_with_is_not_made(make, says):
    with pytest.raises(UserError, match=says):
        make()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (LoraConfig(2, 4, layers=(0, 7)), r"layers must be some of the model's, from 0 to 1, but is \(0, 7\)"),
        (LoraConfig(2, 4, layers=(7,)), "layers must be some"), (LoraConfig(2, 4, layers=(-1,)), "layers must be some"),
        (LoraConfig(2, 4, layers=()), "layers must be some"), (LoraConfig(2, 4, layers=("0",)), "layers must be some"),
        (LoraConfig(2, 4, layers=(), targets=("q", "wte")), "layers must be some"),
        (PairConfig(LoraConfig(2, 4, layers=(7,)), PrefixConfig("prefix_kv", 3)), "layers must be some"),
        (VeraConfig(2, layers=(0, 7)), "layers must be some"), (FourierConfig(2, layers=(2,)), "layers must be some"),
        (LoraConfig(10**6, 4), "rank must be at most 65,536, but is 1,000,000"),
        (VeraConfig(10**12), "dim must be at most 65,536, but is"),
        (PrefixConfig("prefix_layer", 10**4), "the prefix takes 10000 of the model's 1024 positions"),
        (PairConfig(LORA, PrefixConfig("prefix_kv", 1023)), "the prefix takes 1023 of the model's 1024"),
        (None, r"must be the configuration of a method, such as LoraConfig\(4, 32\), but is None"),
        ("lora", "must be the configuration of a method"), (LoraConfig, "must be the configuration of a method"),
        (OPTIM, "must be the configuration of a method"),
    ],
)  # fmt: skip
def test_a_configuration_that_does_not_fit_the_model_changes_nothing(config, says, tmp_path):
    model = a_model()
    for put_on in (
        lambda: train(model, tmp_path / "work", config),
        lambda: methods.add_adapters(model.network, config),
    ):
        with pytest.raises(UserError, match=says):
            put_on()
        assert model.network.trained_by is None and not (tmp_path / "work").exists()


def test_vera_without_a_seed_is_not_trained_on_whatever_is_in_memory(tmp_path):
    with pytest.raises(UserError, match="the seed must be a whole number, but is None"):
        train(a_model(), tmp_path, VeraConfig(4, seed=None))


# A training that fails


@pytest.mark.parametrize(
    "config",
    [LORA, DoraConfig(2, 8), TopConfig(1), LoraConfig(0), PrefixConfig("prefix_kv", 3)],
    ids=lambda c: c.method,
)
def test_after_a_training_that_fails_the_model_is_as_before(config, tmp_path):
    """Fails when what is no number stays on the model, is saved, or becomes a part of the next training's base."""
    model = a_model()
    before = {name: parameter.detach().clone() for name, parameter in model.network.named_parameters()}
    with pytest.raises(UserError, match=r"no numbers|is nan"):
        train(model, tmp_path / "one", config, DIVERGES)
    after = dict(model.network.named_parameters())
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    with pytest.raises(UserError, match="no adapters were trained"):
        model.save(tmp_path / "bad.safetensors")
    loss = train(model, tmp_path / "two", config)
    assert loss == train(a_model(), tmp_path / "three", config)


def test_a_training_that_fails_makes_no_other_base_of_a_published_one(tmp_path):
    model = replace(a_model(), card="openai-community/gpt2", published="openai-community/gpt2")
    object.__setattr__(model, "_encoded", lambda pairs: toy.examples(len(pairs)))
    with pytest.raises(UserError):
        train(model, tmp_path / "one", LORA, DIVERGES)
    train(model, tmp_path / "two")
    model.save(tmp_path / "adapter.safetensors")
    assert checkpoints.read(tmp_path / "adapter.safetensors").base.published_as == "openai-community/gpt2"


def test_what_was_trained_until_it_was_stopped_stays(tmp_path, monkeypatch):
    """It is saved in the work dir, too. Fails when Ctrl-C in a notebook takes the adapters off."""

    def stopped(*_):
        raise Stopped(2, "saved")

    model = a_model()
    monkeypatch.setattr(api, "train", stopped)
    with pytest.raises(Stopped):
        train(model, tmp_path / "work")
    model.save(tmp_path / "adapter.safetensors")


@pytest.mark.parametrize("pairs", [np.array([["a", "b"]] * 4), [["a", "b"]] * 4], ids=["array", "lists"])
def test_rows_of_two_texts_are_pairs(pairs):
    assert api.texts_of(pairs, "pairs") == PAIRS


def test_values_that_are_no_numbers_are_not_saved(tmp_path):
    train(model := a_model(), tmp_path / "work")
    with torch.no_grad():
        model.network.h[1].attn.c_attn.lora_B[3, 1] = float("inf")
    with pytest.raises(
        UserError, match=r"nothing is written to .*bad\.safetensors: the adapters hold values that are no num"
    ):
        model.save(tmp_path / "bad.safetensors")
    assert not (tmp_path / "bad.safetensors").exists()


def test_full_fine_tuning_takes_no_gradients_of_an_earlier_training(tmp_path):
    """Three micro-batches in updates of two leave one's gradients behind."""
    model, other = a_model(), a_model()
    train(model, tmp_path / "one", LoraConfig(0), OptimConfig(1e-3, 3, grad_acc=2))
    other.network.load_state_dict(model.network.state_dict())
    again = [train(each, tmp_path / str(i), LoraConfig(0)) for i, each in enumerate((model, other))]
    assert again[0] == again[1]


# Files


def test_vera_of_python_says_how_large_its_a_and_b_are(tmp_path):
    """Fails when the sizes stay 0, with which it could not be exported for PEFT."""
    train(model := a_model(), tmp_path / "work", VeraConfig(4, targets=("q", "proj")))
    model.save(tmp_path / "vera.safetensors")
    for file in (tmp_path / "vera.safetensors", tmp_path / "work/model.final.pt"):
        read = checkpoints.read(file)
        C = toy.CONFIG.n_embd
        assert (read.config.n_in, read.config.n_out) == (4 * C, 3 * C)
        checkpoints.save_peft(read.adapters(), tmp_path / "peft", read.config, None)


@pytest.mark.parametrize(
    ("config", "change"),
    [
        (FourierConfig(3), {"seed": None}), (FourierConfig(3), {"scale": 1e39}), (FourierConfig(3), {"scale": 10**400}),
        (FourierConfig(3), {"n": 0}), (PrefixConfig("prefix_kv", 3), {"method": "prefix_layer"}),
        (IA3Config(), {"joined": None}),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_file_that_says_what_cannot_be_is_refused(config, change, tmp_path):
    path = written(config, change, tmp_path)
    with pytest.raises(UserError, match="says of its adapters what cannot be understood"):
        checkpoints.read(path)


def test_vera_of_a_file_may_have_no_seed(tmp_path):
    assert checkpoints.read(written(VeraConfig(3), {"seed": None}, tmp_path)).config.seed is None


def written(config, change: dict, folder):
    """Return a file of the method, whose settings are changed."""
    methods.add_adapters(model := toy.model(0), config, torch.Generator().manual_seed(1))
    path = folder / "adapter.safetensors"
    checkpoints.save_adapters(methods.adapter_tensors(model), path, model.trained_by)
    with safe_open(path, "pt") as file:
        said = file.metadata()
    said["settings"] = json.dumps({**json.loads(said["settings"]), **change})
    save_file(load_file(path), path, said)
    return path


@pytest.mark.parametrize("size", [50304, 100])
def test_a_base_without_gpt2s_vocabulary_takes_no_texts(size, tmp_path):
    """Its outputs would be no texts, or its inputs no tokens of it."""
    network = gpt2.empty_model(replace(toy.CONFIG, vocab_size=size))
    model = api.Model(network, None, dist.start("cpu", 0, 1, 0), "fp32", "toy")
    says = f"the model has {size} tokens, not GPT-2's 50257; take a model with GPT-2's vocabulary"
    with pytest.raises(UserError, match=says):
        model.generate("a", rules=RULES)
    if size == 100:  # a padded one may be trained
        with pytest.raises(UserError, match=says):
            train(model, tmp_path / "work")
    assert not (tmp_path / "work").exists()


# Arguments


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"base": None}, "base must be a string or a path, but is None"), ({"base": 5}, "base must be"),
        ({"adapters": 5}, "adapters must be a string or a path or None, but is 5"), ({"vocab": None}, "vocab must be"),
        ({"card": 5}, "card must be"), ({"device": 0}, "device must be a string, but is 0"),
    ],
)  # fmt: skip
def test_load_refuses_what_is_no_path(arguments, says):
    with pytest.raises(UserError, match=says):
        lora_nlg.load(**{"base": "nowhere", "device": "cpu", **arguments})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"text": 5}, "text must be a string, but is 5"), ({"text": None}, "text must be a string, but is None"),
        ({"n": 2.5}, r"n must be a whole number \(int\), but is 2.5"), ({"n": True}, "n must be .* but is True"),
        ({"rules": None}, "rules must be a BeamConfig, but is None"),
        ({"rules": BeamConfig(2, 4, eos_token_ids=("a",))}, r"--eos_token_id must be .* but is \('a',\)"),
        ({"text": "name : \ud800"}, r"the input: the text holds one half of a surrogate pair such as \\ud83d; expected"),
    ],
)  # fmt: skip
def test_generate_refuses_what_it_cannot_follow(arguments, says):
    with pytest.raises(UserError, match=says):
        a_model().generate(**{"text": "a", "rules": RULES, **arguments})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"pairs": None}, r"pairs must be \(input, reference\) pairs, but is None"),
        ({"pairs": [("a", "b"), ("a", "b", "c")]}, r"pair 2 of pairs must be two texts, .* but is \('a', 'b', 'c'\)"),
        ({"pairs": ["ab", "cd"]}, "pair 1 of pairs must be two texts, an input and its reference, but is 'ab'"),
        ({"valid_pairs": [("a", None)]}, r"pair 1 of valid_pairs must be two texts, .* but is \('a', None\)"),
        ({"pairs": [("a", "b\udfff")]}, "pair 1 of pairs: the text holds one half of a surrogate pair"),
        ({"work_dir": None}, "work_dir must be a string or a path, but is None"),
        ({"optim": None}, "optim must be a OptimConfig, but is None"), ({"settings": {}}, "settings must be a TrainConfig"),
    ],
)  # fmt: skip
def test_train_refuses_what_it_cannot_follow(arguments, says, tmp_path):
    model, work_dir = a_model(), tmp_path / "work"
    given = {"pairs": PAIRS, "valid_pairs": PAIRS, "work_dir": work_dir, "optim": OPTIM, "settings": SETTINGS}
    with pytest.raises(UserError, match=says):
        model.train(**{**given, **arguments})
    assert model.network.trained_by is None and not work_dir.exists()


def test_pairs_may_be_lists_and_come_one_after_the_other(tmp_path):
    model = a_model()
    one = model.train((list(pair) for pair in PAIRS), iter(PAIRS[:2]), tmp_path / "one", LORA, OPTIM, SETTINGS)
    assert one == train(a_model(), tmp_path / "two")


def test_save_refuses_what_is_no_path():
    with pytest.raises(UserError, match="path must be a string or a path, but is None"):
        a_model().save(None)


def test_a_refusal_leaves_the_weights_as_they_were(tmp_path):
    """From within the start, where something is on the model already."""
    model, plain = a_model(), models.fingerprint(toy.model(0).float())
    with pytest.raises(UserError, match="fewer than the rank 99"):
        train(model, tmp_path, LoraConfig(99, 8, init="pissa"))
    assert models.fingerprint(model.network) == plain and model.network.trained_by is None


def test_a_base_that_was_trained_once_more_is_not_the_published_one(tmp_path):
    """PEFT's form of the second adapters would send people to OpenAI's weights, where they are of no use."""
    model = replace(a_model(), card="openai-community/gpt2", published="openai-community/gpt2")
    object.__setattr__(model, "_encoded", lambda pairs: toy.examples(len(pairs)))
    names = []
    for number in (1, 2):
        train(model, tmp_path / f"work{number}")
        model.save(tmp_path / "adapter.safetensors")
        names.append(checkpoints.read(tmp_path / "adapter.safetensors").base.published_as)
    assert names == ["openai-community/gpt2", None]


def test_a_padded_vocabulary_is_trained(tmp_path):
    """As by gpt2_ft.py: every text has tokens of it."""
    model = api.Model(gpt2.empty_model(replace(toy.CONFIG, vocab_size=50304)), BYTES, None, "fp32", "toy")
    assert len(model._encoded([("a", "b")])) == 1
