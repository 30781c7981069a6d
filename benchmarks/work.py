"""How much arithmetic a training step needs, and how fast this machine can do arithmetic at best.

Alphabet: C width, V vocabulary, R rank; n tokens without padding, M learnt positions, T one example's tokens. A product of (a, b)
and (b, c) matrices is 2abc operations. Only matrix products count.
"""

import time
from collections.abc import Callable, Iterator, Sequence

PEAK_SIZES = 1024, 2048, 3072
PEAK_TRIES = 3


def training_flop(shape, rank: int, lengths: Sequence[int], learnt: Sequence[int]) -> dict[str, int]:
    """Return the operations of one LoRA step (query and value) on examples of `lengths` inputs, `learnt` of them learnt.

    Counted: every matrix of every block at every token, forward, and once more backward to its inputs (frozen matrices need no
    gradient of their own), but the last block's c_proj and MLP at learnt positions only; causal attention, each token to itself
    and earlier ones; logits at learnt positions only, forward and backward; the adapters, forward, backward and their
    gradients. Not counted: padding, what is computed twice, and in the first block the gradients of its c_attn's input and of
    its keys, which nothing learns from.
    """
    C, V, layers, n, M = shape.n_embd, shape.vocab_size, shape.n_layer, sum(lengths), sum(learnt)
    c_attn, c_proj, mlp = 2 * n * C * 3 * C, 2 * n * C * C, 2 * (2 * n * C * 4 * C)
    attention_product = sum(2 * C * T * (T + 1) // 2 for T in lengths)  # one of QKᵀ, PV; of dV, dP, dQ, dK
    adapter = 2 * (2 * n * C * rank) * 2  # down and up, for query and value
    unread = (c_proj + mlp) // n * (n - M)  # nobody reads what the last block gives at the other positions
    parts = {
        "blocks_forward": layers * (c_attn + c_proj + mlp) - unread,
        "blocks_backward": layers * (c_attn + c_proj + mlp) - unread - c_attn,
        "attention_forward": layers * 2 * attention_product,
        "attention_backward": (layers * 4 - 1) * attention_product,
        "logits": 2 * (2 * M * C * V),
        "adapters": layers * 3 * adapter - adapter // 2,
    }
    return {"needed": sum(parts.values()), **parts}


def linear_kernels() -> dict[str, Callable]:
    """Return torch's ways, by name, to compute x (a, b) times w (c, b) transposed; which is faster depends on the machine."""
    import torch
    from torch.nn import functional as F

    kernels = {"linear": F.linear}
    try:
        fused = torch.ops.mkldnn._linear_pointwise
        fused(torch.ones(1, 1), torch.ones(1, 1), None, "none", [], "")
        kernels["mkldnn"] = lambda x, w: fused(x, w, None, "none", [], "")
    except (AttributeError, RuntimeError, NotImplementedError):
        pass
    return kernels


def peaks(smoke: bool = False) -> Iterator[tuple[str, float]]:
    """Yield (kernel and size, operations a second) of square float32 products, each the best of PEAK_TRIES."""
    import torch

    for size in (128,) if smoke else PEAK_SIZES:
        x, w = torch.randn(size, size), torch.randn(size, size)
        for name, kernel in linear_kernels().items():
            best = float("inf")
            for _ in range(PEAK_TRIES):
                started = time.perf_counter()
                kernel(x, w)
                best = min(best, time.perf_counter() - started)
            yield f"{name} {size}", 2 * size**3 / best
