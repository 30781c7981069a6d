"""The forms of a frozen matrix: the same numbers in each, the fastest is taken, and no copy outlives or belies its matrix."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lora_nlg import memory
from lora_nlg.model import forms, matmul

pytestmark = pytest.mark.skipif(not (matmul.HAS_ONEDNN and forms.HAS_PACKED), reason="this torch packs no matrix")
FLOAT32 = dict(rtol=1e-5, atol=1e-5)  # the same sums in another order
KINDS = ("40 to 24", "24 to 40 of rows", "40 to 24 of rows", "24 to 40")


@pytest.fixture(autouse=True)
def chosen(monkeypatch):
    """What is chosen, of which nothing is known; small matrices count as well."""
    monkeypatch.setattr(forms, "LEAST", 1)
    monkeypatch.setattr(forms, "chosen", {})
    return forms.chosen


def frozen(*size: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*size, generator=torch.Generator().manual_seed(1)), requires_grad=False)


@pytest.mark.parametrize("form", ["onednn", "mkl", "packed"])
@pytest.mark.parametrize("is_head", [False, True], ids=["matrix", "head"])
def test_each_form_gives_the_same_output_and_gradient(form, is_head, chosen):
    """Fails when one side's copy is taken for the other's, or the bias is left out."""
    forms.decide(dict.fromkeys(KINDS, form))
    x = torch.randn(3, 50, 40, requires_grad=True)
    matrix, bias = frozen(24, 40) if is_head else frozen(40, 24), None if is_head else frozen(24)
    outputs = [
        matmul.linear(x, matrix.T if is_head else matrix, bias), F.linear(x, matrix if is_head else matrix.T, bias)
    ]  # fmt: skip
    gradients = [torch.autograd.grad(output.square().sum(), x)[0] for output in outputs]
    torch.testing.assert_close(*outputs, **FLOAT32)
    torch.testing.assert_close(*gradients, **FLOAT32)
    assert forms.packed_bytes() == (2 * matrix.nbytes if form == "packed" else 0)


def test_a_copy_is_made_anew_when_its_matrix_changes_and_goes_with_it(chosen):
    forms.decide(dict.fromkeys(KINDS, "packed"))
    matrix, x = frozen(40, 24), torch.randn(forms.MOST_ROWS, 40)
    before = matmul.linear(x, matrix)
    with torch.no_grad():
        matrix.mul_(2)
    torch.testing.assert_close(matmul.linear(x, matrix), 2 * before, **FLOAT32)
    with torch.inference_mode():  # as decoding computes
        torch.testing.assert_close(matmul.linear(x, matrix), 2 * before, **FLOAT32)
    assert forms.packed_bytes() == matrix.nbytes
    del matrix
    assert forms.packed_bytes() == 0


def test_without_memory_for_all_of_a_kind_none_is_packed(chosen, monkeypatch):
    """Else which ones are would change with the memory of the moment, and so would the sums of a resumed run."""
    forms.decide(dict.fromkeys(KINDS, "packed"))
    first, second, other = frozen(40, 24), frozen(40, 24), frozen(24, 40)
    x = torch.randn(forms.MOST_ROWS, 40)
    for matrix in (first, other.T):
        forms.product(x, matrix.T)
    assert forms.packed_bytes() == 2 * first.nbytes
    monkeypatch.setattr(memory, "available", lambda: 0)
    torch.testing.assert_close(forms.product(x, second.T), F.linear(x, second.T), **FLOAT32)
    assert forms.packed_bytes() == other.nbytes and chosen["40 to 24"] == "onednn"
    forms.product(x, first.T)
    assert forms.packed_bytes() == other.nbytes


SLOW = 0.03  # seconds, by a clock that only these tests move: a busy machine is of no effect


@pytest.fixture
def wait(monkeypatch):
    """Move the clock by which ways are timed."""
    now = [0.0]
    monkeypatch.setattr(forms, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


@pytest.mark.parametrize(("slow", "expected"), [
    ({"onednn"}, "mkl"),  # which takes no memory
    ({"onednn", "mkl"}, "packed"),
    ({"mkl", "packed"}, "onednn"),
    (set(), "onednn"),  # chance alone chooses nothing
])  # fmt: skip
def test_the_fastest_is_found_by_time(slow, expected, chosen, monkeypatch, wait):
    def delayed(way, name_of):
        def wrapped(x, weight, bias):
            wait(SLOW + (SLOW if name_of(weight) in slow else 0))
            return way(x, weight, bias)

        return wrapped  # fmt: skip

    monkeypatch.setattr(forms, "_onednn", delayed(forms._onednn, lambda w: "packed" if w.is_mkldnn else "onednn"))
    monkeypatch.setattr(forms.F, "linear", delayed(F.linear, lambda w: "mkl"))
    matrix = frozen(40, 24)
    forms.product(torch.randn(forms.MOST_ROWS - 1, 40), matrix.T)
    assert chosen == {}  # too few rows to tell
    forms.product(torch.randn(2, forms.MOST_ROWS, 40), matrix.T)
    assert chosen == {"40 to 24": expected}
    monkeypatch.setattr(forms, "_choose", None)  # it is kept
    forms.product(torch.randn(forms.MOST_ROWS, 40), matrix.T)
    if expected == "packed":
        monkeypatch.setattr(forms, "_packed", None)
        forms.product(torch.randn(forms.MOST_ROWS - 1, 40), matrix.T)  # of so few rows nothing is known


@pytest.mark.parametrize(("off", "expected"), [(0, "packed"), (1, "onednn")])
def test_a_little_faster_is_enough_where_the_numbers_are_the_same(off, expected, chosen, monkeypatch, wait):
    """Else chance would choose among numbers, and a repeated run would differ."""
    real = forms._onednn

    def delayed(x, weight, bias):
        wait(SLOW if weight.is_mkldnn else 1.2 * SLOW)
        made = real(torch.ones_like(x), torch.ones(24, 40), bias)  # whole numbers, which every order sums alike
        return made + off if weight.is_mkldnn else made

    monkeypatch.setattr(forms, "_onednn", delayed)
    monkeypatch.setattr(forms.F, "linear", lambda x, weight, bias: wait(2 * SLOW) or delayed(x, weight, bias))
    forms.product(torch.randn(forms.MOST_ROWS, 40), frozen(40, 24).T)
    assert chosen == {"40 to 24": expected}


@pytest.mark.parametrize("form", ["onednn", "mkl"])
@pytest.mark.parametrize(("n_in", "n_out"), [(40, 24), (24, 40), (300, 8), (8, 300)])
def test_a_matrix_learns_what_torchs_own_product_says(form, n_in, n_out, chosen):
    forms.decide({f"gradient of {n_in} to {n_out}": form})
    x, grad = torch.randn(50, n_in), torch.randn(50, n_out)
    torch.testing.assert_close(forms.gradient(x, grad), x.double().T.mm(grad.double()).float(), rtol=1e-4, atol=1e-4)


def test_the_gradient_of_a_large_matrix_is_timed_once(chosen, monkeypatch):
    x, grad = torch.randn(forms.LEAST_ROWS, 40), torch.randn(forms.LEAST_ROWS, 70)
    forms.gradient(x[1:], grad[1:])
    assert chosen == {}  # too few rows to tell
    forms.gradient(x, grad)
    assert list(chosen) == ["gradient of 40 to 70"]
    monkeypatch.setattr(forms, "_choose", None)
    forms.gradient(x, grad)


@pytest.mark.parametrize("why", ["trained", "changing", "part", "no memory", "large"])
def test_what_is_never_packed(why, chosen, monkeypatch):
    """A trained matrix changes at every step, and one that a method computes is there for one step."""
    forms.decide(
        dict.fromkeys([*KINDS, *(f"{kind}, changing" for kind in KINDS)], "packed") if why != "changing" else {}
    )
    matrix = frozen(40, 24)
    if why == "trained":
        matrix.requires_grad_()
    elif why == "changing":
        matrix = matrix + 1
    elif why == "part":
        matrix = frozen(41, 24)[1:]
    elif why == "no memory":
        monkeypatch.setattr(memory, "available", lambda: 0)
    else:
        monkeypatch.setattr(forms, "MOST_PACKED", 40 * 24 - 1)
    x = torch.randn(forms.MOST_ROWS, 40)
    torch.testing.assert_close(forms.product(x, matrix.T), F.linear(x, matrix.T), **FLOAT32)
    assert forms.packed_bytes() == 0


def test_small_matrices_are_not_timed(chosen, monkeypatch):
    monkeypatch.setattr(forms, "LEAST", 40 * 24 + 1)
    forms.product(torch.randn(forms.MOST_ROWS, 40), frozen(40, 24).T)
    assert chosen == {}
