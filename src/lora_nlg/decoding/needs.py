"""The memory that a decoding will need: an estimate, in bytes, on the safe side.

Alphabet: B sentences, K beams, T prompt length, V vocabulary, C width.
"""

from collections.abc import Sequence

import torch

from lora_nlg import memory
from lora_nlg.config import BeamConfig, ModelConfig
from lora_nlg.decoding.cache import most_slots
from lora_nlg.dist import AUTOCAST
from lora_nlg.model.gpt2 import GPT2, store_frozen_in

# Of one layer that takes in the prompts, in numbers of width C a token: its input, the norm's output, c_attn's (3), attention's and
# what is split for it (4), c_fc's before and after GELU (8).
WIDTHS_OF_PROMPT = 17
LAYERS_COPIED = (
    3  # whose keys and values are there twice for a moment: attention's own copies, or a batch that is made smaller
)
LOGIT_COPIES = 5  # of (B · K, V): the model's, those that the rules make of them, and what their logsumexp takes
REMEDY = "use a smaller --batch_size, which does not change the result, or a smaller --beam"


def of_decoding(
    model: ModelConfig,
    contexts: Sequence[Sequence[int]],
    search: BeamConfig,
    batch_size: int,
    world_size: int,
    precision: str,
    n_outputs: int = 1,
    n_before: int = 0,
) -> float:
    """Return the most bytes that a process takes that decodes its share of `contexts`, `batch_size` of them together.

    `n_before` are the positions of a prefix.
    """
    lengths = {tuple(context): len(context) for context in contexts}  # distinct ones are decoded once
    B, T = min(batch_size, -(-len(lengths) // world_size)), n_before + max(lengths.values(), default=0)
    number = 8 if precision == "fp64" else 4
    cached = torch.empty(0, dtype=AUTOCAST[precision]).element_size() if precision in AUTOCAST else number
    loaded, at_work = _weights(model, precision, n_outputs)
    cache = cache_bytes(model, B, T, search, cached)
    step = (
        LAYERS_COPIED * cache / model.n_layer
        + B * T * WIDTHS_OF_PROMPT * model.n_embd * number
        + B * search.beam * model.vocab_size * LOGIT_COPIES * number
    )
    return memory.RUNTIME + max(loaded, at_work + cache + step)


def cache_bytes(model: ModelConfig, B: int, T: int, search: BeamConfig, number_size: int) -> int:
    """Return what the keys and values of all layers take at most: `Cache` gets less memory, unless beams have nothing in common."""
    return 2 * model.n_layer * B * most_slots(T, search.beam, search.eval_len) * model.n_embd * number_size


def _weights(config: ModelConfig, precision: str, n_outputs: int) -> tuple[int, int]:
    """Return the bytes of the model's weights as they are loaded, and as they are decoded with."""
    with torch.device("meta"):  # shapes alone
        model = GPT2(config).to(torch.float64 if precision == "fp64" else torch.float32).requires_grad_(False)
    loaded = _bytes_of(model)
    if precision in AUTOCAST and n_outputs == 1:  # as gpt2_beam.py stores them
        store_frozen_in(model, AUTOCAST[precision])
    return loaded, _bytes_of(model)


def _bytes_of(model: GPT2) -> int:
    return sum(x.numel() * x.element_size() for x in (*model.parameters(), *model.buffers()))
