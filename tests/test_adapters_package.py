"""Bottleneck adapters against the package `adapters` of AdapterHub, in float64: outputs and gradients.

It wants an older transformers than the other tests, hence a virtual environment of its own: tests/requirements-adapters.txt.
"""

import dataclasses

import pytest
import torch

import toy
from lora_nlg import methods
from lora_nlg.methods.bottleneck import AdapterConfig
from lora_nlg.model.gpt2 import GPT2

adapters = pytest.importorskip("adapters", reason="tests/requirements-adapters.txt says how to have it")
transformers = pytest.importorskip("transformers")

ORACLE = 1e-9  # float64; sums in another order
DIM = 4  # d
IDS = torch.arange(1, 33).view(2, 16)
# Lin's is no configuration of its own there: once a block, behind its residual sum, on a layer norm that is new.
LIN = dict(
    mh_adapter=False, output_adapter=True, ln_before=True, original_ln_before=True, original_ln_after=False, residual_before_ln=False
)  # fmt: skip
SIZE = dict(non_linearity="relu", reduction_factor=toy.CONFIG.n_embd / DIM)
THEIRS = {
    "adapter_h": lambda: adapters.DoubleSeqBnConfig(**SIZE),  # Houlsby et al. 2019
    "adapter_l": lambda: adapters.BnConfig(**LIN, **SIZE),
}
PLACES = {
    "attn.c_proj.adapter_h.": "attention_adapters",
    "mlp.c_proj.adapter_h.": "output_adapters",
    "adapter_l.": "output_adapters",
}


def ours(name: str) -> GPT2:
    """Return the toy with adapters that are moved from their start."""
    model, generator = toy.model(0), torch.Generator().manual_seed(1)
    methods.add_adapters(model, AdapterConfig(name, DIM), generator)
    with torch.no_grad():
        for parameter in methods.adapter_tensors(model).values():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model.eval()


def theirs(name: str):
    """Return transformers' GPT-2 with the toy's weights and the package's adapters, which are not set."""
    shape = {k: v for k, v in dataclasses.asdict(toy.CONFIG).items() if k in transformers.GPT2Config().to_dict()}
    made = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)).double()
    made.transformer.load_state_dict(toy.tensors(0), strict=True)
    adapters.init(made)
    made.add_adapter("a", config=THEIRS[name]())
    made.train_adapter("a")
    return made.double().eval()


def their_name(name: str) -> str:
    """Return what the package calls the tensor `name`, e.g. h.0.attn.c_proj.adapter_h.down_weight."""
    _, layer, rest = name.split(".", 2)
    [place] = [place for place in PLACES if rest.startswith(place)]
    part, kind = rest.removeprefix(place).replace(".", "_").split("_")
    down = "adapter_down.1" if "adapter_l" in name else "adapter_down.0"  # behind the norm
    called = {"ln": "adapter_norm_before", "down": down, "up": "adapter_up"}[part]
    return f"transformer.h.{layer}.{PLACES[place]}.adapters.a.{called}.{kind}"


@pytest.mark.parametrize("name", THEIRS)
def test_outputs_and_gradients_are_those_of_the_package(name):
    model, other, base = ours(name), theirs(name), toy.model(0).eval()
    own = methods.adapter_tensors(model)
    trained = {their_own: p for their_own, p in other.named_parameters() if p.requires_grad}
    assert {their_name(one) for one in own} == set(trained)
    with torch.no_grad():
        for one, tensor in own.items():
            trained[their_name(one)].copy_(tensor)
    logits, their_logits = model.logits(model(IDS)), other(input_ids=IDS).logits
    assert (logits - their_logits).abs().max() < ORACLE
    assert (logits - base.logits(base(IDS))).abs().max() > 0.01
    logits.square().sum().backward()
    their_logits.square().sum().backward()
    for one, tensor in own.items():
        assert (tensor.grad - trained[their_name(one)].grad).abs().max() < ORACLE
