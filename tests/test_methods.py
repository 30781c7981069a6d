"""Every method of the table, all the way through: counts, start, gradients, files, merging, decoding, and the shape of a batch."""

import argparse
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import gpt2_ft
import toy
from lora_nlg import methods
from lora_nlg.config import CARDS, ModelConfig
from lora_nlg.data.batches import collate
from lora_nlg.data.examples import make_rows
from lora_nlg.decoding.beam import beam_search
from lora_nlg.errors import UserError
from lora_nlg.methods import switch
from lora_nlg.methods.cost import cost_of
from lora_nlg.model.gpt2 import GPT2
from lora_nlg.storage import checkpoints
from lora_nlg.training import needs
from lora_nlg.training.losses import masked_loss

PREFIXES = ("prefix_embed", "prefix_layer", "prefix_kv")
LORA_SIZES = {"lora": "--lora_dim 2", "dora": "--lora_dim 2"}
PUT_ON = [name for name in methods.CHOICES if name != "full"]
TOLERANCE = 1e-9  # float64; sums in another order


def flags_of(name: str, more: str = "") -> argparse.Namespace:
    rank = "--lora_dim 2 --lora_alpha 8" if name.startswith(("lora", "dora")) else ""
    text = f"--train_data t --valid_data v --model_card gpt2.md --method {name} {rank} {more}"
    return gpt2_ft.parser().parse_args(text.split())


def config_of(name: str, more: str = "", model: ModelConfig = toy.CONFIG) -> methods.Config:
    return methods.from_flags(flags_of(name, more), model)


def trained(name: str, more: str = "", moved: bool = True) -> GPT2:
    """Return the toy with the method on it, at its start or moved from it."""
    model = toy.model(0)
    methods.add_adapters(model, config_of(name, more), torch.Generator().manual_seed(1))
    if moved:
        move(model)
    return model


def move(model: GPT2) -> None:
    """Move what is trained from where it is."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=0.1)


def hidden(model: GPT2, n: int = 9) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(1, n + 1).unsqueeze(0))


# Counts


FORMULAS = {  # METHODS.md's, of C, L and the size
    "full": (lambda C, L: 50257 * C + 1024 * C + 12 * C * C * L + 13 * C * L + 2 * C, ""),
    "top2": (lambda C, L: 2 * (12 * C * C + 13 * C), ""),
    "bias": (lambda C, L: 11 * C * L + C, ""),
    "prefix_embed": (lambda C, L: 14 * C, "--prefix_length 14"),
    "prefix_layer": (lambda C, L: 14 * C * L, "--prefix_length 14"),
    "prefix_kv": (lambda C, L: 2 * 7 * C * L, "--prefix_length 7"),
    "adapter_h": (lambda C, L: 2 * L * (2 * C * 112 + 112 + C), "--adapter_dim 112"),
    "adapter_l": (lambda C, L: L * (2 * C * 6 + 6 + C) + 2 * L * C, "--adapter_dim 6"),
    "lora": (lambda C, L: L * 2 * 2 * (C + C), ""),
    "dora": (lambda C, L: L * 2 * (2 * (C + C) + C), ""),
    "vera": (lambda C, L: L * 2 * (1024 + C), "--vera_dim 1024"),
    "fourier": (lambda C, L: L * 2 * 1000, "--fourier_n 1000"),
    "ia3": (lambda C, L: L * (2 * C + 4 * C), ""),
    "lora+prefix_embed": (lambda C, L: L * 2 * 2 * (C + C) + 14 * C, ""),
    "lora+prefix_layer": (lambda C, L: L * 2 * 2 * (C + C) + 14 * C * L, ""),
    "lora+prefix_kv": (lambda C, L: L * 2 * 2 * (C + C) + 2 * 14 * C * L, ""),
}
OF_GPT2_MEDIUM = {
    "full": 354_823_168, "top2": 25_192_448, "bias": 271_360, "prefix_layer": 344_064, "adapter_h": 11_064_576,
    "adapter_l": 368_784, "vera": 98_304, "fourier": 48_000, "ia3": 147_456,
}  # fmt: skip


def count(config: methods.Config, shape: ModelConfig) -> int:
    with torch.device("meta"):
        model = GPT2(shape)
    methods.attach(model, config)
    return cost_of(model).trained


@pytest.mark.slow
@pytest.mark.parametrize("card", ["gpt2.mini", "gpt2.sm", "gpt2.md", "gpt2.lg", "gpt2.xl"])
@pytest.mark.parametrize("name", methods.CHOICES)
def test_what_is_trained_is_the_tables_formula(name, card):
    shape, (formula, size) = CARDS[card], FORMULAS[name]
    expected = formula(shape.n_embd, shape.n_layer)
    if name == "full":
        expected += (shape.n_positions - 1024) * shape.n_embd
    config = config_of(name, size, shape)
    assert count(config, shape) == expected
    assert name == "full" or config.n_parameters(shape) == expected
    assert card != "gpt2.md" or name not in OF_GPT2_MEDIUM or expected == OF_GPT2_MEDIUM[name]


@pytest.mark.parametrize("name", ["prefix_embed", "prefix_layer", "prefix_kv", "adapter_h", "adapter_l", "lora", "dora", "vera",
                                  "fourier", "lora+prefix_embed"])  # fmt: skip
def test_a_budget_chooses_the_largest_size_within(name):
    text = f"--train_data t --valid_data v --model_card gpt2.md --method {name} --trained_budget 0.35M"
    shape = CARDS["gpt2.md"]
    config = methods.from_flags(gpt2_ft.parser().parse_args(text.split()), shape)
    assert count(config, shape) <= 350_000
    part = getattr(config, "lora", config)
    size = next(n for n in ("rank", "prefix_length", "adapter_dim", "dim", "n") if hasattr(part, n))
    larger = replace(part, **{size: getattr(part, size) + 1})
    config = replace(config, lora=larger) if part is not config else larger
    assert config.n_parameters(shape) > 350_000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--method prefix_kv --trained_budget 1k", "--trained_budget must be from 49,152, what --prefix_length 1 takes, to"),
        ("--method prefix_kv --trained_budget 1M --prefix_length 3", "--trained_budget chooses what --prefix_length sets"),
        ("--method prefix_kv --prefix_length 0", "--prefix_length must be from 1 to 512, half of the 1024 positions of gpt2.md"),
        ("--method adapter_h --adapter_dim -1", "--adapter_dim must be from 1 to"),
        ("--method lora", "--method lora needs a rank; give --lora_dim or --trained_budget"),
        ("--method dora", "--method dora needs a rank; give --lora_dim or --trained_budget"),
        ("--method lora+prefix_kv", "--method lora+prefix_kv needs a rank; give --lora_dim or --trained_budget"),
        ("--method lora+prefix_layer --trained_budget 300k", "--trained_budget 300k is less than the 344,064 parameters of 14"),
        ("--method dora --lora_dim 2 --lora_init pissa", "--lora_init pissa is LoRA's alone"),
        ("--method vera --lora_targets wte", "--lora_targets wte is LoRA's alone"),
        ("--method fourier --fourier_scale 0", "--fourier_scale must be greater than 0"),
        ("--method fourier --fourier_n 99999999", "--fourier_n must be from 1 to 1048576, the places of the smallest matrix"),
        ("--method lara", "--method must be one of lora, full, top2"),
        ("--method pissa", "--method must be one of lora, full, top2"),
    ],
)  # fmt: skip
def test_what_a_method_cannot_be_is_refused(flags, message):
    args = gpt2_ft.parser().parse_args(f"--train_data t --valid_data v --model_card gpt2.md {flags}".split())
    with pytest.raises(UserError) as error:
        methods.from_flags(args, CARDS["gpt2.md"])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--method vera --lora_dim 4", "--lora_dim would have no effect: --method vera does not read it"),
        ("--method full --lora_dim 4", "--lora_dim would have no effect: --method full does not read it"),
        ("--method bias --lora_alpha 4", "--lora_alpha would have no effect: --method bias does not read it"),
        ("--method top2 --trained_budget 1M", "--trained_budget would have no effect: --method top2 does not read it"),
        ("--lora_dim 4 --vera_dim 8", "--vera_dim would have no effect: --method lora does not read it"),
        ("--method prefix_kv --no_decay_bias", "--no_decay_bias would have no effect"),
        (
            "--method adapter_h --fourier_scale 2",
            "--fourier_scale would have no effect: --method adapter_h does not read it",
        ),
        (
            "--method fourier --lora_plus_ratio 2",
            "--lora_plus_ratio would have no effect: --method fourier does not read it",
        ),
        (
            "--method prefix_layer --precondition",
            "--precondition would have no effect: --method prefix_layer does not read it",
        ),
        ("--prefix_length 3", "--prefix_length would have no effect: --method full does not read it"),
    ],
)
def test_a_flag_of_another_method_is_refused(flags, message):
    args = gpt2_ft.parser().parse_args(f"--train_data t --valid_data v {flags}".split())
    with pytest.raises(UserError) as error:
        gpt2_ft.refuse_ignored(args)
    assert message in str(error.value)


# What it costs


WITH_STARTS = [*((name, "") for name in methods.CHOICES), ("lora", "--lora_init pissa")]
EVERYWHERE = "--lora_targets q,k,v,o,fc,proj"


@pytest.mark.parametrize(("name", "more"), WITH_STARTS)
def test_a_file_holds_what_was_predicted(name, more, tmp_path):
    """PiSSA's what it started as, too; the file adds its names."""
    model = trained(name, more)
    path = tmp_path / "adapter.safetensors"
    checkpoints.save_adapters(methods.adapter_tensors(model), path, model.trained_by)
    expected = cost_of(model).bytes_on_disk
    assert sum(tensor.numel() * tensor.element_size() for tensor in load_file(path).values()) == expected
    assert 0 < path.stat().st_size - expected < 10_000


@pytest.mark.parametrize(("name", "more"), [*WITH_STARTS, ("fourier", EVERYWHERE), ("dora", EVERYWHERE)])
def test_what_a_method_keeps_for_its_gradients_is_known_without_computing(name, more):
    """Beside what a CPU really keeps; torch's attention has another way there, hence a tenth or so."""
    model, kept = trained(name, more), {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.ones(3, 16, dtype=torch.int64))
    with torch.device("meta"):
        shapes = GPT2(toy.CONFIG).double()
    methods.attach(shapes, model.trained_by)
    assert needs.kept_by(shapes, 3, 16) == pytest.approx(sum(storage.nbytes() for storage in kept.values()), rel=0.2)


# One property: any method, of any size, anywhere


@st.composite
def settings_of(draw) -> tuple[str, str]:
    """A method and its flags."""
    name = draw(st.sampled_from(PUT_ON))
    size = draw(st.integers(1, 5))
    more = []
    if "prefix" in name:
        more.append(f"--prefix_length {size}")
    if "adapter" in name:
        more.append(f"--adapter_dim {size}")
    if name == "vera":
        more.append(f"--vera_dim {size}")
    if name == "fourier":
        more.append(f"--fourier_n {7 * size}")
    if "lora" in name or name in ("dora", "vera", "fourier"):
        targets = ["q", "k", "v", "o", "fc", "proj"] + (["wte"] if "lora" in name else [])
        chosen = draw(st.lists(st.sampled_from(targets), min_size=1, unique=True))
        more.append(f"--lora_targets {','.join(chosen)}")
        if chosen != ["wte"] and draw(st.booleans()):
            more.append("--lora_layers 1")
    if name == "lora" and draw(st.booleans()):
        more.append("--lora_init pissa")
    return name, " ".join(more)


@settings(deadline=None, max_examples=60)
@given(settings_of())
def test_every_method_all_the_way_through(drawn):
    name, more = drawn
    base, base_tensors = hidden(toy.model(0)), dict(toy.model(0).named_parameters())
    start = trained(name, more, moved=False)
    assert "prefix" in name or (hidden(start) - base).abs().max() < TOLERANCE

    model = trained(name, more)
    for parameter_name, tensor in model.named_parameters():
        if not parameter_name.startswith("prefix") and parameter_name in base_tensors:
            assert torch.equal(tensor, base_tensors[parameter_name])  # the base is never written to

    batch = collate([[example] for example in toy.examples(4)], 64, "clm")
    masked_loss(model, batch).backward()
    own = methods.adapter_tensors(model)
    learnt = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n, p in model.named_parameters() if p.grad is not None} == learnt <= set(own)
    assert cost_of(model).trained == model.trained_by.n_parameters(toy.CONFIG)

    apart = hidden(model)
    assert (apart - base).abs().max() > 1e-6
    other = toy.model(0)
    methods.attach(other, model.trained_by)
    with torch.no_grad():
        for tensor_name, tensor in methods.adapter_tensors(other).items():
            tensor.copy_(own[tensor_name])
    assert torch.equal(hidden(other), apart)

    methods.merge_adapters(model)
    assert (hidden(model) - apart).abs().max() < TOLERANCE
    left = model.trained_by
    assert (left is None) != ("prefix" in name or "adapter" in name)
    assert left is not None or set(dict(model.named_parameters())) == set(base_tensors)


# Batches


@pytest.mark.parametrize("name", PUT_ON)
def test_packed_padded_and_shared_rows_give_the_same_loss(name):
    model, examples = trained(name), toy.examples(6)
    with torch.no_grad():
        packed = collate([[example] for example in examples], 64, "clm")
        loss = masked_loss(model, packed)
        each = [masked_loss(model, collate([[example]], 64, "clm")) for example in examples]
        weights = torch.tensor([float(len(example.completion)) for example in examples]).double()
        alone = (torch.stack(each) * (weights + 1e-4)).sum() / (weights.sum() + 1e-4)
        assert abs(loss - alone) < TOLERANCE
        assert abs(masked_loss(model, packed.fill_up(32)) - loss) < TOLERANCE

        context = examples[0].context
        same = [replace(example, context=context) for example in examples[:3]]
        rows = make_rows(same, share_prompts=True)
        assert len(rows) == 1
        shared, apart = collate(rows, 64, "clm"), collate([[example] for example in same], 64, "clm")
        assert abs(masked_loss(model, shared) - masked_loss(model, apart)) < TOLERANCE


@pytest.mark.parametrize("name", PUT_ON)
def test_a_beam_finds_what_a_search_without_a_cache_finds(name):
    """The cache holds the prefix; the whole sequence is computed anew at each step here, greedily."""
    model = trained(name).eval()
    rules = toy.beam_config(dict(beam=1, eval_len=6, min_length=0, length_penalty=1.0, no_repeat_ngram_size=0,
                                 repetition_penalty=1.0, eos_token_id=[]))  # fmt: skip
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8]]
    found = beam_search(model, prompts, rules)
    for prompt, ids in zip(prompts, found, strict=True):
        sequence = list(prompt)
        with torch.no_grad():
            for _ in range(6):
                sequence.append(int(model.logits(model(torch.tensor([sequence])))[0, -1].argmax()))
        assert sequence[len(prompt) :] == ids


# Against dense formulas, written anew


def block_by_hand(weights: dict, layer: int, x: torch.Tensor, change, before=None) -> torch.Tensor:
    """One block of one row x (T, C): `change(name, y)` is what a method makes of a matrix's outputs; `before` keys, values."""
    C, H = toy.CONFIG.n_embd, toy.CONFIG.n_head

    def norm(name, h):
        w, b = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return (h - h.mean(-1, keepdim=True)) / (h.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * w + b

    def matrix(name, h):
        return change(f"h.{layer}.{name}", h @ weights[f"h.{layer}.{name}.weight"] + weights[f"h.{layer}.{name}.bias"])

    q, k, v = matrix("attn.c_attn", norm(f"h.{layer}.ln_1", x)).split(C, -1)
    n = 0 if before is None else len(before[0])
    if before is not None:
        k, v = torch.cat((before[0], k)), torch.cat((before[1], v))
    heads = []
    for head in range(H):
        part = slice(head * C // H, (head + 1) * C // H)
        scores = q[:, part] @ k[:, part].T / (C // H) ** 0.5
        hidden_from = torch.tensor([[j > i + n for j in range(len(k))] for i in range(len(x))])
        heads.append(scores.masked_fill(hidden_from, -torch.inf).softmax(-1) @ v[:, part])
    x = x + matrix("attn.c_proj", torch.cat(heads, -1))
    inner = matrix("mlp.c_fc", norm(f"h.{layer}.ln_2", x))
    gelu = 0.5 * inner * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (inner + 0.044715 * inner**3)))
    return x + matrix("mlp.c_proj", change(f"h.{layer}.mlp.inner", gelu))


def by_hand(
    weights, change=lambda name, y: y, before=lambda layer: None, after=lambda layer, x: x, shift=0
) -> torch.Tensor:
    """The states before the last norm of the row 1 … 9."""
    x = weights["wte.weight"][1:10] + weights["wpe.weight"][shift : shift + 9]
    for layer in range(toy.CONFIG.n_layer):
        x = after(layer, block_by_hand(weights, layer, x, change, before(layer)))
    return torch.nn.functional.layer_norm(x, x.shape[-1:], weights["ln_f.weight"], weights["ln_f.bias"])


def assert_equal_by_hand(model: GPT2, **parts) -> None:
    weights = {**toy.tensors(0), **parts.pop("weights", {})}
    with torch.no_grad():
        assert (hidden(model)[0] - by_hand(weights, **parts)).abs().max() < TOLERANCE


def test_prefix_layer_is_its_definition():
    """Keys and values of each layer come from its trained vectors by the frozen norm and matrix; tokens' positions come after."""
    model = trained("prefix_layer", "--prefix_length 3")
    weights, C = toy.tensors(0), toy.CONFIG.n_embd

    def before(layer):
        vectors = model.prefix.layer[layer]
        h = torch.nn.functional.layer_norm(
            vectors, (C,), weights[f"h.{layer}.ln_1.weight"], weights[f"h.{layer}.ln_1.bias"]
        )
        qkv = h @ weights[f"h.{layer}.attn.c_attn.weight"] + weights[f"h.{layer}.attn.c_attn.bias"]
        return qkv[:, C : 2 * C], qkv[:, 2 * C :]

    assert_equal_by_hand(model, before=before, shift=3)


def test_prefix_kv_is_its_definition():
    model = trained("prefix_kv", "--prefix_length 3")
    assert_equal_by_hand(model, before=lambda layer: tuple(model.prefix.kv[layer]), shift=3)


def test_prefix_embed_is_l_more_tokens():
    model, base = trained("prefix_embed", "--prefix_length 3"), toy.model(0)
    with torch.no_grad():
        base.wte.weight[100:103] = model.prefix.embed
        whole = base(torch.tensor([[100, 101, 102, *range(1, 10)]]))
    assert (hidden(model) - whole[:, 3:]).abs().max() < TOLERANCE


def test_adapter_h_is_its_definition():
    """After the attention's projection and after the MLP, each before the residual sum."""
    model = trained("adapter_h", "--adapter_dim 3")
    own = methods.adapter_tensors(model)

    def change(name, y):
        if not name.endswith("c_proj"):
            return y
        down, up = (
            (own[f"{name}.adapter_h.{part}_weight"], own[f"{name}.adapter_h.{part}_bias"]) for part in ("down", "up")
        )
        return y + (y @ down[0].T + down[1]).clamp(min=0) @ up[0].T + up[1]

    assert_equal_by_hand(model, change=change)


def test_adapter_l_is_its_definition():
    """Once a block, at its end, on a layer norm of its own."""
    model = trained("adapter_l", "--adapter_dim 3")
    own = methods.adapter_tensors(model)

    def after(layer, x):
        part = {name.rpartition("adapter_l.")[2]: t for name, t in own.items() if name.startswith(f"h.{layer}.")}
        h = torch.nn.functional.layer_norm(x, x.shape[-1:], part["ln.weight"], part["ln.bias"])
        return x + (h @ part["down_weight"].T + part["down_bias"]).clamp(min=0) @ part["up_weight"].T + part["up_bias"]

    assert_equal_by_hand(model, after=after)


@pytest.mark.parametrize("name", ["bias", "top2"])
def test_a_part_of_the_base_is_its_definition(name):
    model = trained(name)
    own = {
        n.replace("trained_bias", "bias").replace(".trained.", "."): t
        for n, t in methods.adapter_tensors(model).items()
    }
    assert set(own) == {n for n in toy.tensors(0) if (n.endswith("bias") if name == "bias" else n.startswith("h."))}
    assert_equal_by_hand(model, weights=own)


def test_fourier_is_its_definition():
    """Of the whole spectrum's inverse FFT, in float64, for a matrix that is square and one that is not; the gradient by autograd."""
    for target, module, n_in, n_out in (
        ("v", "attn.c_attn", 32, 32),
        ("fc", "mlp.c_fc", 32, 128),
        ("proj", "mlp.c_proj", 128, 32),
    ):
        model = trained("fourier", f"--fourier_n 60 --lora_targets {target} --fourier_scale 7")
        places = torch.randperm(n_in * n_out, generator=torch.Generator().manual_seed(777))[:60]
        changed = toy.model(0)
        coefficients = {}
        for layer in range(toy.CONFIG.n_layer):
            c = methods.adapter_tensors(model)[f"h.{layer}.{module}.fourier_c"][0].detach().clone().requires_grad_()
            S = torch.zeros(n_out * n_in, dtype=torch.float64).index_put((places,), c).view(n_out, n_in)
            delta = 7 * torch.fft.ifft2(S).real.T
            owner, attribute = module.split(".")
            conv = getattr(getattr(changed.h[layer], owner), attribute)
            columns = slice(64, 96) if target == "v" else slice(0, n_out)
            weight = conv.weight.detach().clone()
            weight[:, columns] = weight[:, columns] + delta
            del conv.weight
            conv.weight = weight
            coefficients[layer] = c
        ours, theirs = model(torch.arange(1, 10).unsqueeze(0)), changed(torch.arange(1, 10).unsqueeze(0))
        assert (ours - theirs).abs().max() < TOLERANCE
        ours.square().sum().backward()
        theirs.square().sum().backward()
        for layer, c in coefficients.items():
            gradient = dict(model.named_parameters())[f"h.{layer}.{module}.fourier_c"].grad[0]
            assert (gradient - c.grad).abs().max() < TOLERANCE


def test_pissa_starts_with_the_first_singular_vectors():
    """scale · B A is the best matrix of rank R there is, so that what W keeps has its other singular values."""
    model = trained("lora", "--lora_init pissa --lora_targets o", moved=False)
    conv = model.h[0].attn.c_proj
    with torch.no_grad():
        part = 4 * conv.lora_B @ conv.lora_A  # alpha 8, rank 2
        all_values = torch.linalg.svdvals(conv.weight)
        assert torch.allclose(torch.linalg.svdvals(part)[:2], all_values[:2])
        assert torch.allclose(torch.linalg.svdvals(conv.weight.T - part)[:-2], all_values[2:])
        assert torch.allclose(conv.lora_A @ conv.lora_A.T, conv.lora_B.T @ conv.lora_B)  # √S on either side


@toy.on_every_device
@pytest.mark.parametrize("name", PUT_ON)
def test_every_method_is_the_same_on_every_device(name, device):
    """Moved there, and put on a base that is there already, as gpt2_beam.py does."""
    model, batch = trained(name), collate([[example] for example in toy.examples(4)], 64, "clm")
    config, tensors = model.trained_by, {n: t.detach().clone() for n, t in methods.adapter_tensors(model).items()}
    with torch.no_grad():
        expected = masked_loss(model, batch)
        moved = masked_loss(model.to(device), batch.to(torch.device(device)))
        base = toy.model(0).to(device)
        for merge in (False, True):
            switch.Switch(base).put_on(config, tensors, merge)
            there = masked_loss(base, batch.to(torch.device(device)))
            assert abs(there.cpu() - expected) < TOLERANCE
            base = toy.model(0).to(device)
    assert abs(moved.cpu() - expected) < TOLERANCE
