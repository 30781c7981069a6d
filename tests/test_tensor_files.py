"""Files of weights in every form and state: the right numbers, or one sentence. Never a traceback, never other numbers."""

import json
import random
import re
import signal
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import runs
import toy
from lora_nlg import errors, files
from lora_nlg.config import ModelConfig
from lora_nlg.errors import UserError
from lora_nlg.methods.placement import Given, LoraConfig
from lora_nlg.model.gpt2 import empty_model
from lora_nlg.storage import checkpoints, models, tensor_files

SMALL = ModelConfig(n_embd=4, n_layer=1, n_head=2, n_positions=3, vocab_size=5)
GENERATOR = torch.Generator()
N_DAMAGED = 400  # of each form


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn(parameter.shape) for name, parameter in empty_model(SMALL).named_parameters()}


def load(path: Path, precision: str = "fp32") -> dict[str, torch.Tensor]:
    return dict(models.base_model(SMALL, str(path), GENERATOR, precision).named_parameters())


def is_right(path: Path) -> bool:
    expected = weights()
    return all(torch.equal(parameter, expected[name]) for name, parameter in load(path).items())


def zip_again(path: Path, compression: int = zipfile.ZIP_DEFLATED) -> None:
    """As an archiver does with the folder that was unzipped."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def write(folder: Path, form: str) -> Path:
    """Write the weights in a form: pt, legacy, safetensors, deflated, bzip2 or lzma."""
    path = folder / ("model.safetensors" if form == "safetensors" else "model.pt")
    if form == "safetensors":
        save_file(weights(), path)
    else:
        torch.save(weights(), path, _use_new_zipfile_serialization=form != "legacy")
    compressions = {"deflated": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}
    if form in compressions:
        zip_again(path, compressions[form])
    return path


@pytest.mark.parametrize("form", ["pt", "legacy", "safetensors", "deflated", "bzip2", "lzma"])
def test_every_form_gives_the_numbers(tmp_path, form):
    """Fails when a compressed archive is mapped into memory: its compressed bytes are then read as numbers."""
    assert is_right(write(tmp_path, form))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "has_checksums"), [("pt", True), ("deflated", True), ("safetensors", False), ("legacy", False)]
)
def test_flipped_bytes_give_the_numbers_or_a_sentence(tmp_path, form, has_checksums):
    """Fails when torch's own reader is trusted: it looks at no checksum, and takes what it cannot unpack from unset memory.

    Where a form has no checksum only what describes the numbers is damaged, or no more is asked than that nothing is raised.
    """
    path = write(tmp_path, form)
    good = path.read_bytes()
    described = 8 + int.from_bytes(good[:8], "little") if form == "safetensors" else len(good)
    refused = 0
    for seed in range(N_DAMAGED):
        rng, damaged = random.Random(seed), bytearray(good)
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            damaged[rng.randrange(described)] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged[: rng.randrange(len(good))] if rng.random() < 0.1 else damaged)
        try:
            assert is_right(path) or not (has_checksums or form == "safetensors"), f"seed {seed}"
        except UserError:
            refused += 1
    assert N_DAMAGED / 5 < refused


def test_a_signal_within_a_file_is_no_damage(tmp_path, monkeypatch):
    """Fails when whatever is raised is taken for the file's fault."""
    path = write(tmp_path, "pt")

    def stop(*args, **named):
        raise errors.Stopped(signal.SIGTERM, "")

    monkeypatch.setattr(torch, "load", stop)
    with pytest.raises(errors.Stopped):
        tensor_files.load(path)


def test_an_entry_that_is_there_twice_is_refused(tmp_path):
    path = write(tmp_path, "pt")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(next(name for name in archive.namelist() if name.endswith("data/0")), b"\0" * 80)
    with pytest.raises(UserError, match="holds an entry twice"):
        load(path)


# Tensors that are none, or other than they look


class Odd(torch.Tensor):
    """A subclass, whose numbers could mean anything."""


def quantised(tensor):
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


REFUSED = {
    "sparse": (lambda t: t.to_sparse(), "torch.sparse_coo|damaged"),
    "compressed sparse": (lambda t: t.to_sparse_csr(), "torch.sparse_csr|damaged"),
    "quantised": (quantised, "quantised|damaged"),
    "nested": (lambda t: torch.nested.nested_tensor([t, t]), "nested|damaged"),
    "without numbers": (lambda t: t.to("meta"), "on the device meta"),
    "complex": (lambda t: torch.complex(t, t), "torch.complex64"),
    "complex half": (lambda t: torch.complex(t, t).to(torch.complex32), "torch.complex32"),
    "boolean": (lambda t: t > 0, "torch.bool"),
    "bytes": (lambda t: t.to(torch.uint8), "torch.uint8"),
    "fp8": (lambda t: t.to(torch.float8_e4m3fn), "torch.float8_e4m3fn"),
    "fp8 of range": (lambda t: t.to(torch.float8_e5m2), "torch.float8_e5m2"),
    "fp4": (lambda t: t.to(torch.uint8).view(torch.float4_e2m1fn_x2), "torch.float4_e2m1fn_x2|damaged"),
    "bits": (lambda t: t.view(torch.bits16), "torch.bits16|damaged"),
    "whole numbers": (lambda t: t.long(), "is torch.int64, not floating point"),
    "subclass": (lambda t: t.as_subclass(Odd), "damaged"),
    "one number": (lambda t: t.flatten()[0].clone(), r"of the shape \(\)"),
    "no number": (lambda t: t[:0].clone(), r"of the shape \(0, 4\)"),
    "not a number": (lambda t: t * float("nan"), "no numbers in torch.float32"),
    "infinite": (lambda t: t * float("inf"), "no numbers in torch.float32"),
    "too large for float32": (lambda t: t.double() * 1e300, "no numbers in torch.float32"),
    "of another shape": (lambda t: t.repeat(2, 1), r"wpe.weight is \(6, 4\), not \(3, 4\)"),
}
TAKEN = {
    "strided": lambda t: torch.stack([t, t * 2], -1).flatten(1)[:, ::2],
    "transposed": lambda t: t.T.contiguous().T,
    "expanded": lambda t: t[:1].expand(3, -1),
    "a view of a larger storage": lambda t: torch.cat([t, t, t])[3:6],
    "a parameter": nn.Parameter,
    "float64": torch.Tensor.double,
    "bfloat16": lambda t: t.to(torch.bfloat16),
    "float16": torch.Tensor.half,
}


def in_forms(cases):
    return [(kind, suffix) for kind in cases for suffix in (".pt", ".safetensors")]


def save(tensors: dict, path: Path) -> None:
    """Write tensors; skip what the library cannot write."""
    try:
        save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    except (ValueError, RuntimeError, KeyError, NotImplementedError, AttributeError) as error:
        pytest.skip(f"cannot be written as {path.suffix}: {error}")


@pytest.mark.parametrize(("kind", "suffix"), in_forms(REFUSED))
def test_what_is_no_plain_tensor_is_refused_by_name(tmp_path, kind, suffix):
    """Fails with a traceback, or reads numbers that are none, without `_fault` and `_fault_of_weights`."""
    change, words = REFUSED[kind]
    path = tmp_path / f"model{suffix}"
    if (kind, suffix) == ("subclass", ".safetensors"):
        pytest.skip("safetensors writes its numbers alone")
    save(weights() | {"wpe.weight": change(weights()["wpe.weight"])}, path)
    with pytest.raises(UserError) as error:
        load(path)
    assert re.search(words, str(error.value)), error.value
    assert "wpe.weight" in str(error.value) or "damaged" in str(error.value)


@pytest.mark.parametrize(("kind", "suffix"), in_forms(TAKEN))
def test_a_plain_tensor_of_any_layout_and_precision_is_read(tmp_path, kind, suffix):
    tensor = TAKEN[kind](weights()["wpe.weight"])
    path = tmp_path / f"model{suffix}"
    save(weights() | {"wpe.weight": tensor.contiguous() if suffix == ".safetensors" else tensor}, path)
    assert torch.equal(load(path, "fp64")["wpe.weight"], tensor.double())


def test_tensors_that_share_their_numbers_are_read(tmp_path):
    tied = {name: torch.zeros(4) for name in weights() if name.endswith(("ln_1.bias", "ln_2.bias", "ln_f.bias"))}
    shared = torch.arange(4.0)
    torch.save(weights() | dict.fromkeys(tied, shared), tmp_path / "model.pt")
    found = load(tmp_path / "model.pt")
    assert len(tied) == 3 and all(torch.equal(found[name], shared) for name in tied)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({1: torch.ones(2)}, "something else"),
        ({("h", 0): torch.ones(2)}, "something else"),
        ({"": torch.ones(2)}, " is not a part of this model"),
        ({"a\x1b[2J\nb": torch.ones(2)}, "a\x1b\\[2J\nb is not a part of this model"),
        ({"": torch.ones(2) > 0}, "holds a tensor without a name, which is torch.bool"),
        ({"wte.weight": [torch.ones(2)]}, "something else"),
        ({"model_state_dict": [torch.ones(2)]}, "something else"),
        ({"model_state_dict": {"h": {"0": torch.ones(2)}}}, "something else"),
        ([torch.ones(2)], "it holds a list"),
        (torch.ones(2), "it holds a Tensor"),
    ],
    ids=str,
)
def test_foreign_content_is_refused(tmp_path, content, words):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(UserError, match=words):
        load(tmp_path / "model.pt")


# Half precision, and what merging makes


@pytest.mark.parametrize(
    ("precision", "largest", "words"),
    [("fp16", 1e5, "no numbers in torch.float16"), ("bf16", 3.4e38, "no numbers in torch.bfloat16"), ("fp16", 6e4, None),
     ("bf16", 1e38, None), ("fp32", 3.4e38, None)],
)  # fmt: skip
def test_weights_beyond_half_precision_are_refused_with_it(tmp_path, precision, largest, words):
    """Fails, with infinities in every product, when they are checked as float32 alone."""
    tensors = weights()
    tensors["h.0.mlp.c_fc.weight"][0, 0] = largest
    save_file(tensors, tmp_path / "model.safetensors")
    if words is None:
        load(tmp_path / "model.safetensors", precision)
    else:
        with pytest.raises(UserError, match=f"h.0.mlp.c_fc.weight .*{words}.*--precision fp32"):
            load(tmp_path / "model.safetensors", precision)


@pytest.mark.parametrize(
    ("alpha", "B", "precision", "is_refused"),
    [(1e38, 1e3, "fp32", True), (1e38, 0.1, "fp32", False), (32, 2e37, "fp32", True), (32, 1e5, "fp16", True),
     (32, 1e5, "bf16", False), (1e38, 1e3, "fp64", False)],
)  # fmt: skip
def test_what_merging_makes_is_checked(tmp_path, alpha, B, precision, is_refused):
    """W, A and B are numbers, and so is alpha; W + alpha / R · B A is none. Fails when only they are checked."""
    runs.write_model(tmp_path)
    tensors = {name: t * 0 + (B if "lora_B" in name else 1.0) for name, t in runs.adapters().items()}
    checkpoints.save_adapters(tensors, tmp_path / "adapter.safetensors", LoraConfig(4, alpha))
    source = str(tmp_path / "base.safetensors")

    def merge():
        models.merged_model(toy.CONFIG, source, tmp_path / "adapter.safetensors", Given(), precision)

    if not is_refused:
        merge()
        return
    with pytest.raises(
        UserError, match=r"adapter.safetensors, merged into h.0.attn.c_attn has values .* no numbers in"
    ):
        merge()


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_adapters_that_are_no_numbers_are_never_exported(tmp_path, value):
    """No model is filled from them on that way."""
    tensors = runs.adapters()
    tensors["h.1.attn.c_attn.lora_B"][5, 2] = value
    checkpoints.save_adapters(tensors, tmp_path / "adapter.safetensors", LoraConfig(4, 32))
    adapters = checkpoints.read(tmp_path / "adapter.safetensors")
    with pytest.raises(UserError, match=r"h.1.attn.c_attn.lora_B has values that are no numbers"):
        adapters.adapters()
    with pytest.raises(UserError, match="no numbers"):
        checkpoints.save_peft(tensors, tmp_path / "peft", LoraConfig(4, 32.0), None)


# Names: wrappers, heads, masks


@pytest.mark.parametrize(
    "prefix",
    ["module.module.", "_orig_mod.module.transformer.", "module._orig_mod.", "base_model.model.transformer.", "model.",
     "_forward_module.model._orig_mod.transformer.", "_fsdp_wrapped_module.transformer."],
)  # fmt: skip
def test_the_names_of_wrappers_are_taken_off(tmp_path, prefix):
    tensors = {prefix + name.replace("h.0.", "h.0._orig_mod."): tensor for name, tensor in weights().items()}
    tensors["module.lm_head.weight"] = weights()["wte.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    assert is_right(tmp_path / "model.safetensors")


def test_an_unknown_wrapper_is_named(tmp_path):
    save_file({f"net.gpt.{name}": tensor for name, tensor in weights().items()}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"calls a tensor net\.gpt\.\S+; expected GPT-2's names, after any of module"):
        load(tmp_path / "model.safetensors")


def test_a_tensor_under_two_wrappers_is_refused(tmp_path):
    """Fails when the last one wins."""
    save_file({**weights(), "module.wpe.weight": torch.zeros(3, 4)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"holds wpe\.weight twice"):
        load(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "name",
    ["lm_head.weight", "lm_head.decoder.weight", "transformer.lm_head.weight", "_orig_mod.module.lm_head.weight"],
)
def test_a_head_of_its_own_is_refused(tmp_path, name):
    """Fails when it is dropped as if it were the embedding: the logits are then another model's."""
    wte = weights()["wte.weight"]
    save_file({**weights(), name: wte.clone()}, tmp_path / "tied.safetensors")
    assert is_right(tmp_path / "tied.safetensors")
    for head in (wte + 1e-3, wte[:4].clone(), torch.cat([wte, wte])):
        save_file({**weights(), name: head}, tmp_path / "model.safetensors")
        with pytest.raises(UserError, match=r"lm_head\S* is not wte\.weight"):
            load(tmp_path / "model.safetensors")


@pytest.mark.parametrize("mask", [torch.ones(1, 1, 3, 3), torch.ones(12), torch.zeros(1, 1, 3, 3)], ids=str)
def test_what_is_called_a_mask_and_is_none_is_refused(tmp_path, mask):
    """Fails when whatever bears the name is dropped."""
    for causal in (torch.ones(1, 1, 3, 3).tril(), torch.ones(1, 1, 3, 3).tril().bool()):
        save_file({**weights(), "h.0.attn.bias": causal}, tmp_path / "model.safetensors")
        assert is_right(tmp_path / "model.safetensors")
    save_file({**weights(), "h.0.attn.bias": mask}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"h\.0\.attn\.bias is not a part of this model"):
        load(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        *(dict(ids=torch.tensor(ids)) for ids in ([-1, 2], [3, 3], [1, 50257], [1, 2, 3])),
        dict(seed=torch.tensor([-1])),
        dict(seed=torch.tensor([1, 2])),
        dict(entry=torch.tensor([])),
        dict(entry=None),
    ],
    ids=str,
)
def test_a_compact_base_whose_parts_do_not_fit_is_refused(tmp_path, change):
    """A negative id would count from the end."""
    parts = dict(ids=torch.tensor([1, 2]), seed=torch.tensor([1]), entry=torch.tensor([0.5])) | change
    names = dict(ids="stored_ids", seed="drawn_seed", entry="drawn_entry")
    tensors = {f"wte.{names[part]}": tensor for part, tensor in parts.items() if tensor is not None}
    save_file({"wte.stored_rows": torch.ones(2, 4), **tensors}, tmp_path / "compact.safetensors")
    with pytest.raises(UserError, match=r"stored rows do not fit together|of the shape"):
        checkpoints.read(tmp_path)


# Models in several files


def write_shards(folder: Path, suffix: str = ".safetensors") -> Path:
    """Write the weights in two files and their list, as transformers does, and return the list's path."""
    tensors, stem = weights(), "model" if suffix == ".safetensors" else "pytorch_model"
    names = [f"{stem}-{n:05}-of-00002{suffix}" for n in (1, 2)]
    half = {name: names[number % 2] for number, name in enumerate(tensors)}
    for file in names:
        save({name: tensors[name] for name in half if half[name] == file}, folder / file)
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": half}))
    return index


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_model_in_several_files_is_read(tmp_path, suffix):
    index = write_shards(tmp_path, suffix)
    assert is_right(tmp_path) and is_right(index)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_missing_part_is_named(tmp_path, suffix):
    index = write_shards(tmp_path, suffix)
    part = next(tmp_path.glob(f"*00002-of-00002{suffix}"))
    part.unlink()
    with pytest.raises(UserError, match=rf"{index.name} names {part.name}, which is not there"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        (
            {"wte.weight": "../secret.safetensors"},
            r"names the file '\.\./secret\.safetensors'; expected files beside it",
        ),
        ({"wte.weight": "/etc/passwd"}, "names the file '/etc/passwd'"),
        ({"wte.weight": "a\\b.safetensors"}, "names the file"),
        ({"wte.weight": ".."}, "names the file|not there"),
        ({"wte.weight": ""}, "names the file"),
        ({"wte.weight": "a\0b"}, "names the file"),
        ({"wte.weight": 1}, "has no weight_map"),
        (["a"], "has no weight_map"),
        (None, "has no weight_map"),
        ({}, "does not fit|is missing"),
        ({"wte.weight": "model-00001-of-00002.safetensors"}, r"does not hold the tensors that .* lists \("),
        ({"none": "model-00001-of-00002.safetensors"}, "does not hold the tensors that"),
    ],
    ids=str,
)
def test_a_list_of_files_that_is_wrong_is_refused(tmp_path, weight_map, words):
    index = write_shards(tmp_path)
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UserError, match=words):
        load(tmp_path)


def test_a_list_of_files_that_is_no_json_is_refused(tmp_path):
    for content in ("{", "[" * 100_000, "[]", "\x00"):
        write_shards(tmp_path).write_text(content)
        with pytest.raises(UserError, match=r"index\.json"):
            load(tmp_path)


def test_a_whole_checkpoint_with_a_part_too_many_is_refused(tmp_path):
    """Seen to end in a KeyError."""
    torch.save({"model_state_dict": {**toy.tensors(4), "h.0.more.weight": torch.ones(2)}}, tmp_path / "whole.pt")
    with pytest.raises(UserError, match=r"another base than the one given \(h.0.more.weight differs\)"):
        models.load_adapters(toy.model(4), checkpoints.read(tmp_path / "whole.pt"))


def test_the_same_adapters_are_the_same_bytes(tmp_path):
    """safetensors' own writer has the metadata in another order in each process. Fails when this one's are as they come."""
    tensors, said = (
        {"b": torch.ones(3), "a": torch.zeros(2, 2)},
        {name: "x" for name in "zqhbay"} | {"é": '\u2028 \\ "'},
    )
    for number, names in enumerate((said, sorted(said), sorted(said, reverse=True))):
        tensor_files.save_safetensors(tensors, tmp_path / f"{number}", {name: said[name] for name in names})
    first = (tmp_path / "0").read_bytes()
    assert first == (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    n = int.from_bytes(first[:8], "little")
    assert list(json.loads(first[8 : 8 + n])["__metadata__"]) == sorted(said) and n % 8 == 0
    read, metadata = tensor_files.load(tmp_path / "0")
    assert metadata == said and all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    digest = tensor_files.save_safetensors(tensors, tmp_path / "3")
    assert tensor_files.load(tmp_path / "3")[1] == {} and digest == files.sha256(tmp_path / "3")
