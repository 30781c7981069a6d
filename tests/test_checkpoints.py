"""Every file form that is read, and the refusal to fill a model silently."""

import pickle
import resource

import pytest
import torch
from safetensors.torch import save_file

import toy
from lora_nlg.config import CARDS, GPT2_VOCAB_SIZE, ModelConfig
from lora_nlg.errors import UserError
from lora_nlg.methods import adapter_tensors, add_adapters
from lora_nlg.methods.placement import Given
from lora_nlg.model.drawn_rows import drawn_rows
from lora_nlg.model.gpt2 import empty_model, init_weights
from lora_nlg.storage import checkpoints, compact, hub, models

GENERATOR = torch.Generator()


def load(path, config=toy.CONFIG):
    return models.base_model(config, str(path), GENERATOR, "fp64")


def assert_is_the_toy(model):
    expected = toy.tensors(0)
    assert all(torch.equal(parameter, expected[name]) for name, parameter in model.named_parameters())


def hub_extras() -> dict[str, torch.Tensor]:
    """What Hugging Face's own files hold besides the weights."""
    extras = {f"h.{i}.attn.bias": torch.ones(1, 1, 8, 8).tril() for i in range(2)}
    return {**extras, "h.0.attn.masked_bias": torch.tensor(-1e4)}


def save_whole(path, weights):
    """What the recipe writes at the end of an epoch: base and adapters in one file, without alpha."""
    torch.save({"model_state_dict": {f"module.transformer.{name}": tensor for name, tensor in weights.items()}}, path)


@pytest.mark.parametrize("prefix", ["", "transformer.", "module.transformer."])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "folder"])
def test_base_files(tmp_path, prefix, name):
    """Seen to fail with `transformer.` left on the names."""
    tensors = {prefix + key: t for key, t in {**toy.tensors(0), **hub_extras()}.items()}
    tensors["lm_head.weight"] = tensors[f"{prefix}wte.weight"].clone()
    if name == "pytorch_model.bin":
        torch.save(tensors, tmp_path / name)
    else:
        save_file(tensors, tmp_path / "model.safetensors")
    assert_is_the_toy(load(tmp_path if name == "folder" else tmp_path / name))


def test_a_file_of_the_old_format_of_torch_save(tmp_path):
    torch.save(toy.tensors(0), tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert_is_the_toy(load(tmp_path / "old.bin"))


def test_what_training_saves_can_be_decoded(tmp_path):
    full, adapted = toy.model(0), toy.model(4)
    checkpoints.save_recipe(full, tmp_path / "full.pt")
    checkpoints.save_recipe(adapted, tmp_path / "lora.pt")
    assert_is_the_toy(load(tmp_path / "full.pt"))
    adapters = checkpoints.read(tmp_path / "lora.pt")
    assert set(adapters.tensors) == {name for name in toy.tensors(4) if "lora_" in name}
    assert adapters.adapter_config(Given(0, None)) == adapted.h[0].attn.c_attn.config
    other = toy.model(4, b_is_zero=True)
    models.load_adapters(other, adapters)
    assert torch.equal(other.h[1].attn.c_attn.lora_B, adapted.h[1].attn.c_attn.lora_B)


def test_adapters_out_of_a_whole_checkpoint_of_the_recipe(tmp_path):
    """Seen to fail with `module.` left on the names."""
    save_whole(tmp_path / "whole.pt", toy.tensors(4))
    model = toy.model(4, b_is_zero=True)
    models.load_adapters(model, checkpoints.read(tmp_path / "whole.pt"))
    expected = {name: tensor for name, tensor in toy.tensors(4).items() if ".lora_" in name}
    assert len(expected) == 4
    assert all(torch.equal(tensor, expected[name]) for name, tensor in adapter_tensors(model).items())


def test_the_compact_base_comes_back_with_drawn_rows_for_all_other_tokens(tmp_path):
    used = torch.tensor([3, 262, 50256])
    small = empty_model(ModelConfig(n_embd=32, n_layer=1, n_head=2, n_positions=16, vocab_size=3))
    init_weights(small, torch.Generator().manual_seed(1))
    compact.save(small, used, seed=7, entry=0.06, path=tmp_path / hub.COMPACT_FILE)
    full = load(tmp_path, ModelConfig(n_embd=32, n_layer=1, n_head=2, n_positions=16))
    expected = drawn_rows(GPT2_VOCAB_SIZE, 32, seed=7, entry=0.06).half().double()
    expected[used] = small.wte.weight.detach().half().double()
    assert torch.equal(full.wte.weight, expected)
    assert torch.equal(full.h[0].mlp.c_fc.weight, small.h[0].mlp.c_fc.weight.half().double())


def test_a_whole_checkpoint_needs_no_base(tmp_path):
    save_whole(tmp_path / "whole.pt", toy.tensors(4))
    whole = checkpoints.read(tmp_path / "whole.pt")
    model = models.base_model(toy.CONFIG, None, GENERATOR, "fp64", whole)
    assert_is_the_toy(model)
    add_adapters(model, whole.adapter_config(Given(4, 32)))
    models.load_adapters(model, whole)
    assert torch.equal(model.h[0].attn.c_attn.lora_B, toy.tensors(4)["h.0.attn.c_attn.lora_B"])


def test_a_whole_checkpoint_is_no_base_and_says_where_it_goes(tmp_path):
    save_whole(tmp_path / "whole.pt", toy.tensors(4))
    with pytest.raises(UserError, match="pass it as --lora_checkpoint, and leave --init_checkpoint out"):
        load(tmp_path / "whole.pt")


def test_a_whole_checkpoint_beside_another_base_is_refused(tmp_path):
    weights = toy.tensors(4)
    weights["h.1.mlp.c_fc.bias"] = weights["h.1.mlp.c_fc.bias"] + 1e-3
    save_whole(tmp_path / "whole.pt", weights)
    with pytest.raises(UserError, match=r"another base than the one given \(h.1.mlp.c_fc.bias differs\)"):
        models.load_adapters(toy.model(4), checkpoints.read(tmp_path / "whole.pt"))


def test_adapters_of_another_base_are_refused(tmp_path):
    """The recipe would go on and score low without a word."""
    base = checkpoints.Base("gpt2.toy", models.fingerprint(toy.model(4)))
    checkpoints.save_recipe(toy.model(4), tmp_path / "lora.pt", base, step=14)
    adapters = checkpoints.read(tmp_path / "lora.pt")
    assert (adapters.base, adapters.step) == (base, 14)
    model = toy.model(4)
    models.load_adapters(model, adapters)
    with torch.no_grad():
        model.h[1].ln_1.bias[0] += 1e-3
    with pytest.raises(UserError, match=r"another base \(gpt2.toy, weights .* pass that base as --init_checkpoint"):
        models.load_adapters(model, adapters)


def test_a_bases_fingerprint_does_not_depend_on_its_file_or_its_adapters(tmp_path):
    torch.save(
        {f"transformer.{name}": tensor.float() for name, tensor in toy.tensors(0).items()}, tmp_path / "base.bin"
    )
    single = models.base_model(toy.CONFIG, str(tmp_path / "base.bin"), GENERATOR)
    assert models.fingerprint(single) == models.fingerprint(toy.model(0)) == models.fingerprint(toy.model(4))
    single.wpe.weight.data[0, 0] += 1
    assert models.fingerprint(single) != models.fingerprint(toy.model(0))


def test_adapters_without_a_base_say_what_to_pass(tmp_path):
    checkpoints.save_recipe(toy.model(4), tmp_path / "lora.pt")
    with pytest.raises(UserError, match=r"lora.pt holds adapters only; pass the base they were trained on"):
        models.base_model(toy.CONFIG, None, GENERATOR, adapters=checkpoints.read(tmp_path / "lora.pt"))


def test_the_shape_of_the_released_adapters(tmp_path):
    """gpt2_md_lora_e2e.pt: 24 layers of (8, 1024) and (2048, 4), 393 216 float32 numbers, 1.5 MB, no alpha.

    Seen to fail with the rank taken from the wrong side of B.
    """
    shapes = {"lora_A": (8, 1024), "lora_B": (2048, 4)}
    released = {f"h.{i}.attn.c_attn.{name}": torch.rand(shape) for i in range(24) for name, shape in shapes.items()}
    save_whole(tmp_path / "released.pt", released)
    adapters = checkpoints.read(tmp_path / "released.pt")
    model = empty_model(CARDS["gpt2.md"], torch.float32)
    add_adapters(model, adapters.adapter_config(Given(4, 32)))
    models.load_adapters(model, adapters)
    assert all(torch.equal(tensor, released[name]) for name, tensor in adapter_tensors(model).items())
    assert (tmp_path / "released.pt").stat().st_size == pytest.approx(1.6e6, rel=0.05)
    with pytest.raises(UserError, match=r"check --model_card and --lora_dim\): h.2.attn.c_attn.lora_A is not a part"):
        models.load_adapters(toy.model(4), adapters)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("h.1.mlp.c_fc.bias"), "h.1.mlp.c_fc.bias is missing"),
        (lambda t: t.update({"h.2.ln_1.bias": torch.zeros(32)}), "h.2.ln_1.bias is not a part of this model"),
        (lambda t: t.update({"wpe.weight": torch.zeros(7, 32)}), "wpe.weight is (7, 32), not (1024, 32)"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path, change, words):
    tensors = toy.tensors(0)
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert words in str(error.value)


def test_a_lora_only_file_is_no_base(tmp_path):
    """The recipe would go on with a random base and score 0."""
    checkpoints.save_recipe(toy.model(4), tmp_path / "lora.pt")
    with pytest.raises(UserError, match="pass it as --lora_checkpoint"):
        load(tmp_path / "lora.pt")


def test_a_base_is_no_adapter(tmp_path):
    save_file(toy.tensors(0), tmp_path / "base.safetensors")
    base = checkpoints.read(tmp_path / "base.safetensors")
    with pytest.raises(UserError, match="holds no LoRA adapters"):
        models.load_adapters(toy.model(4), base)
    with pytest.raises(UserError, match="holds no LoRA adapters"):
        base.adapter_config(Given(4, 32))


def test_rank_and_alpha_are_checked_against_the_file(tmp_path):
    checkpoints.save_recipe(toy.model(4), tmp_path / "lora.pt")
    adapters = checkpoints.read(tmp_path / "lora.pt")
    with pytest.raises(UserError, match="rank 4, not 8"):
        adapters.adapter_config(Given(8, None))
    with pytest.raises(UserError, match="alpha 32, not 128"):
        adapters.adapter_config(Given(4, 128))
    unsaid = checkpoints.Checkpoint(adapters.path, adapters.tensors)
    with pytest.raises(UserError, match="does not say its alpha"):
        unsaid.adapter_config(Given(4, None))
    assert unsaid.adapter_config(Given(4, 16)).alpha == 16


def test_no_source_is_an_error_and_random_must_be_said():
    with pytest.raises(UserError, match="--init_checkpoint is missing"):
        models.base_model(toy.CONFIG, None, GENERATOR)
    first, second = (
        models.base_model(toy.CONFIG, "random", torch.Generator().manual_seed(seed)).wte.weight for seed in (1, 1)
    )
    assert torch.equal(first, second)


class Malicious:
    def __reduce__(self):
        return (open, ("/tmp/should-never-exist", "w"))


@pytest.mark.parametrize(
    "name", ["empty.bin", "junk.pt", "junk.safetensors", "cut.safetensors", "cut.pt", "evil.pt", "list.pt"]
)
def test_damaged_and_dangerous_files_are_refused(tmp_path, name):
    path = tmp_path / name
    match name:
        case "empty.bin":
            path.touch()
        case "junk.pt" | "junk.safetensors":
            path.write_bytes(bytes(range(256)) * 8)
        case "cut.safetensors":
            save_file(toy.tensors(0), path)
            path.write_bytes(path.read_bytes()[:-1000])
        case "cut.pt":
            torch.save(toy.tensors(0), path)
            path.write_bytes(path.read_bytes()[:-1000])
        case "evil.pt":
            path.write_bytes(pickle.dumps(Malicious()))
        case "list.pt":
            torch.save([1, 2], path)
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        checkpoints.read(path)


def test_a_full_disk_leaves_the_earlier_checkpoint_and_one_sentence(tmp_path):
    path = tmp_path / "model.pt"
    checkpoints.save_recipe(toy.model(4), path)
    before = path.read_bytes()
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, unlimited[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*model\.pt: not all of it .* free space"):
            checkpoints.save_recipe(toy.model(0), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_and_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        checkpoints.read(tmp_path / "nothing.pt")
    with pytest.raises(UserError, match=r"has none of model.safetensors, pytorch_model.bin"):
        checkpoints.read(tmp_path)
