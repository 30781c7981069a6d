"""Bases and adapters by a Hub id, from a Hub on this machine."""

import json
from pathlib import Path

import pytest
import torch

import gpt2_beam
import gpt2_ft
import lora_nlg
import runs
import toy
from fake_hub import TOKEN, hub  # noqa: F401  (a fixture)
from lora_nlg.errors import UserError
from lora_nlg.methods.placement import LoraConfig
from lora_nlg.storage import checkpoints, models
from lora_nlg.storage.hub import local, name_of, parsed, recorded

pytestmark = pytest.mark.slow  # a server that stands for the Hub

ROOT = Path(__file__).resolve().parents[1]


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def published(hub, tmp_path, monkeypatch):  # noqa: F811
    """The toy's base, with files that nobody asked for, and adapters of PEFT's form."""
    checkpoints.save_hugging_face(toy.model(0), tmp_path / "made/base")
    adapters = {name: t for name, t in toy.tensors(4).items() if "lora_" in name}
    checkpoints.save_peft(adapters, tmp_path / "made/adapter", LoraConfig(4, 32.0), None)
    others = {"README.md": b"#", "pytorch_model.bin": b"x", "flax_model.msgpack": b"x"}
    hub.repositories["openai-community/gpt2"] = {**contents(tmp_path / "made/base"), **others}
    hub.repositories["user/adapter"] = contents(tmp_path / "made/adapter")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return hub


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("openai-community/gpt2-medium", ("openai-community/gpt2-medium", None)),
        ("user/adapter@v1.0", ("user/adapter", "v1.0")),
        ("user/adapter@refs/pr/2", ("user/adapter", "refs/pr/2")),
        ("gpt2-medium", ("openai-community/gpt2-medium", None)),
        ("gpt2@main", ("openai-community/gpt2", "main")),
        *[
            (path, None)
            for path in (
                "random", "adapter", "adapter@v1", "/user/adapter", "./adapter", "~/adapter", "a/b/c", "../adapter", "user/..",
                "user/model.pt", "user/x.safetensors", "here/missing", "here/x@v1", "user/adapter@", "user/adapter@../x", "",
            )
        ],
    ],
)  # fmt: skip
def test_what_is_a_name_on_the_hub(text, meant, tmp_path, monkeypatch):
    """Fails when a mistyped path in a folder that exists goes to the network."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert parsed(text) == meant


@pytest.mark.parametrize("text", ["user/adapter", "gpt2"])
def test_what_exists_wins(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / text).mkdir(parents=True)
    assert parsed(text) is None and str(local(text)) == text


def test_the_base_and_adapters_are_those_of_the_hub(published):
    """And only what is needed is fetched: settings, and the first form of the weights."""
    model = models.merged_model(toy.CONFIG, "gpt2", "user/adapter@v1")
    with torch.no_grad():
        ids = torch.arange(16).view(1, 16)
        assert torch.allclose(
            model.logits(model(ids)), toy.model(4).float().logits(toy.model(4).float()(ids)), atol=1e-4
        )
    assert published.got == ["adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors"]
    assert recorded(init_checkpoint="gpt2", lora_checkpoint="user/adapter@v1", other=None, one="/a/path") == {
        "hub": {"init_checkpoint": f"openai-community/gpt2@{'a' * 40}", "lora_checkpoint": f"user/adapter@{'b' * 40}"}
    }
    assert recorded(init_checkpoint="random") == {}


def test_a_model_in_several_files_comes_whole(published, monkeypatch):
    files = published.repositories["openai-community/gpt2"]
    whole = files.pop("model.safetensors")
    from safetensors.torch import load, save

    tensors = load(whole)
    names = sorted(tensors)
    halves = {"one.safetensors": names[:5], "two.safetensors": names[5:]}
    for file, some in halves.items():
        files[file] = save({name: tensors[name] for name in some})
    weight_map = {name: file for file, some in halves.items() for name in some}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    assert models.fingerprint(models.merged_model(toy.CONFIG, "gpt2", None)) == models.fingerprint(toy.model(0).float())
    (local("gpt2") / "two.safetensors").unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        checkpoints.read("gpt2")


def test_this_projects_adapters_and_the_commit_that_is_named(published, tmp_path):
    runs.write_adapters(tmp_path / "own.safetensors")
    published.repositories["user/own"] = {"adapter.safetensors": (tmp_path / "own.safetensors").read_bytes()}
    assert checkpoints.read(f"user/own@{'b' * 40}").adapters().keys() == runs.adapters().keys()
    assert local("user/own@v1").name == "b" * 40


def test_all_files_are_of_one_commit(published):
    published.moves = True
    assert set(contents(local("gpt2"))) == {"config.json", "model.safetensors"}


def test_what_is_in_the_cache_needs_no_network(published, monkeypatch):
    local("gpt2")
    published.got.clear()
    for endpoint, offline in (("http://127.0.0.1:9", False), (published.url, True)):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        assert checkpoints.read("gpt2").path.name == "model.safetensors"
    with pytest.raises(UserError, match=r"^user/adapter is no file or folder here, .*HF_HUB_OFFLINE is set, so that"):
        local("user/adapter")
    assert published.got == []


def test_a_private_repository_needs_a_token_which_is_not_shown(published, monkeypatch):
    published.private.add("user/adapter")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="answered 401, so there is no such repository or HF_TOKEN does not") as refused:
        checkpoints.read("user/adapter")
    assert "hf_wrong" not in str(refused.value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert checkpoints.read("user/adapter").adapters()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            "user/nothing",
            "user/nothing is no file or folder here, and cannot be had from http.*the server answered 401",
        ),
        ("user/adapter@v9", "user/adapter@v9 is no file .*the server answered 404; check the name"),
        ("user/empty", "user/empty on http.* has none of model.safetensors"),
        ("user/a--b", "is no file or folder here.*check the name"),
    ],
)
def test_what_is_not_there_is_one_sentence(published, asked, words):
    published.repositories["user/empty"] = {"README.md": b"#"}
    with pytest.raises(UserError, match=words) as refused:
        checkpoints.read(asked)
    assert "\n" not in str(refused.value)


def test_without_a_network_it_is_one_sentence(published, monkeypatch, caplog):
    """At once: the client alone says ten times that it tries again."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nothing listens
    words = r"^user/adapter is no file or folder here, and cannot be had from http://127.0.0.1:9: the connection failed"
    with pytest.raises(UserError, match=words):
        checkpoints.read("user/adapter")
    assert caplog.text == ""
    published.code = 500
    monkeypatch.setenv("HF_ENDPOINT", published.url)
    with pytest.raises(UserError, match="the server answered 500"):
        checkpoints.read("user/adapter")


def test_a_damaged_file_of_the_hub_is_not_run(published):
    published.repositories["user/bad"] = {"pytorch_model.bin": b"cos\nsystem\n(S'false'\ntR."}
    with pytest.raises(UserError, match="is damaged or not a checkpoint"):
        checkpoints.read("user/bad")


def test_a_path_that_is_not_there_is_what_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trained_models").mkdir()
    with pytest.raises(UserError, match=r"^checkpoint trained_models/mini does not exist; check the path"):
        checkpoints.read("trained_models/mini")


@pytest.mark.skipif(not (ROOT / "vocab/encoder.json").is_file(), reason="no vocabulary: bash scripts/00_setup.sh")
def test_the_api_takes_names_and_saves_them(published, tmp_path):
    """What is saved names the base as the Hub does, not the cache of this machine."""
    model = lora_nlg.load("gpt2", "user/adapter", vocab=ROOT / "vocab", device="cpu")
    assert model.network.config == toy.CONFIG
    assert model._base().card == "openai-community/gpt2"


def test_published_bases_have_their_hub_names():
    assert name_of("gpt2.md") == "openai-community/gpt2-medium"
    assert name_of("user/base") == "user/base" and name_of("base/config.json") is None
    assert name_of("gpt2.mini") is None and name_of("/home/me/config.json") is None and name_of(None) is None


@pytest.mark.parametrize("named_first", [True, False])
def test_a_run_goes_on_with_its_base_by_its_other_name(named_first, published, tmp_path, capsys):
    """By its file or by its id: the weights are the same. Those of another base are refused."""
    by_file = runs.write_training(tmp_path / "here").split()
    at = by_file.index("--init_checkpoint") + 1
    by_name = [*by_file[:at], "gpt2", *by_file[at + 1 :]]
    both = (by_name, by_file) if named_first else (by_file, by_name)
    flags = "--lora_dim 2 --max_step 2 --save_interval 1 --seq_len 16 --device cpu".split()
    gpt2_ft.main([*both[0], *flags])
    saves = tmp_path / "here/work/saves.json"
    saves.write_text(json.dumps(json.loads(saves.read_text()) | {"final": None}))
    capsys.readouterr()
    assert gpt2_ft.main([*both[1], *flags, "--resume", "1"]) == 0
    assert "going on from step 1" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"other settings \(base.sha256 "):
        gpt2_ft.main([*both[1], *flags, "--resume", "--init_checkpoint", "random"])


def test_training_and_decoding_record_the_commit(published, tmp_path):
    training = runs.write_training(tmp_path / "here").split()
    training[training.index("--init_checkpoint") + 1] = "gpt2@v1"
    gpt2_ft.main([*training, *"--lora_dim 2 --max_step 1 --seq_len 16 --device cpu".split()])
    record = json.loads((tmp_path / "here/work/run.json").read_text())
    assert record["hub"] == {"init_checkpoint": f"openai-community/gpt2@{'b' * 40}"}
    trained = checkpoints.read(tmp_path / "here/work/adapter.safetensors")
    assert trained.base.card == "openai-community/gpt2" and trained.card is None

    flags = runs.write_decoding(tmp_path / "here", 3).split()
    flags[flags.index("--init_checkpoint") + 1] = "gpt2"
    search = "--beam 1 --eval_len 4 --seq_len 24 --device cpu --lora_checkpoint user/adapter"
    gpt2_beam.main([*flags, *search.split()])
    record = json.loads((tmp_path / "here/work/beam_prediction.run.json").read_text())
    commit = "a" * 40
    assert record["hub"] == {
        "init_checkpoint": f"openai-community/gpt2@{commit}", "lora_checkpoint": f"user/adapter@{commit}"
    }  # fmt: skip
