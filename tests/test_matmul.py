"""The fast float32 product: the same numbers as torch's, and the same gradients."""

import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from lora_nlg.model import matmul

SHAPES_300 = """
import pathlib, resource, sys, torch
from lora_nlg.model import forms, matmul

def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

weight = torch.zeros(256, 1024)
for rows in range(500, 800):
    forms.product(forms.product(torch.zeros(rows, 256), weight.T), weight)
    if rows == 550:
        before = resident()
print(resident() - before)
"""
FLOAT32 = dict(rtol=1e-5, atol=1e-5)  # the same sums in another order


@pytest.fixture
def given():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(*size, generator=generator, requires_grad=True) for size in ((3, 5, 40), (40, 24), (24,))]


@pytest.mark.parametrize("frozen", [False, True])
def test_product_and_gradients(given, frozen):
    """Fails when a factor of a gradient is transposed, or the bias is left out."""
    x, weight, bias = given
    weight.requires_grad_(not frozen)
    bias.requires_grad_(not frozen)
    wanted = [tensor for tensor in given if tensor.requires_grad]
    outputs = [matmul.linear(x, weight, bias), F.linear(x, weight.T, bias)]
    gradients = [torch.autograd.grad(output.square().sum(), wanted) for output in outputs]
    torch.testing.assert_close(*outputs, **FLOAT32)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, **FLOAT32)


@pytest.mark.parametrize("frozen", ["nothing", "y", "x", "B"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_of_low_rank_is_added_in_place(frozen, dtype):
    """Fails when a gradient is another's, or is computed for what does not learn."""
    given = {
        name: torch.randn(*size, dtype=dtype) for name, size in (("y", (50, 300)), ("x", (50, 8)), ("B", (300, 8)))
    }
    wanted = [tensor.requires_grad_() for name, tensor in given.items() if name != frozen]
    y, x, B = given.values()
    added = y * 1
    outputs = [matmul.add_low_rank_(added, x, B), y + x @ B.T]
    assert outputs[0].data_ptr() == added.data_ptr()
    gradients = [torch.autograd.grad(output.square().sum(), wanted) for output in outputs]
    for ours, theirs in zip((outputs[0], *gradients[0]), (outputs[1], *gradients[1]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("form", ["onednn", "mkl", "packed"])
@pytest.mark.parametrize("rows", [3, 50])
def test_gelu_within_the_product_is_gelu_after_it(form, rows, monkeypatch):
    """Fails when it is taken where something learns, or with another form of the function."""
    monkeypatch.setattr(matmul.forms, "LEAST", 1)
    monkeypatch.setattr(matmul.forms, "chosen", {"40 to 24": form})
    x, weight, bias = 3 * torch.randn(rows, 40), torch.randn(40, 24), torch.randn(24)
    weight = torch.nn.Parameter(weight, requires_grad=False)
    wanted = F.gelu(x.double() @ weight.double() + bias.double(), approximate="tanh").float()
    with torch.no_grad():
        torch.testing.assert_close(matmul.linear_gelu(x, weight, bias), wanted, **FLOAT32)
        torch.testing.assert_close(
            matmul.linear_gelu(x.double(), weight.double(), bias.double()).float(), wanted, **FLOAT32
        )
    learning = matmul.linear_gelu(x.requires_grad_(), weight, bias)
    torch.testing.assert_close(learning, wanted, **FLOAT32)
    assert torch.autograd.grad(learning.sum(), x)[0].count_nonzero()


def test_no_bias_strided_input_and_transposed_weight(given):
    x, weight, _ = given
    ours = matmul.linear(x[:, ::2, ::2], weight[::2].T.contiguous().T)
    torch.testing.assert_close(ours, x[:, ::2, ::2] @ weight[::2], **FLOAT32)


def test_which_kernel_computes(given, monkeypatch):
    """oneDNN for float32 on a CPU; torch's own for other types, and under autocast."""
    calls = []
    real = matmul.forms.product
    monkeypatch.setattr(matmul, "HAS_ONEDNN", True)
    monkeypatch.setattr(matmul.forms, "product", lambda *factors: calls.append(1) or real(*factors))
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    x, weight, bias = given
    matmul.linear(x, weight, bias)
    assert len(calls) == 1
    matmul.linear(x.double(), weight.double(), bias.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert matmul.linear(x, weight, bias).dtype == torch.bfloat16
    assert len(calls) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not matmul.HAS_ONEDNN, reason="reads /proc, and is about oneDNN")
def test_memory_does_not_grow_with_the_number_of_shapes():
    """Without the limits on the kernels kept it grows by 280 MiB; fails when either of the two is taken away."""
    limits = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")  # which this process has set for its children
    environment = {name: value for name, value in os.environ.items() if name not in limits}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", SHAPES_300]
    grown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert float(grown) < 60


@pytest.mark.slow
def test_a_compiled_product_is_torchs_own():
    """torch's code generator has no way to oneDNN's product as it is called here (an InductorError until it was left out)."""
    x, weight, bias = torch.randn(3, 8), torch.randn(8, 16), torch.randn(16)
    compiled = torch.compile(lambda x: matmul.linear(x + 1, weight, bias).sum(0), dynamic=False)
    assert torch.allclose(compiled(x), matmul.linear(x + 1, weight, bias).sum(0), atol=1e-4)
