"""LoRA's two factors trained apart: LoRA+'s two rates, and gradients preconditioned by the other factor."""

import pytest
import torch

import runs
import toy
from lora_nlg.config import FactorConfig, OptimConfig
from lora_nlg.errors import UserError
from lora_nlg.methods import add_adapters
from lora_nlg.methods.placement import LoraConfig
from lora_nlg.training.optim import build_optimizer, precondition
from test_method_programs import train

FACTORS = ["--lora_plus_ratio 16", "--precondition", "--lora_plus_ratio 4 --precondition"]


def adapted(rank=None, targets=("q", "v")):
    model = toy.model(0)
    add_adapters(
        model, LoraConfig(rank or 3, 8, init="gaussian_b:0.3", targets=targets), torch.Generator().manual_seed(1)
    )
    return model


def test_b_has_its_own_rate():
    model = adapted()
    optimizer = build_optimizer(model, OptimConfig(0.1, 10), FactorConfig(lora_plus_ratio=16))
    names = {id(p): name for name, p in model.named_parameters()}
    factors = {
        names[id(p)].rpartition(".")[2]: group.get("lr_factor", 1)
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert factors == {"lora_A": 1, "lora_B": 16}


def test_equal_factors_are_the_optimiser_that_there_was():
    assert len(build_optimizer(adapted(), OptimConfig(0.1, 10), FactorConfig()).param_groups) == 1
    assert FactorConfig().recorded() == {}


@pytest.mark.parametrize(
    ("rank", "targets"), [(3, ("q", "v")), ({"q": 2, "v": 4}, ("q", "v")), (2, ("fc", "proj", "wte"))]
)
def test_each_gradient_is_times_the_others_inverse_gram_matrix(rank, targets):
    """A's by (Bᵀ B)⁻¹, B's by (A Aᵀ)⁻¹, of each target for itself, at the A and B from before the step."""
    model = adapted(rank, targets)
    generator = torch.Generator().manual_seed(2)
    expected = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            for parameter in (module.lora_A, module.lora_B):
                parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            A_row, B_at, n = 0, 0, len(module.targets)
            of_A, of_B = module.lora_A.grad.clone(), module.lora_B.grad.clone()
            for R in module.ranks:
                rows = slice(A_row, A_row + R)
                if isinstance(rank, dict):
                    place = (slice(None), slice(B_at, B_at + R))
                    B_at += R
                else:
                    place = slice(B_at, B_at + len(of_B) // n)
                    B_at += len(of_B) // n
                A, B, ridge = module.lora_A[rows], module.lora_B[place], 1e-6 * torch.eye(R).double()
                expected_A = torch.linalg.inv(B.T @ B + ridge) @ of_A[rows]
                expected_B = of_B[place] @ torch.linalg.inv(A @ A.T + ridge)
                of_A[rows], of_B[place] = expected_A.detach(), expected_B.detach()
                A_row += R
            expected[name] = of_A, of_B
    precondition(model)
    for name, (of_A, of_B) in expected.items():
        module = model.get_submodule(name)
        assert torch.allclose(module.lora_A.grad, of_A) and torch.allclose(module.lora_B.grad, of_B)


@pytest.mark.parametrize("flags", FACTORS)
def test_runs_with_other_factors_differ_and_resume_bit_for_bit(flags, tmp_path):
    plain, _ = train(tmp_path, "lora", "")
    ours, again = train(tmp_path, "lora", flags)
    assert runs.differences(plain, ours) and not runs.differences(ours, again)


@pytest.mark.parametrize("ratio", ["0", "-1", "nan", "inf"])
def test_a_ratio_that_is_none_is_refused(ratio):
    with pytest.raises(UserError, match="--lora_plus_ratio must be greater than 0"):
        FactorConfig(lora_plus_ratio=float(ratio))
