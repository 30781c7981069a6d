"""The fastest form of a matrix on this machine: as it is, for oneDNN or for MKL, or packed once for oneDNN.

Which is fastest depends on the processor and on the shape: on an Intel Xeon oneDNN took 1.6 times as long as MKL for products with
3 072 outputs; on an AMD EPYC with AVX-512 MKL, which does not use it there, takes twice as long as oneDNN, and a packed copy was up to
a fifth faster. So the first product of a shape times them, and the process keeps to what it found. A packed copy takes as much memory
as the matrix; frozen matrices alone get one, where it pays and memory is.

Alphabet: N rows, I inputs, O outputs.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from lora_nlg import memory

HAS_PACKED = hasattr(torch.ops.mkldnn, "_linear_pointwise") and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
LEAST = 2**19  # numbers in a matrix; the products of smaller ones are over before it matters
LEAST_ROWS, MOST_ROWS = 32, 128  # that are timed; what has fewer is not
NARROW = 64  # columns, of which oneDNN makes rows: with the 8 of LoRA's A it took thirty times as long
FLOPS = 6e9  # of a product that is timed, if that leaves enough rows: GPT-2 Medium's head would take seconds
ROUNDS = 9  # in each of which a way has to be faster, or in all but one where the numbers are the same
GAIN = 1.25  # over oneDNN's, so that chance does not choose: a repeated run is to give the same numbers
GAIN_ALIKE = 1.05  # where the numbers are the same, bit for bit, as a packed copy's were wherever it was tried
PACKED_GAIN = 1.1  # over MKL's, which takes no memory
# Numbers in a matrix: the heads of all sizes but the largest, whose copy would take a third of a GB.
MOST_PACKED = 2**26
SHARE_OF_MEMORY = 0.2  # of what is available, that the packed copies of a process may take

chosen: dict[str, str] = {}  # onednn, mkl or packed, for each kind of product, see `_kind`
# Of a matrix, for each way that it lies: its version, and the packed copy
_copies = WeakTensorKeyDictionary()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """Return x (..., I) @ weightᵀ + bias, weight being (O, I) or a transposed view of (I, O), without a gradient.

    With `gelu`, GELU by tanh of that.
    """
    matrix, onednn = _whole(weight), _onednn_gelu if gelu else _onednn
    if matrix is None or matrix.numel() < LEAST:
        return onednn(x, weight, bias)
    n_rows = _rows_timed(matrix.numel())
    rows = x.flatten(0, -2)[:n_rows]
    if len(rows) < n_rows:  # of which nothing was timed
        return onednn(x, weight, bias)
    form = chosen.get(kind := _kind(weight, matrix)) or _choose(kind, rows, weight, matrix)
    if form == "mkl":
        y = F.linear(x, weight, bias)
        return F.gelu(y, approximate="tanh") if gelu else y
    return onednn(x, _packed(weight, matrix) if form == "packed" else weight, bias)


def gradient(x: Tensor, grad: Tensor) -> Tensor:
    """Return x (N, I)ᵀ @ grad (N, O): what a matrix (I, O) learns from its inputs and its outputs' gradients."""
    (N, I), O = x.shape, grad.shape[1]  # noqa: E741
    if O < NARROW and O < I:
        return _onednn(grad.T, x.T, None).T
    if I * O < LEAST or N < LEAST_ROWS:
        return _onednn(x.T, grad.T, None)
    kind = f"gradient of {I} to {O}"
    form = chosen.get(kind) or _choose(kind, x.T[: _rows_timed(N * O)], grad.T)
    return x.T @ grad if form == "mkl" else _onednn(x.T, grad.T, None)


def _rows_timed(numbers: int) -> int:
    """Return how many rows are timed with a matrix of so many numbers."""
    return min(MOST_ROWS, max(LEAST_ROWS, int(FLOPS / (2 * numbers))))


def decide(forms: dict[str, str]) -> None:
    """Keep to what an earlier process has chosen: other forms sum in another order, and a resumed run is to give the same numbers."""
    chosen.update({kind: form for kind, form in forms.items() if form != "packed" or HAS_PACKED})


def packed_bytes() -> int:
    """Return how much the packed copies take."""
    return sum(matrix.nbytes * len(of_sides) for matrix, of_sides in _copies.items())


def _choose(kind: str, rows: Tensor, weight: Tensor, matrix: Tensor | None = None) -> str:
    """Return the fastest form for rows (N, I), and keep to it; `matrix` is the one that could be packed, if there is one."""
    ways: dict[str, Callable[..., Tensor]] = {"onednn": _onednn, "mkl": F.linear}
    factors = {name: weight for name in ways}
    if matrix is not None and _may_pack(matrix):
        ways["packed"], factors["packed"] = _onednn, _pack(weight)
    # The first product of each makes its kernel. A packed copy is taken for little where it gives the same numbers.
    made = {name: way(rows, factors[name], None) for name, way in ways.items()}
    is_alike = "packed" in made and made["packed"].equal(made["onednn"])
    gain, may_lose = dict.fromkeys(ways, GAIN), dict.fromkeys(ways, 0)
    if is_alike:
        gain["packed"], may_lose["packed"] = 1.0, 1
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name in seconds:
            started = time.perf_counter()
            ways[name](rows, factors[name], None)
            seconds[name].append(time.perf_counter() - started)
        for name in set(seconds) - {"onednn"}:  # what is not faster each time is so by chance
            may_lose[name] -= seconds[name][-1] * gain[name] >= seconds["onednn"][-1]
            if may_lose[name] < 0:
                del seconds[name]
    least = {name: min(of_name) for name, of_name in seconds.items()}
    best = "onednn"
    if "mkl" in least:
        best = "mkl"
    if "packed" in least and least["packed"] * (PACKED_GAIN if best == "mkl" else GAIN_ALIKE) < least[best]:
        best = "packed"
    return chosen.setdefault(kind, best)


def _packed(weight: Tensor, matrix: Tensor) -> Tensor:
    """Return the packed copy of a matrix, made anew where the matrix has changed since (what goes through `.data` is not seen).

    Without memory for it, it is the matrix itself, and no matrix of its kind is packed from then on: all of them, or none.
    """
    of_sides, side = _copies.setdefault(matrix, {}), weight.is_contiguous()
    if side not in of_sides or of_sides[side][0] != matrix._version:
        of_sides.pop(side, None)
        if not _may_pack(matrix):
            chosen[_kind(weight, matrix)] = "onednn"
            for other, of_other in _copies.items():
                if other.shape == matrix.shape:
                    of_other.pop(side, None)
            return weight
        of_sides[side] = matrix._version, _pack(weight)
    return of_sides[side][1]


def _pack(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)


def _may_pack(matrix: Tensor) -> bool:
    """Return whether a frozen `matrix` can be packed, and memory is there for it beside all that are packed already."""
    if not HAS_PACKED or not _is_frozen(matrix) or matrix.numel() > MOST_PACKED:
        return False
    free = memory.available()
    return free is not None and matrix.nbytes + packed_bytes() < SHARE_OF_MEMORY * (free + packed_bytes())


def _is_frozen(matrix: Tensor) -> bool:
    """Return whether `matrix` stays: what a method computes from its weights anew at every step is no parameter."""
    return isinstance(matrix, nn.Parameter) and not matrix.requires_grad and not matrix.is_inference()


def _whole(weight: Tensor) -> Tensor | None:
    """Return the matrix that `weight` is, or that it is a transposed view of; None for another view."""
    matrix = weight if weight._base is None else weight._base
    if matrix.dim() != 2 or not matrix.is_contiguous() or weight.data_ptr() != matrix.data_ptr():
        return None
    is_whole = any(weight.shape == one.shape and weight.stride() == one.stride() for one in (matrix, matrix.T))
    return matrix if is_whole else None


def _kind(weight: Tensor, matrix: Tensor) -> str:
    """Return "768 to 3072", with how the matrix lies and whether it stays, as run.json and saves have it."""
    n_out, n_in = weight.shape
    lies, changes = " of rows" if weight.is_contiguous() else "", "" if _is_frozen(matrix) else ", changing"
    return f"{n_in} to {n_out}{lies}{changes}"


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _onednn_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "tanh")
