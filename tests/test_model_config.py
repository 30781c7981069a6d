"""What a config.json says of a GPT-2: computed as transformers computes it, or refused by name."""

import json

import pytest
import torch
from safetensors.torch import save_file

import gpt2_beam
import runs
import toy
from lora_nlg import config
from lora_nlg.errors import UserError
from lora_nlg.methods import placement
from lora_nlg.model.attention import RowAttention
from lora_nlg.model.gpt2 import empty_model
from lora_nlg.storage import checkpoints, interchange, models

IDS = torch.arange(48).view(3, 16)
FLOAT64 = dict(rtol=1e-10, atol=1e-10)  # the same sums in another order
SIZES = vars(toy.CONFIG)
CHANGES = [  # of the toy's logits
    {"layer_norm_epsilon": 0.1},
    {"n_inner": 48},
    {"activation_function": "gelu"},
    {"activation_function": "gelu_python"},
    {"activation_function": "relu"},
    {"activation_function": "silu"},
    {"activation_function": "swish"},
    {"activation_function": "tanh"},
    {"scale_attn_weights": False},
    {"scale_attn_by_inverse_layer_idx": True},
    {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True, "n_inner": 7, "activation_function": "relu"},
]
NO_CHANGES = [  # that leave the function as it is, but for rounding
    {},
    {"activation_function": "gelu_pytorch_tanh", "layer_norm_epsilon": 1e-05, "n_inner": None},
    {"activation_function": "gelu_accurate", "n_inner": 128, "scale_attn_weights": True},
    {"activation_function": "gelu_python_tanh"},
    {"activation_function": "gelu_fast"},
    {"reorder_and_upcast_attn": False, "attn_pdrop": 0.3, "summary_type": "mean", "use_cache": False},
    {"model_type": "gpt2", "tie_word_embeddings": True, "add_cross_attention": False, "pruned_heads": {}},
]
ALL = CHANGES + NO_CHANGES


def names(changes) -> list[str]:
    return [" ".join(f"{name}={value}" for name, value in change.items()) or "none" for change in changes]


def card(folder, change: dict):
    """Write the toy's config.json with `change`, and return the configuration it is read as."""
    (folder / "config.json").write_text(json.dumps(SIZES | change))
    return config.model_config(str(folder / "config.json"))


def weights(shape: config.ModelConfig) -> dict[str, torch.Tensor]:
    """The toy's weights; an MLP of another width has as many of their numbers as it needs. Attention is sharper, to be seen."""
    tensors = toy.tensors(0)
    for name, parameter in empty_model(shape).named_parameters():
        if tensors[name].shape != parameter.shape:
            tensors[name] = tensors[name].flatten()[: parameter.numel()].view(parameter.shape)
    return {name: tensor * 3 if "c_attn" in name else tensor for name, tensor in tensors.items()}


def model_of(shape: config.ModelConfig):
    model = empty_model(shape).double()
    model.load_state_dict(weights(shape))
    return model.eval()


@torch.no_grad()
def their_logits(fields: dict, shape: config.ModelConfig) -> torch.Tensor:
    transformers = pytest.importorskip("transformers")
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**fields, "bos_token_id": 0, "eos_token_id": 0}))
    model = model.double().eval()
    model.transformer.load_state_dict(weights(shape))
    return model(IDS).logits


@pytest.mark.parametrize("change", ALL, ids=names(ALL))
def test_the_logits_are_those_of_transformers(tmp_path, change):
    """Fails for each setting that is read and not used, or not read."""
    shape = card(tmp_path, change)
    model = model_of(shape)
    with torch.no_grad():
        ours = model.logits(model(IDS))
        in_rows = model.logits(model(IDS.flatten(), torch.arange(16).repeat(3), RowAttention([16] * 3)))
    assert torch.allclose(ours, their_logits(SIZES | change, shape), **FLOAT64)
    assert torch.allclose(in_rows.view(ours.shape), ours, **FLOAT64)


@pytest.mark.parametrize("change", CHANGES, ids=names(CHANGES))
def test_each_change_is_seen_in_the_logits(tmp_path, change):
    """Else the test above would pass for any reading of it. Another width is seen in the shapes."""
    shape = card(tmp_path, change)
    assert isinstance(shape, config.VariantConfig)
    width = {name: value for name, value in change.items() if name == "n_inner"}
    if change != width:
        assert not torch.allclose(their_logits(SIZES | change, shape), their_logits(SIZES | width, shape), atol=1e-4)


@pytest.mark.parametrize("change", NO_CHANGES, ids=names(NO_CHANGES))
def test_the_same_function_is_the_same_configuration(tmp_path, change):
    """What a run records of it, and compares when it is resumed, is what it was before there were variants."""
    shape = card(tmp_path, change)
    assert shape == toy.CONFIG
    assert vars(shape) == SIZES and list(SIZES) == ["n_embd", "n_layer", "n_head", "n_positions", "vocab_size"]


@pytest.mark.parametrize("change", CHANGES, ids=names(CHANGES))
def test_what_is_exported_says_the_change(tmp_path, change):
    shape = card(tmp_path, change)
    assert card(tmp_path, interchange.hugging_face_config(shape)) == shape
    assert placement.target_sizes(shape)["fc"] == weights(shape)["h.0.mlp.c_fc.weight"].shape


def test_a_search_with_a_cache_computes_the_change(tmp_path, capsys):
    """Greedy decoding is transformers'. Fails when the cache's attention is scaled as GPT-2's."""
    transformers = pytest.importorskip("transformers")
    flags = runs.write_decoding(tmp_path, 5)
    shape = card(tmp_path, CHANGES[-1])
    save_file(weights(shape), tmp_path / "base.safetensors")
    flags += " --precision fp64 --device cpu --eval_len 12 --no_repeat_ngram_size 0 --eos_token_id 210"
    assert gpt2_beam.main(flags.split()) == 0
    ours = [json.loads(line)["predict"] for line in (tmp_path / "work/beam_prediction.jsonl").read_text().splitlines()]
    checkpoints.save_hugging_face(model_of(shape), tmp_path / "hub")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hub", dtype=torch.float64).eval()
    for line, ids in zip(toy.examples(5), ours, strict=True):
        prompt = torch.tensor([line.context])
        mask = torch.ones_like(prompt)
        generated = theirs.generate(prompt, attention_mask=mask, do_sample=False, max_new_tokens=12, eos_token_id=210)
        assert generated[0, prompt.shape[1] :].tolist() == ids


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activation_function": "quick_gelu"}, 'sets activation_function to "quick_gelu".*expected gelu_new'),
        ({"activation_function": ["gelu"]}, "sets activation_function to"),
        ({"activation_function": "gelu_10"}, 'sets activation_function to "gelu_10"'),
        ({"layer_norm_epsilon": 0}, "sets layer_norm_epsilon to 0.*greater than 0"),
        ({"layer_norm_epsilon": "1e-5"}, "sets layer_norm_epsilon to"),
        ({"layer_norm_epsilon": float("nan")}, "sets layer_norm_epsilon to NaN"),
        ({"scale_attn_weights": "false"}, "sets scale_attn_weights to .*expected true or false"),
        ({"scale_attn_by_inverse_layer_idx": 1}, "sets scale_attn_by_inverse_layer_idx to 1"),
        ({"n_inner": 0}, "n_inner must be a whole number"),
        ({"n_inner": 64.0}, "n_inner must be a whole number"),
        ({"add_cross_attention": True}, "sets add_cross_attention to true.*expected false"),
        ({"tie_word_embeddings": False}, "sets tie_word_embeddings to false.*expected true"),
        ({"model_type": "gptj"}, 'sets model_type to "gptj".*expected "gpt2"'),
        ({"pruned_heads": {"0": [1]}}, "sets pruned_heads"),
        ({"quantization_config": {"load_in_4bit": True}}, "sets quantization_config"),
        ({"auto_map": {"AutoModel": "other.GPT2"}}, "sets auto_map"),
        ({"num_attention_heads": 2}, "says n_head 4 and num_attention_heads 2"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        card(tmp_path, change)


def test_the_sizes_have_other_names(tmp_path):
    """transformers writes and reads both."""
    named = {alias: SIZES[name] for alias, name in config.SIZE_ALIASES.items()}
    (tmp_path / "config.json").write_text(json.dumps({**named, "vocab_size": SIZES["vocab_size"]}))
    assert config.model_config(str(tmp_path / "config.json")) == toy.CONFIG
    (tmp_path / "config.json").write_text(json.dumps(named))
    with pytest.raises(UserError, match="does not say vocab_size"):
        config.model_config(str(tmp_path / "config.json"))


OTHER_BASES = [({"n_head": 8}, r"n_head 8 \(--model_card: 4\)"), *((change, next(iter(change))) for change in CHANGES)]


@pytest.mark.parametrize(("change", "words"), OTHER_BASES, ids=names([change for change, _ in OTHER_BASES]))
@pytest.mark.parametrize("source", ["hub", "hub/model.safetensors"])
def test_a_base_whose_own_config_contradicts_the_card_is_refused(tmp_path, change, words, source):
    """No shape tells its heads, its activation or its epsilon."""
    folder = tmp_path / "hub"
    folder.mkdir()
    save_file(toy.tensors(0), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(SIZES | change))
    with pytest.raises(UserError, match=rf"hub/config\.json says .*{words}.*; pass --model_card"):
        models.base_model(toy.CONFIG, str(tmp_path / source), torch.Generator(), "fp64")
    (folder / "config.json").write_text(json.dumps(SIZES))
    models.base_model(toy.CONFIG, str(tmp_path / source), torch.Generator(), "fp64")


def test_a_variant_as_card_over_a_plain_base_is_refused(tmp_path):
    """What its config.json does not say is as GPT-2 has it."""
    shape = card(tmp_path, {"activation_function": "relu"})
    folder = tmp_path / "hub"
    folder.mkdir()
    save_file(toy.tensors(0), folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"says activation_function gelu_new \(--model_card: relu\)"):
        models.base_model(shape, str(folder), torch.Generator(), "fp64")
