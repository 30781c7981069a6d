"""Adapters and models exchanged with the real PEFT and transformers, through src/gpt2_export.py and the programs' readers."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import gpt2_beam
import gpt2_export
import runs
import toy
from lora_nlg import errors
from lora_nlg.methods import adapter_tensors, add_adapters
from lora_nlg.methods.placement import Given, LoraConfig
from lora_nlg.storage import checkpoints, models

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

IDS = torch.arange(48).view(3, 16)
FLOAT64 = dict(rtol=1e-10, atol=1e-10)  # the same sums in another order
LORA = LoraConfig(4, 32.0, dropout=0.1)
GENERATOR = torch.Generator()


@pytest.fixture
def files(tmp_path):
    """The toy's base and its adapters in this project's form and in the recipe's."""
    runs.write_model(tmp_path)
    model = toy.model(4)
    base = checkpoints.Base("gpt2.toy", models.fingerprint(model))
    adapters = {name: t for name, t in toy.tensors(4).items() if "lora_" in name}
    checkpoints.save_adapters(adapters, tmp_path / "adapter.safetensors", LORA, base, 14)
    checkpoints.save_recipe(model, tmp_path / "recipe.pt", base, 14)
    checkpoints.save_hugging_face(toy.model(0), tmp_path / "hub")
    return tmp_path


def export(files, to: str, output: str, *flags: str) -> None:
    base = ["--init_checkpoint", str(files / "base.safetensors"), "--precision", "fp64"] if to == "hf" else []
    model = ["--model_card", str(files / "config.json"), "--lora_checkpoint", str(files / "adapter.safetensors")]
    assert gpt2_export.main(["--to", to, "--output", str(files / output), *model, *base, *flags]) == 0


def their_model(folder) -> transformers.GPT2LMHeadModel:
    return transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float64).eval()


@torch.no_grad()
def our_logits(model) -> torch.Tensor:
    return model.logits(model.eval()(IDS))


def logits_with(path, files) -> torch.Tensor:
    """The logits of the toy's base with the adapters of `path`, not merged."""
    adapters = checkpoints.read(path)
    model = models.base_model(toy.CONFIG, str(files / "base.safetensors"), GENERATOR, "fp64", adapters)
    add_adapters(model, adapters.adapter_config(Given(0, None)))
    models.load_adapters(model, adapters)
    return our_logits(model)


def test_transformers_loads_our_base(files):
    """Fails with an untied head, eps 1e-6, erf's GELU or Linear's layout."""
    with torch.no_grad():
        theirs = their_model(files / "hub")(IDS).logits
    assert torch.allclose(theirs, our_logits(toy.model(0)), **FLOAT64)


def test_peft_loads_our_adapters(files, capsys):
    """Fails when PEFT's alpha stays alpha (half of ΔW), or the value's B lands in the key's third."""
    export(files, "peft", "peft")
    theirs = peft.PeftModel.from_pretrained(their_model(files / "hub"), files / "peft").eval().double()
    with torch.no_grad():
        assert torch.allclose(theirs(IDS).logits, our_logits(toy.model(4)), **FLOAT64)
        with theirs.disable_adapter():
            assert not torch.allclose(theirs(IDS).logits, our_logits(toy.model(4)), atol=1e-3)


@pytest.mark.parametrize(
    "lora",
    [
        LoraConfig(3, 6.0, targets=("q", "k", "v", "o", "fc", "proj")),
        LoraConfig({"q": 5, "v": 2, "proj": 3}, 6.0, targets=("q", "v", "proj")),
        LoraConfig({"o": 1, "fc": 4}, 6.0, targets=("o", "fc"), layers=(1,), scaling="rslora"),
    ],
)
def test_peft_loads_adapters_of_any_placement(files, lora, capsys):
    """Fails without rank_pattern or alpha_pattern, or when mlp.c_proj takes attn.c_proj's, or the layers are left out."""
    model = toy.model(0)
    add_adapters(model, lora, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3, generator=GENERATOR)
    checkpoints.save_adapters(adapter_tensors(model), files / "placed.safetensors", lora)
    export(files, "peft", "peft", "--lora_checkpoint", str(files / "placed.safetensors"))
    theirs = peft.PeftModel.from_pretrained(their_model(files / "hub"), files / "peft").eval().double()
    n_theirs = sum(p.numel() for name, p in theirs.named_parameters() if "lora_A" in name)
    assert n_theirs == sum(p.numel() for name, p in model.named_parameters() if "lora_A" in name)
    with torch.no_grad():
        assert torch.allclose(theirs(IDS).logits, our_logits(model), **FLOAT64)


def test_transformers_loads_the_merged_model(files, capsys):
    """Fails when the adapters are left out, or merged in (out, in) layout."""
    export(files, "hf", "merged")
    model, info = transformers.GPT2LMHeadModel.from_pretrained(
        files / "merged", dtype=torch.float64, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        assert torch.allclose(model.eval()(IDS).logits, our_logits(toy.model(4)), **FLOAT64)


@pytest.mark.parametrize(
    "given",
    [
        dict(),
        dict(use_rslora=True),
        dict(target_modules=["c_attn", "attn.c_proj", "c_fc"], layers_to_transform=[1]),
        dict(target_modules=["c_proj"], rank_pattern={"mlp.c_proj": 5}, alpha_pattern={r"h\.0\.mlp\.c_proj": 7}),
    ],
)
def test_an_adapter_trained_with_peft(files, given):
    """PEFT's one A serves query, key and value. Fails when the key's third of B is dropped, rsLoRA's √R is, or a pattern is."""
    settings = peft.LoraConfig(
        **dict(task_type="CAUSAL_LM", r=3, lora_alpha=12, target_modules=["c_attn"], fan_in_fan_out=True) | given
    )
    torch.manual_seed(0)
    model = peft.get_peft_model(their_model(files / "hub"), settings).double()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(3):
        model(IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(files / "trained")
    with torch.no_grad():
        theirs, untrained = model.eval()(IDS).logits, our_logits(toy.model(0))
    assert not torch.allclose(theirs, untrained, atol=1e-2)
    assert torch.allclose(logits_with(files / "trained", files), theirs, **FLOAT64)
    assert torch.allclose(logits_with(files / "trained/adapter_model.safetensors", files), theirs, **FLOAT64)


def test_an_adapter_of_peft_decodes_as_transformers_does(files, capsys):
    """One beam without bans is greedy decoding. Seen to fail with PEFT's alpha halved."""
    export(files, "peft", "peft")
    lines = toy.examples(5)
    flags = runs.write_decoding(files, lines)
    flags += f" --lora_checkpoint {files}/peft --precision fp64 --device cpu --eval_len 12"
    assert gpt2_beam.main([*flags.split(), "--no_repeat_ngram_size", "0"]) == 0
    ours = [json.loads(line)["predict"] for line in (files / "work/beam_prediction.jsonl").read_text().splitlines()]
    export(files, "hf", "merged")
    theirs = their_model(files / "merged")
    for line, ids in zip(lines, ours, strict=True):
        prompt = torch.tensor([line.context])
        generated = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=12)
        assert generated[0, prompt.shape[1] :].tolist() == ids


def test_exports_of_adapters_hold_the_same_tensors(files, capsys):
    """Recipe keys for the recipe's code; and this project's own form out of the recipe's. Seen to fail without `transformer.`."""
    export(files, "loralib", "out.pt")
    export(files, "safetensors", "out.safetensors", "--lora_checkpoint", str(files / "recipe.pt"))
    theirs = torch.load(files / "out.pt", weights_only=True)["model_state_dict"]
    expected = runs.adapters()
    assert set(theirs) == {f"module.transformer.{name}" for name in expected}
    assert all(torch.equal(theirs[f"module.transformer.{name}"], t) for name, t in expected.items())
    assert all(torch.equal(t, expected[name]) for name, t in load_file(files / "out.safetensors").items())


def test_what_adapters_say_of_themselves(files, capsys):
    export(files, "safetensors", "again.safetensors")
    for name in ("adapter.safetensors", "again.safetensors"):
        with safe_open(files / name, "pt") as file:
            said = file.metadata()
        sha256 = models.fingerprint(toy.model(0))
        assert said == {
            "rank": "4", "alpha": "32.0", "dropout": "0.1", "targets": "q,v", "layers": "all", "init": "kaiming",
            "scaling": "alpha/r", "step": "14", "version": said["version"], "base_card": "gpt2.toy", "base_sha256": sha256,
        }  # fmt: skip


def test_a_merged_folder_has_the_vocabulary_under_transformers_names(files, monkeypatch, capsys):
    monkeypatch.setattr(gpt2_export, "VOCABULARY", files)
    monkeypatch.setattr(gpt2_export.config, "GPT2_VOCAB_SIZE", toy.CONFIG.vocab_size)
    (files / "encoder.json").write_text("{}")
    (files / "vocab.bpe").write_text("#version\n")
    export(files, "hf", "merged")
    assert (files / "merged/vocab.json").read_text() == "{}"
    assert (files / "merged/merges.txt").read_text() == "#version\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "LOHA"}, "does not describe a LoRA adapter"),
        ({"use_dora": True}, "sets use_dora"),
        ({"bias": "all"}, "sets bias"),
        ({"modules_to_save": ["wte"]}, "sets modules_to_save"),
        ({"alpha_pattern": {"c_attn(": 8}}, "alpha_pattern of adapter_config.json cannot be understood"),
        ({"alpha_pattern": 8}, "alpha_pattern of adapter_config.json cannot be understood"),
        ({"r": None}, "does not describe a LoRA adapter"),
        ({"lora_alpha": None}, "does not describe a LoRA adapter"),
    ],
)
def test_an_adapter_that_does_more_than_lora_is_refused(files, change, words, capsys):
    export(files, "peft", "peft")
    settings = json.loads((files / "peft/adapter_config.json").read_text())
    (files / "peft/adapter_config.json").write_text(json.dumps(settings | change))
    with pytest.raises(errors.UserError, match=words):
        checkpoints.read(files / "peft")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lm_head.lora_A.weight", r"adapts .*lm_head.*expected adapters of attn\.c_attn, .*mlp\.c_proj only"),
        ("transformer.wte.lora_embedding_A", r"adapts .*wte.*expected adapters of"),
        ("transformer.h.0.attn.q_attn.lora_A.weight", r"adapts .*q_attn.*expected adapters of"),
        ("transformer.h.2.attn.c_attn.lora_A.weight", r"one of lora_A and lora_B of h\.2\.attn\.c_attn alone"),
        ("transformer.h.00.attn.c_attn.lora_A.weight", r"adapts .*h\.00\.attn.*expected adapters of"),
        ("transformer.h.0.attn.c_attn.lora_magnitude_vector.weight", r"adapts .*magnitude.*expected adapters of"),
        ("transformer.h.0.attn.c_attn.lora_B.bias", r"adapts .*lora_B\.bias.*expected adapters of"),
        ("h.0.attn.c_attn.lora_A.weight", r"one of lora_A and lora_B of h\.0\.attn\.c_attn alone"),
    ],
)
def test_an_adapter_of_other_matrices_is_refused(files, name, words, capsys):
    export(files, "peft", "peft")
    path = files / "peft/adapter_model.safetensors"
    save_file({**load_file(path), f"base_model.model.{name}": torch.zeros(4, 32)}, path)
    with pytest.raises(errors.UserError, match=words):
        checkpoints.read(files / "peft")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--to peft --lora_checkpoint {0}/base.safetensors", "holds no LoRA adapters"),
        ("--to peft", "--to peft writes adapters"),
        ("--to hf --lora_checkpoint {0}/adapter.safetensors", "holds adapters only; pass the base"),
        ("--to hf", "--init_checkpoint is missing"),
        (
            "--to hf --lora_dim 4 --init_checkpoint {0}/base.safetensors",
            "their file goes into --lora_checkpoint, and the base",
        ),
        ("--to hf --no_card --init_checkpoint {0}/base.safetensors", "--to hf needs --model_card"),
        ("--to hf --init_checkpoint {0}/base.safetensors --output {0}/recipe.pt", "is a file; expected a folder"),
        ("--to loralib --lora_checkpoint {0}/recipe.pt --lora_dim 8", "rank 4, not 8"),
        ("--to loralib --lora_checkpoint {0}/recipe.pt --init_checkpoint {0}/base.safetensors", "would have no effect"),
        ("--to onnx", "--to must be one of peft, hf, loralib, safetensors, but is 'onnx'"),
    ],
)
def test_mistakes_get_one_sentence(files, flags, words, monkeypatch, capsys):
    export(files, "peft", "peft")
    card = ["--model_card", f"{files}/config.json"] if "--no_card" not in flags else []
    given = ["--output", f"{files}/out", *card, *flags.replace("--no_card", "").format(files).split()]
    monkeypatch.setattr("sys.argv", ["gpt2_export.py", *given])
    try:
        code = errors.run(gpt2_export.main)
    except SystemExit as stopped:  # argparse's own
        code = stopped.code
    assert code == 2
    assert words in capsys.readouterr().err
    assert not (files / "out").exists()
