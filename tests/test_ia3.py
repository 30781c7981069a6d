"""IA3 (Liu et al. 2022): its definition, and PEFT's files, where queries are scaled. test_methods.py has what every method does."""

import pytest
import torch

import toy
from lora_nlg import methods
from lora_nlg.errors import UserError
from lora_nlg.methods.ia3 import IA3Config
from lora_nlg.storage import peft_methods
from lora_nlg.storage.peft_settings import PeftSettings
from test_methods import assert_equal_by_hand, move, trained


@pytest.mark.parametrize("joined", [False, True])
def test_ia3_is_its_definition(joined):
    """Keys, values, and what the MLP's second matrix takes in; queries only in files of PEFT."""
    model = toy.model(0)
    methods.add_adapters(model, IA3Config(joined))
    move(model)
    own, C = methods.adapter_tensors(model), toy.CONFIG.n_embd

    def change(name, y):
        if name.endswith("inner"):
            return y * own[name.replace("inner", "c_proj.ia3_factors")]
        if not name.endswith("c_attn"):
            return y
        q, k, v = y.split(C, -1)
        *of_queries, of_keys, of_values = own[f"{name}.ia3_factors"].split(C)
        return torch.cat((q * of_queries[0] if joined else q, k * of_keys, v * of_values), -1)

    assert_equal_by_hand(model, change=change)


def test_queries_that_are_not_scaled_stay_so_on_the_way_through_peft():
    model = trained("ia3")
    own = methods.adapter_tensors(model)
    theirs, said = peft_methods.to_peft(own, model.trained_by, "gpt2.toy")
    assert all(len(tensor) == 3 * toy.CONFIG.n_embd for name, tensor in theirs.items() if "c_attn" in name)
    back, config = peft_methods.from_peft(theirs, PeftSettings(said, "here"))
    assert config == IA3Config(joined=False) == model.trained_by
    assert back.keys() == own.keys() and all(torch.equal(back[name], own[name]) for name in own)


@pytest.mark.parametrize(
    ("module", "shape"), [("attn.c_attn", (48, 2)), ("attn.c_attn", (1, 96)), ("mlp.c_proj", (128, 1))]
)
def test_factors_of_another_shape_are_refused_as_peft_does(module, shape):
    theirs, said = peft_methods.to_peft(methods.adapter_tensors(trained("ia3")), IA3Config(), "gpt2.toy")
    theirs[f"base_model.model.transformer.h.0.{module}.ia3_l"] = torch.ones(shape)
    with pytest.raises(UserError, match=rf"ia3_l of h.0.{module} is \({shape[0]}, {shape[1]}\)"):
        peft_methods.from_peft(theirs, PeftSettings(said, "here"))
