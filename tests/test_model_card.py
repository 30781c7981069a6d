"""Model cards and generation settings of exports, read by transformers, PEFT and the Hub's client; exports that are pushed."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

import documents
import gpt2_beam
import gpt2_export
import gpt2_ft
import lora_nlg
import runs
import toy
from fake_hub import TOKEN, hub  # noqa: F401  (a fixture)
from lora_nlg import errors
from lora_nlg.config import CARDS, END_OF_TEXT_ID, GPT2_VOCAB_SIZE
from lora_nlg.methods import add_adapters
from lora_nlg.methods.placement import LoraConfig
from lora_nlg.storage import checkpoints, models
from lora_nlg.storage.model_card import GENERATION, Card, Run, base_of, beside, generation_config

pytestmark = pytest.mark.slow  # transformers' and PEFT's own models

ROOT = Path(__file__).resolve().parents[1]
MINI = ["--model_card", "gpt2.mini", "--init_checkpoint", str(ROOT / "pretrained_checkpoints/gpt2.mini")]
SEARCH = {"beam": 4, "eval_len": 12, "length_penalty": 0.8, "min_length": 2, "eos_token_ids": [50256, 628]}
SCORES = {"BLEU": 0.7012, "NIST": 8.85, "METEOR": 0.468}


@pytest.fixture
def work(tmp_path):
    """A work dir as the steps leave it, for the toy's adapters."""
    folder = tmp_path / "work"
    runs.write_model(tmp_path)
    adapters = {name: t for name, t in toy.tensors(4).items() if "lora_" in name}
    base = checkpoints.Base("gpt2.md", models.fingerprint(toy.model(0)))
    checkpoints.save_adapters(adapters, folder / "adapter.safetensors", LoraConfig(4, 32.0), base, 14)
    argv = ["--train_data", "data/e2e/train.jsonl", "--init_checkpoint=pretrained_checkpoints/gpt2-medium"]
    records = {
        "run.json": {"argv": argv},
        "beam_prediction.run.json": {"settings": {"search": SEARCH, "adapters": models.digest(adapters)}},
        "scores.json": {
            "systems": [
                {"file": "x/base.txt", "scores": {"BLEU": 0.1}},
                {"file": "x/prediction.txt", "scores": SCORES},
            ],
            "signature": {"segments": 630},
        },
    }
    for name, content in records.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def export(work, to: str, output: Path, *flags: str) -> None:
    base = ["--init_checkpoint", str(work.parent / "base.safetensors")] if to == "hf" else []
    model = ["--model_card", f"{work.parent}/config.json", "--lora_checkpoint", str(work / "adapter.safetensors")]
    assert gpt2_export.main(["--to", to, "--output", str(output), *model, *base, *flags]) == 0


def edit(path: Path, **fields) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(("to", "library"), [("peft", "peft"), ("hf", "transformers")])
def test_the_card_says_what_it_is(work, tmp_path, to, library, capsys):
    """As the Hub reads it, and for people. Fails when the base's scores, or none, are taken for the run's."""
    from huggingface_hub import ModelCard

    export(work, to, tmp_path / "out")
    card = ModelCard.load(tmp_path / "out/README.md")
    said = card.data.to_dict()
    assert said["license"] == "mit" and said["library_name"] == library
    assert said["datasets"] == ["tuetschek/e2e_nlg"] and said["metrics"] == ["bleu", "nist", "meteor"]
    assert said["base_model"] == "openai-community/gpt2-medium"
    assert {result.metric_name: result.metric_value for result in card.data.eval_results} == SCORES
    assert "adapters on q,v, rank 4" in card.text
    assert "| BLEU | NIST | METEOR |" in card.text and "| 0.7012 | 8.8500 | 0.4680 |" in card.text
    assert "Of this very run, on the 630 test inputs of the E2E NLG Challenge" in card.text
    assert "**training**: 14 micro-batches" in card.text
    assert str(tmp_path) not in card.content


def test_pefts_settings_name_the_base_as_the_hub_does(work, tmp_path, capsys):
    export(work, "peft", tmp_path / "out")
    named = json.loads((tmp_path / "out/adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == "openai-community/gpt2-medium"


@pytest.mark.parametrize(
    ("training", "card", "given", "base"),
    [
        ({}, "gpt2.md", None, "openai-community/gpt2-medium"),
        ({"argv": ["--init_checkpoint", "random"]}, "gpt2.md", None, None),
        ({"argv": ["--init_checkpoint", "trained_models/mine/model.final.pt"]}, "gpt2.md", None, None),
        ({"argv": ["--init_checkpoint", "pretrained/gpt2-medium/model.safetensors"]}, "gpt2.md", None, "openai-community/gpt2-medium"),
        ({"hub": {"init_checkpoint": "user/base@abc"}, "argv": []}, "gpt2.md", None, "user/base"),
        ({}, "gpt2.md", "user/base@v1", "user/base"),
        ({}, "gpt2.mini", None, None),
        ({}, "/home/me/config.json", None, None),
    ],
)  # fmt: skip
def test_a_base_without_a_name_gets_none(training, card, given, base):
    """Fails when adapters of a base of one's own send people to the published one of the same shape."""
    assert base_of(Run(training), card, given) == base


def test_scores_of_another_checkpoint_are_not_shown(work, tmp_path, capsys):
    """Such as those of the final weights, when an epoch's are exported."""
    settings = json.loads((work / "beam_prediction.run.json").read_text())["settings"]
    edit(work / "beam_prediction.run.json", settings=settings | {"adapters": "0" * 64})
    export(work, "peft", tmp_path / "out")
    assert "BLEU" not in (tmp_path / "out/README.md").read_text()


def test_scores_of_a_decoding_without_adapters_are_not_shown(work, tmp_path, capsys):
    """They are the base's."""
    record = json.loads((work / "beam_prediction.run.json").read_text())
    del record["settings"]["adapters"]
    (work / "beam_prediction.run.json").write_text(json.dumps(record))
    export(work, "peft", tmp_path / "out")
    assert "BLEU" not in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize("penalty", [0.0, 0.8])
def test_a_length_penalty_of_zero_is_not_the_default_of_transformers(penalty):
    run = Run(decoding={"settings": {"search": SEARCH | {"length_penalty": penalty}}})
    assert generation_config(run, GPT2_VOCAB_SIZE)["length_penalty"] == penalty


def test_a_whole_model_has_the_scores_of_its_own_outputs(work, tmp_path, capsys):
    checkpoints.save_recipe(toy.model(0).float(), work / "model.final.pt")
    weights = models.fingerprint(toy.model(0).float())
    flags = ["--to", "hf", "--model_card", f"{tmp_path}/config.json", "--init_checkpoint", f"{work}/model.final.pt"]
    for digest, is_shown in ((weights, True), ("0" * 64, False)):
        edit(work / "beam_prediction.run.json", settings={"search": SEARCH, "weights": digest})
        assert gpt2_export.main([*flags, "--output", str(tmp_path / "out")]) == 0
        card = (tmp_path / "out/README.md").read_text()
        assert ("0.7012" in card) is is_shown and "GPT-2, trained whole" in card


def test_without_a_run_the_card_says_what_the_file_says(work, tmp_path, capsys):
    for path in work.glob("*.json"):
        path.unlink()
    export(work, "peft", tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "rank 4" in card and "Scores" not in card and "datasets" not in card
    settings = json.loads((tmp_path / "out" / GENERATION).read_text())
    assert settings["eos_token_id"] == END_OF_TEXT_ID and "num_beams" not in settings


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("scores.json", "[]"),
        ("scores.json", '{"systems": {}}'),
        ("run.json", "{"),
        ("beam_prediction.run.json", '{"settings": {"search": {"eos_token_ids": 3}}}'),
        *(
            ("beam_prediction.run.json", json.dumps({"settings": {"search": SEARCH | change}}))
            for change in (
                {"beam": "ten"}, {"beam": True}, {"beam": -3}, {"length_penalty": math.nan}, {"eval_len": 2.5}, {"min_length": {}},
                {"eos_token_ids": [-1]}, {"eos_token_ids": [10**30]},
            )
        ),
        *(
            ("scores.json", json.dumps({"systems": [{"file": "prediction.txt", "scores": scores}]}))
            for scores in ({"BLEU": "x"}, {"BLEU": None}, {"BLEU": math.nan}, {"BLEU": 10**400}, {"B|U\n# no": 0.1}, [1])
        ),
        ("scores.json", json.dumps({"systems": [], "signature": {"segments": "x\n# no"}})),
    ],
)  # fmt: skip
def test_a_damaged_record_is_one_sentence_and_nothing_is_written(work, tmp_path, name, content):
    (work / name).write_text(content)
    with pytest.raises(errors.UserError, match=rf"{name} is damaged \(.*\); make it again, or move it away"):
        export(work, "peft", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_transformers_reads_the_generation_settings(work, tmp_path, capsys):
    """The search of the run, and both end tokens. The toy's vocabulary has neither: its folder names none."""
    transformers = pytest.importorskip("transformers")
    (tmp_path / GENERATION).write_text(json.dumps(generation_config(beside(work / "x"), GPT2_VOCAB_SIZE)))
    read = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert (read.num_beams, read.length_penalty, read.max_new_tokens, read.min_new_tokens) == (4, 0.8, 12, 2)
    assert (read.eos_token_id, read.pad_token_id, read.do_sample) == ([50256, 628], 50256, False)
    export(work, "hf", tmp_path / "out")
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out")
    assert model.generation_config.num_beams == 4
    assert "eos_token_id" not in json.loads((tmp_path / "out" / GENERATION).read_text())


@pytest.fixture
def exported(tmp_path, monkeypatch, capsys):
    """The bundled base with untrained adapters, at hand in every form: model.pt, hf, peft."""
    pytest.importorskip("peft")
    if not (ROOT / "vocab/encoder.json").is_file():
        pytest.skip("no vocabulary: bash scripts/00_setup.sh")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = models.base_model(CARDS["gpt2.mini"], MINI[3], torch.Generator())
    add_adapters(model, LoraConfig(4, 32.0), torch.Generator().manual_seed(0))
    checkpoints.save_recipe(model, "model.pt", checkpoints.Base("gpt2.mini", models.fingerprint(model)))
    gpt2_export.main([*MINI, "--to", "hf", "--output", "hf"])
    gpt2_export.main(["--to", "peft", "--lora_checkpoint", "model.pt", "--output", "peft"])
    capsys.readouterr()


def test_what_the_cards_show_for_use_works(exported, capsys):
    """With the very lines of the cards of both, which make the same text."""
    texts = []
    for folder in ("hf", "peft"):
        [lines] = re.findall(r"```python\n(.*?)\n```", Path(folder, "README.md").read_text(), re.DOTALL)
        exec(lines.replace("FOLDER_OF_THE_BASE", "hf"), {})
        texts.append(capsys.readouterr().out.strip())
    assert texts[0] and texts[0] == texts[1]


def test_what_the_readme_shows_for_use_works(exported, capsys):
    """Three lines each, of this package, transformers and PEFT; the places are those of this test, as is the base's name."""
    import peft
    import transformers

    edit(Path("peft/adapter_config.json"), base_model_name_or_path="hf")
    (Path("vocab")).symlink_to(ROOT / "vocab")
    [(_, lines)] = documents.BLOCK.findall(documents.section(documents.read("README.md"), "## As a library"))
    places = {"pretrained_checkpoints/gpt2.mini": MINI[3], "trained_models/mini/model.final.pt": "model.pt"}
    places |= {"trained_models/mini/hf": "hf", "trained_models/e2e_gpt2_md/peft": "peft"}
    for written, here in places.items():
        lines = lines.replace(f'"{written}"', f'"{here}"')
    known = dict(
        lora_nlg=lora_nlg, transformers=transformers, peft=peft, input_ids=torch.tensor([[220, END_OF_TEXT_ID]])
    )
    exec(lines, known)
    assert len(capsys.readouterr().out.splitlines()) > 3  # each of the first two prints what it made
    assert known["made"].shape[1] > 2
    assert [len(block.splitlines()) for block in lines.strip().split("\n\n")] == [3, 3, 3]


@pytest.mark.parametrize("to", ["peft", "hf"])
def test_somebodys_readme_is_not_replaced_and_a_card_is(work, tmp_path, to, capsys):
    """As in the folder of a project, with --output . there."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/README.md").write_text("# My project")
    with pytest.raises(errors.UserError, match=r"README\.md is no model card of an export, and would be lost"):
        export(work, to, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["README.md"]
    (tmp_path / "out/README.md").unlink()
    for _ in range(2):
        export(work, to, tmp_path / "out")


def test_own_data_are_named_and_made_nobodys(tmp_path):
    """A name with a line break stays on its line."""
    run = Run({"argv": ["--train_data", f"{tmp_path}/my\nset/train.jsonl"]})
    text = Card("a", "peft", run, scores=SCORES).text()
    assert "datasets" not in text and "model-index" not in text
    assert "- **data**: my\\nset\n" in text
    (tmp_path / "my\nset").mkdir()
    (tmp_path / "my\nset/task.json").write_text('{"task": "webnlg"}')
    assert run.task == "webnlg"


# Pushed

PUSHED_FILES = [("safetensors", "x.safetensors", "adapter.safetensors"), ("loralib", "x.pt", "x.pt")]


def test_a_pushed_adapter_comes_back_by_its_name(work, tmp_path, hub, monkeypatch, capsys):  # noqa: F811
    """Only what was written goes, whatever else lies in the folder. Fails when the folder goes whole."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/secret.txt").write_text("mine")
    export(work, "peft", tmp_path / "out", "--push", "user/adapter")
    shown = capsys.readouterr()
    assert f"pushed to {hub.url}/user/adapter" in shown.out and TOKEN not in shown.out + shown.err
    assert hub.made == ["user/adapter"]
    assert set(hub.repositories["user/adapter"]) == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", GENERATION
    }  # fmt: skip
    assert '"user/adapter"' in hub.repositories["user/adapter"]["README.md"].decode()
    monkeypatch.chdir(tmp_path)
    theirs = checkpoints.read("user/adapter").adapters()
    assert theirs.keys() == checkpoints.read(work / "adapter.safetensors").adapters().keys()


@pytest.mark.parametrize(("to", "output", "name"), PUSHED_FILES)
def test_a_file_is_pushed_alone(work, tmp_path, hub, monkeypatch, to, output, name, capsys):  # noqa: F811
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    export(work, to, tmp_path / output, "--push", "user/own")
    assert hub.repositories["user/own"] == {name: (tmp_path / output).read_bytes()}


def test_a_merged_model_is_pushed(work, tmp_path, hub, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    export(work, "hf", tmp_path / "out", "--push", "user/merged")
    assert set(hub.repositories["user/merged"]) == {path.name for path in (tmp_path / "out").iterdir()}
    monkeypatch.chdir(tmp_path)
    assert models.fingerprint(models.merged_model(toy.CONFIG, "user/merged", None))


def test_a_push_that_is_refused_is_one_sentence(work, tmp_path, hub, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    words = r"out is written, but cannot be pushed to user/adapter at http.*the server answered 401.*HF_TOKEN"
    with pytest.raises(errors.UserError, match=words) as refused:
        export(work, "peft", tmp_path / "out", "--push", "user/adapter")
    assert "hf_wrong" not in str(refused.value) and "\n" not in str(refused.value)
    assert (tmp_path / "out/README.md").is_file()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        errors.UserError, match=r"cannot be pushed to user/adapter at http://127.0.0.1:9: the connection failed"
    ):
        export(work, "peft", tmp_path / "out", "--push", "user/adapter")


@pytest.mark.parametrize(
    "name", ["adapter", "user/adapter@v1", "a/b/c", "user/", "https://huggingface.co/user/adapter"]
)
def test_a_repository_that_cannot_be_is_refused_before_the_work(work, tmp_path, name):
    with pytest.raises(errors.UserError, match="--push must be OWNER/NAME"):
        export(work, "peft", tmp_path / "out", "--push", name)
    assert not (tmp_path / "out").exists()


def test_the_records_are_those_that_the_programs_write(tmp_path, capsys):
    """Fails when a program gives its record another shape than the card reads."""
    flags = runs.write_training(tmp_path).split()
    gpt2_ft.main([*flags, *"--lora_dim 2 --max_step 1 --seq_len 16 --device cpu".split()])
    flags = runs.write_decoding(tmp_path, 3).split()
    search = f"--beam 2 --eval_len 4 --seq_len 24 --device cpu --lora_checkpoint {tmp_path}/work/model.final.pt"
    gpt2_beam.main([*flags, *search.split()])
    (tmp_path / "work/scores.json").write_text(json.dumps({"systems": [{"file": "prediction.txt", "scores": SCORES}]}))
    run = beside(tmp_path / "work/model.final.pt")
    tensors = checkpoints.read(tmp_path / "work/model.final.pt").adapters()
    assert run.scores_of(models.digest(tensors), "adapters") == SCORES
    assert run.scores_of("0" * 64, "adapters") == {}
    assert run.data == tmp_path.name and run.search["beam"] == 2
    gpt2_beam.main([*flags, *search.split(), "--beam", "3"])  # whose scores are not known yet
    assert beside(tmp_path / "work/model.final.pt").scores_of(models.digest(tensors), "adapters") == {}


@pytest.mark.parametrize(("name", "content"), [("scores.json", {"systems": None}), ("run.json", {"argv": None})])
def test_a_record_with_null_says_nothing(work, tmp_path, name, content, capsys):
    (work / name).write_text(json.dumps(content))
    export(work, "peft", tmp_path / "out")
    assert (tmp_path / "out/README.md").is_file()


def test_the_name_of_a_base_is_one(work, tmp_path, capsys):
    (work / "run.json").write_text(json.dumps({"argv": [], "hub": {"init_checkpoint": "a\n# no\nb@c"}}))
    export(work, "peft", tmp_path / "out")
    assert "# no" not in (tmp_path / "out/README.md").read_text()
