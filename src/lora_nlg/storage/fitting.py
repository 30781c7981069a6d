"""Whether the tensors of a file are what it says of them, where no model is there that they could be put on."""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from lora_nlg import methods
from lora_nlg.config import CARDS, ModelConfig, VariantConfig
from lora_nlg.errors import UserError
from lora_nlg.model.gpt2 import GPT2

LAYER = re.compile(r"(?:^|\.)h\.(\d{1,4})\.")
PARTS = (1, 2, 3, 4)  # what the sizes of tensors are multiples of: of a width C c_attn has 3C outputs, an MLP 4C
MOST_TRIED = 200
MOST_LAYERS = 10_000  # of all that are tried together
NO_MODEL_HAS = 1_000  # so many layers: a file that names such a one is tried once


def check(tensors: Mapping[str, Tensor], config: methods.Config, path: Path) -> None:
    """Raise UserError unless some GPT-2 has just these tensors, by name and shape, once `config` is put on it."""
    complaints: list[str] | None = None
    n_layers = 0
    for shape in itertools.islice(_shapes(tensors, config), MOST_TRIED):
        found = _complaints(tensors, config, shape)
        if not found:
            return
        if complaints is None or len(found) < len(complaints):
            complaints = found
        n_layers += shape.n_layer
        if n_layers > MOST_LAYERS or shape.n_layer > NO_MODEL_HAS:
            break
    what = methods.method(config.method).summary(config)
    raise UserError(f"{path} does not hold what it says, {what}: {(complaints or ['no tensors'])[0]}; save it again")


def _shapes(tensors: Mapping[str, Tensor], config: methods.Config) -> Iterator[ModelConfig]:
    """Yield the shapes of model that the tensors can be of, likely ones first."""
    layers = [int(found[1]) for found in map(LAYER.search, tensors) if found]
    layers += [len(tensor) - 1 for tensor in tensors.values() if tensor.dim() > 2]  # a prefix's, of all layers
    n_layer = max([*layers, *(getattr(config, "layers", None) or ())], default=0) + 1
    sizes = {size for tensor in tensors.values() for size in tensor.shape}
    # VeRA's A and B, the settings of which say how large they are, hold the inner width that stands in no tensor.
    sizes |= {size for side in ("n_in", "n_out") if (size := getattr(config, side, 0))}
    V = max(
        [len(tensor) for name, tensor in tensors.items() if name.startswith("wte.")],
        default=CARDS["gpt2.sm"].vocab_size,
    )
    widths = sorted({size // part for size in sizes for part in PARTS if size % part == 0} - {0}, reverse=True)
    known = [card.n_embd for card in CARDS.values()]
    widths = [*(C for C in widths if C in known), *known, *widths]
    for inner_of in (lambda C: [4 * C], lambda C: sorted(sizes - {4 * C})):
        for C in dict.fromkeys(widths):
            shape = ModelConfig(n_embd=C, n_layer=n_layer, n_head=1, vocab_size=V)
            for inner in inner_of(C):
                yield shape if inner == 4 * C else VariantConfig(**dataclasses.asdict(shape), n_inner=inner)


def _complaints(tensors: Mapping[str, Tensor], config: methods.Config, shape: ModelConfig) -> list[str]:
    """Return what is otherwise in `tensors` than in a model of `shape`."""
    with torch.device("meta"):  # shapes alone
        model = GPT2(shape)
    try:
        methods.attach(model, config)
    except UserError as error:
        return [str(error)] * (len(tensors) + 1)
    wanted = methods.adapter_tensors(model)
    return [
        *(f"{name} is missing" for name in wanted if name not in tensors),
        *(f"{name} is not a part of that" for name in tensors if name not in wanted),
        *(
            f"{name} is {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in tensors and tensors[name].shape != tensor.shape
        ),
        *(
            f"{name} is {tensor.dtype}, not floating point"
            for name, tensor in tensors.items()
            if not tensor.is_floating_point()
        ),
    ]
