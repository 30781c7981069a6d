"""Files that say what they do not hold, and outputs that would replace what is read: refused in one sentence, or read as others do."""

import json
import shutil
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model

import gpt2_export
import gpt2_generate
import runs
import toy
from lora_nlg import methods
from lora_nlg.config import ModelConfig
from lora_nlg.errors import UserError
from lora_nlg.methods.fourier import FourierConfig
from lora_nlg.methods.placement import DoraConfig, Given, LoraConfig
from lora_nlg.methods.prefix import PrefixConfig
from lora_nlg.methods.vera import VeraConfig
from lora_nlg.storage import checkpoints, compact, interchange, models, tensor_files
from lora_nlg.storage.peft_settings import PeftSettings
from test_methods import config_of, trained
from test_tensor_files import SMALL, is_right, load, weights

LORA = {"rank": "4", "alpha": "8.0"}


@pytest.mark.parametrize("keep", [0, 8, 32])
def test_a_record_that_is_shorter_than_its_tensor_is_refused(keep, tmp_path):
    """The archive is whole by its checksums, and what came after the record was read as weights."""
    path = tmp_path / "model.pt"
    torch.save(weights(), path)
    assert is_right(path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    cut = [name for name, content in entries.items() if "/data/" in name and len(content) > keep]
    assert len(cut) >= 8
    for name in cut:
        with zipfile.ZipFile(path, "w") as archive:
            for other, content in entries.items():
                archive.writestr(other, content[:keep] if other == name else content)
        with pytest.raises(UserError, match="is damaged"):
            load(path)


def test_records_that_no_tensor_is_of_and_tensors_that_share_one_are_read(tmp_path):
    whole = weights()
    whole["ln_f.bias"] = torch.randn(12)[4:8]  # a part of a longer storage
    torch.save(
        {"model_state_dict": whole, "optimizer": [{"m": torch.ones(3)}, (torch.zeros(0),)]}, tmp_path / "model.pt"
    )
    assert torch.equal(load(tmp_path / "model.pt")["ln_f.bias"], whole["ln_f.bias"])


def test_a_storage_that_may_begin_at_several_records_is_read(tmp_path):
    """A page of memory before the only storage is where the record of the names is, too."""
    flat = torch.randn(40_000)
    for size in range(3300, 3700, 8):
        content = {"a": flat[:20_000], "b": flat[20_000:], "note": "x" * size}
        torch.save(content, tmp_path / "model.pt")
        assert torch.equal(tensor_files.load(tmp_path / "model.pt")[0]["b"], flat[20_000:])


def lora_file(folder, tensors: dict, said: dict):
    save_file(tensors, folder / "adapter.safetensors", {name: str(value) for name, value in said.items()})
    return folder / "adapter.safetensors"


def pairs(module: str, n_layers: int = 2, rank: int = 4, n_targets: int = 2) -> dict[str, torch.Tensor]:
    names = [f"h.{layer}.{module}" for layer in range(n_layers)]
    A = {f"{name}.lora_A": torch.ones(n_targets * rank, 32) for name in names}
    return A | {f"{name}.lora_B": torch.ones(n_targets * 32, rank) for name in names}


CONTRADICTIONS = {
    "other targets": (pairs("attn.c_attn"), LORA | {"targets": "fc"}),
    "other names": ({"foo.lora_A": torch.ones(4, 32), "foo.lora_B": torch.ones(32, 4)}, LORA),
    "more than it says": (pairs("attn.c_attn") | pairs("attn.c_proj", n_targets=1), LORA),
    "fewer targets": (pairs("attn.c_attn"), LORA | {"targets": "q"}),
    "fewer layers": (pairs("attn.c_attn"), LORA | {"layers": "0"}),
    "another rank": (pairs("attn.c_attn"), LORA | {"rank": "8"}),
    "a missing A": ({n: t for n, t in pairs("attn.c_attn").items() if n != "h.1.attn.c_attn.lora_A"}, LORA),
    "A in one dimension": (pairs("attn.c_attn") | {"h.0.attn.c_attn.lora_A": torch.ones(256)}, LORA),
    "whole numbers": ({n: t.long() for n, t in pairs("attn.c_attn").items()}, LORA),
    "no start of PiSSA": (pairs("attn.c_attn"), LORA | {"init": "pissa"}),
    "no lengths of DoRA": (pairs("attn.c_attn"), LORA | {"method": "dora"}),
}


@pytest.mark.parametrize("to", ["peft", "safetensors", "loralib"])
@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_adapters_that_are_not_what_the_file_says_are_not_written_on(case, to, tmp_path):
    path = lora_file(tmp_path, *CONTRADICTIONS[case])
    with pytest.raises(UserError) as error:
        gpt2_export.main(f"--to {to} --lora_checkpoint {path} --output {tmp_path}/out".split())
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["vera", "prefix_kv", "prefix_embed", "prefix_layer", "adapter_h", "fourier", "ia3", "top2"]
)
@pytest.mark.parametrize("change", ["missing", "longer", "renamed"])
def test_of_every_method(name, change, tmp_path):
    model = trained(name)
    tensors = {n: t.detach().clone() for n, t in methods.adapter_tensors(model).items()}
    victim = min(tensors)  # of the first layer: without its last one it is of a smaller model
    if change == "longer":
        tensors[victim] = torch.cat((tensors[victim], tensors[victim][:1]))
    else:
        tensor = tensors.pop(victim)
        if change == "renamed":
            tensors[f"{victim}_"] = tensor
    if not tensors or (change == "longer" and name in ("prefix_kv", "prefix_layer")):
        return  # nothing at all, or what another model's layers would make of it
    checkpoints.save_adapters(tensors, tmp_path / "adapter.safetensors", model.trained_by)
    with pytest.raises(UserError):
        gpt2_export.main(
            f"--to safetensors --lora_checkpoint {tmp_path}/adapter.safetensors --output {tmp_path}/o.safetensors".split()
        )


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig({"o": 2, "proj": 3}, 8, targets=("o", "proj"), layers=(1,)), config_of("dora"), VeraConfig(3, targets=("q", "fc")),
        LoraConfig(2, 8, targets=("wte",)), PrefixConfig("prefix_kv", 3), config_of("lora+prefix_layer"), FourierConfig(9),
    ],
)  # fmt: skip
def test_what_fits_is_written_for_a_model_of_any_shape(config, tmp_path):
    """Whose width, layers and inner width are to be found out from the tensors."""
    from lora_nlg.config import VariantConfig
    from lora_nlg.model.gpt2 import empty_model, init_weights

    model = empty_model(VariantConfig(n_embd=15, n_layer=3, n_head=3, n_positions=40, vocab_size=61, n_inner=22))
    init_weights(model, torch.Generator().manual_seed(1))
    methods.add_adapters(model, config, torch.Generator().manual_seed(1))
    checkpoints.save_adapters(methods.adapter_tensors(model), tmp_path / "adapter.safetensors", config)
    command = f"--to safetensors --lora_checkpoint {tmp_path}/adapter.safetensors --output {tmp_path}/o.safetensors"
    assert gpt2_export.main(command.split()) == 0
    assert load_file(tmp_path / "o.safetensors").keys() == methods.adapter_tensors(model).keys()


def test_as_many_coefficients_as_a_large_model_has_take_no_time(tmp_path):
    """Their number was taken for a width, and all places of such a matrix drawn, module by module."""
    tensors = {f"h.{layer}.attn.c_attn.fourier_c": torch.zeros(2, 12_800) for layer in range(48)}
    checkpoints.save_adapters(tensors, tmp_path / "adapter.safetensors", FourierConfig(12_800))
    command = f"--to safetensors --lora_checkpoint {tmp_path}/adapter.safetensors --output {tmp_path}/o.safetensors"
    started = time.process_time()
    assert gpt2_export.main(command.split()) == 0
    assert time.process_time() - started < 20


@pytest.fixture
def exported(tmp_path):
    """The toy, adapters of it, and both as folders of other libraries."""
    flags = runs.write_model(tmp_path)
    adapters = lora_file(tmp_path, runs.adapters(), LORA)
    given = f"{flags} --lora_checkpoint {adapters}"
    assert gpt2_export.main(f"--to hf {given} --output {tmp_path}/hf".split()) == 0
    assert gpt2_export.main(f"--to peft --lora_checkpoint {adapters} --output {tmp_path}/peft".split()) == 0
    return tmp_path, flags, adapters


def test_a_folder_is_of_one_form(exported, capsys):
    """transformers puts an adapter that lies beside merged weights on them once more."""
    folder, flags, adapters = exported
    given = f"--lora_checkpoint {adapters}"
    for command in (
        f"--to hf {flags} {given} --output {folder}/peft", f"--to peft {given} --output {folder}/hf",
        f"--to hf {flags} {given} --output {folder}/small",
    ):  # fmt: skip
        (folder / "small").mkdir(exist_ok=True)
        (folder / "small/compact.safetensors").write_text("x")
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with pytest.raises(UserError, match="give another folder"):
            gpt2_export.main(command.split())
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_adapters_are_exported_into_their_own_work_dir_and_again(exported):
    folder, _, adapters = exported
    for _ in range(2):
        assert gpt2_export.main(f"--to peft --lora_checkpoint {adapters} --output {folder}/peft".split()) == 0
    (folder / "work").mkdir()
    shutil.copy(adapters, folder / "work/adapter.safetensors")
    for _ in range(2):
        assert (
            gpt2_export.main(
                f"--to peft --lora_checkpoint {folder}/work/adapter.safetensors --output {folder}/work".split()
            )
            == 0
        )


def test_what_is_read_is_not_written_over(exported):
    folder, _, adapters = exported
    (folder / "hf/README.md").unlink()
    for command in (
        f"--to hf --model_card {folder}/config.json --init_checkpoint {folder}/hf --lora_checkpoint {adapters} --output {folder}/hf",
        f"--to safetensors --lora_checkpoint {folder}/peft --output {folder}/peft/adapter_model.safetensors",
        f"--to safetensors --lora_checkpoint {folder}/peft --output {folder}/peft/adapter_config.json",
        f"--to peft --lora_checkpoint {folder}/peft --output {folder}/peft",
    ):
        with pytest.raises(UserError, match="is an input, too"):
            gpt2_export.main(command.split())


def test_a_bias_that_overflows_when_it_is_merged_is_refused():
    model = toy.model(0).float()
    with torch.no_grad():
        model.h[0].attn.c_attn.bias.fill_(100)
    tensors = {name: torch.full_like(t, 1e37) for name, t in methods.adapter_tensors(trained("ia3")).items()}
    adapters = checkpoints.Checkpoint(toy.GOLDEN, {n: t.float() for n, t in tensors.items()}, config_of("ia3"))
    with pytest.raises(UserError, match=r"merged into h\.0\.attn\.c_attn has values that are no numbers"):
        models.put_adapters(model, adapters)


def test_a_base_that_safetensors_save_model_wrote_is_read(tmp_path):
    """Of the embedding and the head, which are one, it keeps the head."""
    transformers = pytest.importorskip("transformers")
    sizes = {name: vars(SMALL)[name] for name in ("n_embd", "n_layer", "n_head", "n_positions", "vocab_size")}
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    save_model(theirs, tmp_path / "model.safetensors")
    assert "transformer.wte.weight" not in load_file(tmp_path / "model.safetensors")
    assert torch.equal(load(tmp_path / "model.safetensors")["wte.weight"], theirs.lm_head.weight)


def test_safetensors_of_another_name_are_read(tmp_path):
    save_file(weights(), tmp_path / "pytorch_model.bin")
    assert is_right(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("name", ["h.0.attn.bias", "wte.weight"])
def test_a_tensor_of_few_numbers_that_is_huge_by_its_shape_is_refused(name, tmp_path):
    torch.save(weights() | {name: torch.ones(1, 1, 1, 1).expand(1, 1, 10**9, 10**9)}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="of which the file has 4 bytes"):
        load(tmp_path / "model.pt")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint16, torch.complex64])
def test_a_mask_of_odd_numbers_is_named(dtype, tmp_path):
    torch.save(weights() | {"h.0.attn.bias": torch.zeros(1, 1, 3, 3, dtype=dtype)}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"h\.0\.attn\.bias"):
        load(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "said", [{"base_sha256": 5}, {"base_sha256": "x", "base_card": ["x"]}, {"rank": 4, "alpha": "8"}, {"rank": "0"}]
)
def test_a_description_of_other_things_than_texts_is_one_sentence(said, tmp_path):
    torch.save({"model_state_dict": runs.adapters(), "lora": LORA | said}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="says of its adapters what cannot be understood"):
        checkpoints.read(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "sizes", [{"n_positions": 10**13}, {"n_embd": 10**12}, {"vocab_size": 10**30}, {"n_layer": 10**6}]
)
def test_a_model_that_no_memory_has_is_one_sentence(sizes):
    with pytest.raises(UserError, match="must be at most"):
        ModelConfig(**{**vars(SMALL), **sizes})


def test_a_model_larger_than_the_memory_is_one_sentence():
    shape = ModelConfig(n_embd=2**20, n_layer=1, n_head=1, n_positions=2**30, vocab_size=2**30)
    with pytest.raises(UserError, match="does not fit into memory"):
        models.base_model(shape, "random", torch.Generator())


def test_stored_rows_with_ids_of_another_number_or_kind_are_refused(tmp_path):
    rows = torch.ones(3, 4)
    for ids in (torch.tensor([1.2, 1.7, 2.0]), torch.tensor([1, 2, 3, 4]), torch.tensor([[1], [2], [3]])):
        stored = {
            compact.ROWS: rows,
            compact.IDS: ids,
            compact.SEED: torch.tensor([1]),
            compact.ENTRY: torch.tensor([0.1]),
        }
        with pytest.raises(UserError, match="do not fit together"):
            compact.expanded(stored, tmp_path)


PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}


@pytest.mark.parametrize("more", [{"layers_to_transform": [1]}, {"layers_pattern": "h"}])
def test_layers_beside_a_pattern_of_modules_are_refused_as_peft_does(more):
    with pytest.raises(UserError, match="left out where target_modules is a pattern"):
        PeftSettings(PLAIN | {"target_modules": ".*c_attn"} | more, "x")


def test_layers_are_those_that_peft_takes():
    second = PLAIN | {"layers_to_transform": [1]}
    for settings in (second | {"layers_pattern": "", "target_modules": ["c_attn"]}, second | {"target_modules": None}):
        adapted = [PeftSettings(settings, "x").is_adapted(f"transformer.h.{layer}.attn.c_attn") for layer in (0, 1)]
        assert adapted == [False, True]
    in_full = PeftSettings(second | {"target_modules": ["transformer.h.0.attn.c_attn"]}, "x")
    assert in_full.is_adapted("transformer.h.0.attn.c_attn")


def test_an_empty_prompt_is_one_sentence(tmp_path):
    save_file({}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}))
    with pytest.raises(UserError, match="holds nothing; expected prompt_embeddings alone"):
        checkpoints.read(tmp_path)


def test_records_of_odd_kinds_beside_a_checkpoint_are_one_sentence(exported):
    folder, _, adapters = exported
    work = folder / "work"
    work.mkdir()
    shutil.copy(adapters, work / "adapter.safetensors")
    command = f"--to peft --lora_checkpoint {work}/adapter.safetensors --output {folder}/other".split()
    for ends in (["x"], [None]):
        (work / "beam_prediction.run.json").write_text(json.dumps({"settings": {"search": {"eos_token_ids": ends}}}))
        with pytest.raises(UserError, match="eos_token_ids"):
            gpt2_export.main(command)


def test_a_deep_json_line_is_one_sentence():
    with pytest.raises(UserError, match="not JSON"):
        gpt2_generate.mr_of("[" * 100_000, "line 1")


def write_peft(folder, tensors, **more) -> Path:
    """The toy's LoRA of all of c_attn as PEFT names it, with settings."""
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(PLAIN | {"target_modules": ["c_attn"]} | more))
    return folder


def peft_pairs(layers=(0, 1)) -> dict[str, torch.Tensor]:
    C, names = toy.CONFIG.n_embd, {"A": (4, toy.CONFIG.n_embd), "B": (3 * toy.CONFIG.n_embd, 4)}
    key = "base_model.model.transformer.h.{}.attn.c_attn.lora_{}.weight"
    return {key.format(i, matrix): torch.full(shape, 1 / C) for i in layers for matrix, shape in names.items()}


NAMED_BUT_MISSING = [
    {"layers_to_transform": [0, 1]}, {"target_modules": r".*h\.(0|1)\.attn\.c_attn"},
    {"exclude_modules": ["h.7.attn.c_attn"]}, {"layers_to_transform": [1, 0], "layers_pattern": "h"},
]  # fmt: skip


@pytest.mark.parametrize("more", NAMED_BUT_MISSING)
def test_a_layer_that_the_settings_name_and_the_file_lacks_is_missed(more, tmp_path):
    """PEFT starts such a layer anew. Fails when the last layer in the file is taken for the model's last."""
    folder = write_peft(tmp_path / "peft", peft_pairs((0,)), **more)
    with pytest.raises(
        UserError, match=r"h\.1\.attn\.c_attn(\.lora_A is missing|, which its adapter_config\.json names)"
    ):
        models.put_adapters(toy.model(0), checkpoints.read(folder))


def test_layers_that_the_model_does_not_have_may_be_listed(tmp_path):
    """PEFT passes over them. Without the model nothing says which those are."""
    folder = write_peft(tmp_path / "peft", peft_pairs(), layers_to_transform=[0, 1, 7])
    models.put_adapters(toy.model(0), checkpoints.read(folder))
    with pytest.raises(UserError, match=r"h\.7\.attn\.c_attn\.lora_A is missing"):
        gpt2_export.main(
            ["--to", "safetensors", "--lora_checkpoint", str(folder), "--output", str(tmp_path / "a.safetensors")]
        )


@pytest.mark.parametrize(
    "targets", [["c_attn", "lm_head"], ["c_attn", "wte"], ["wpe", "c_attn"], r".*c_attn|lm_head", r".*(c_attn|wte)"]
)
def test_a_module_beside_the_layers_that_the_settings_name_is_missed(targets, tmp_path):
    with pytest.raises(
        UserError, match=r"holds no adapters of (transformer\.w[tp]e|lm_head), which its adapter_config"
    ):
        checkpoints.read(write_peft(tmp_path / "peft", peft_pairs(), target_modules=targets))


UNLIKE_RE = [
    "h.{i}.attn.c_attn",
    "(?:c_atn){e<=1}",
    "[[:alpha:]_.]*c_attn",
    "(?i)c_attn",
    r"\p{L}_attn",
    r"c_attn\M",
    "a{}",
]


@pytest.mark.parametrize("pattern", UNLIKE_RE)
@pytest.mark.parametrize("setting", ["alpha_pattern", "rank_pattern", "target_modules"])
def test_a_pattern_that_means_something_else_to_peft_is_refused(setting, pattern, tmp_path):
    """PEFT goes by `re`; only `regex` can be stopped, and knows more. Fails when h.{i}.attn is taken for any layer's."""
    more = {setting: pattern} if setting == "target_modules" else {setting: {pattern: 4}}
    with pytest.raises(UserError, match="cannot be understood"):
        checkpoints.read(write_peft(tmp_path / "peft", peft_pairs(), **more))


def test_quantifiers_are_those_of_re(tmp_path):
    more = {
        "alpha_pattern": {r"h\.\d{1,3}\.attn\.c_at{2}n": 64},
        "target_modules": r"transformer\.h\.\d{1}\.(at{2,}n){1,1}\.c_attn",
    }
    read = checkpoints.read(write_peft(tmp_path / "peft", peft_pairs(), **more))
    B = peft_pairs()["base_model.model.transformer.h.1.attn.c_attn.lora_B.weight"]
    assert torch.equal(read.tensors["h.1.attn.c_attn.lora_B"], 8 * B)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"lora_alpha": 1e299}, "lora_alpha of adapter_config.json"),
        ({"alpha_pattern": {"c_attn": 1e39}}, "alpha_pattern of"),
    ],
)
def test_an_alpha_that_float32_has_not_is_a_fault_of_the_file(more, says, tmp_path):
    with pytest.raises(UserError, match=f"{says}.* in float32"):
        checkpoints.read(write_peft(tmp_path / "peft", peft_pairs(), **more))


@pytest.mark.parametrize("to", ["safetensors", "peft", "loralib"])
def test_tensors_whose_signs_are_turned_when_they_are_read_are_written_as_they_are(to, tmp_path):
    """torch keeps a bit for that, which numpy does not know. Fails when A is exported with the other sign."""
    adapters = runs.adapters()
    turned = {name: torch._neg_view(-tensor) for name, tensor in adapters.items()}
    path = tmp_path / "turned.pt"
    torch.save({"model_state_dict": turned, "lora": {"rank": "4", "alpha": "32.0"}}, path)
    output = tmp_path / ("out" if to == "peft" else "out.pt" if to == "loralib" else "out.safetensors")
    assert gpt2_export.main(["--to", to, "--lora_checkpoint", str(path), "--output", str(output)]) == 0
    model, expected = toy.model(0), toy.model(4)
    models.put_adapters(model, checkpoints.read(output), Given(0, 32.0 if to == "loralib" else None))
    assert torch.allclose(model(toy_ids()), expected(toy_ids()), rtol=1e-10, atol=1e-10)


def toy_ids() -> torch.Tensor:
    return torch.arange(1, 33).view(2, 16)


def test_stored_rows_beside_a_whole_embedding_or_with_half_a_seed_are_refused(tmp_path):
    stored = {
        compact.ROWS: torch.ones(3, 4),
        compact.IDS: torch.tensor([1, 2, 3]),
        compact.SEED: torch.tensor([1]),
        compact.ENTRY: torch.tensor([0.1]),
    }
    for more in ({"wte.weight": torch.zeros(50257, 4)}, {compact.SEED: torch.tensor([1.9])}):
        with pytest.raises(UserError, match="do not fit together"):
            compact.expanded(stored | more, tmp_path)


@pytest.mark.parametrize("shape", [(7, 96), (96,), (1, 32, 96), (32, 95)])
def test_lengths_of_doras_other_outputs_come_from_a_matrix_of_their_shape(shape):
    lora = DoraConfig(2, 8.0, targets=("q", "v"))
    model = toy.model(0)
    methods.add_adapters(model, lora)
    tensors = methods.adapter_tensors(model)
    base = toy.tensors(0) | {"h.0.attn.c_attn.weight": torch.ones(shape)}
    with pytest.raises(UserError, match=r"has no h\.0\.attn\.c_attn\.weight of 32 inputs and 96 outputs"):
        interchange.to_peft(tensors, lora, None, base)
    for damaged, says in (
        (torch.ones(32, 96).long(), "has no h.0"),
        (torch.full((32, 96), torch.nan), "are no numbers"),
    ):
        with pytest.raises(UserError, match=says):
            interchange.to_peft(tensors, lora, None, base | {"h.0.attn.c_attn.weight": damaged})
