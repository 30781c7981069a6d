"""What goes with exported weights, from the records beside a checkpoint: a model card, and the settings that texts are made with."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lora_nlg
from lora_nlg import methods
from lora_nlg.config import END_OF_TEXT_ID, BeamConfig
from lora_nlg.data.bpe import END_OF_TEXT
from lora_nlg.errors import UserError, visible
from lora_nlg.flags import E2E_SEARCH, recorded
from lora_nlg.storage import hub
from lora_nlg.tasks import TASKS

FILE, GENERATION = "README.md", "generation_config.json"
LICENSE = "mit"  # this project's, and the Hub's word for GPT-2's own
DATA = {  # by the folder that step 2 makes: what people call it, and its name on the Hub
    "e2e": ("the E2E NLG Challenge", "tuetschek/e2e_nlg"),
    "webnlg": ("WebNLG 2017", "webnlg-challenge/web_nlg"),
    "dart": ("DART 1.1.1", "GEM/dart"),
    "mini": ("this project's small bundled set of invented venues", None),
}
MADE_BY = "**made by**: lora-nlg"  # by which a card is known again
LARGEST = 2**63  # a score is less
OUTPUTS = "prediction.txt"  # the run's own, in scores.json
# transformers' names of the search's settings. The bans and penalties of repetition are left out: theirs reach into the input.
SEARCH = {
    "beam": "num_beams",
    "length_penalty": "length_penalty",
    "eval_len": "max_new_tokens",
    "min_length": "min_new_tokens",
}
# What the records must be, as far as they are read here: a file is not what its name promises if it is otherwise.
SHAPES: dict[str, tuple[tuple[tuple[str, ...], type], ...]] = {
    "run.json": ((("argv",), list), (("hub",), dict)),
    "beam_prediction.run.json": (
        (("settings",), dict),
        (("settings", "search"), dict),
        (("settings", "search", "eos_token_ids"), list),
    ),
    "scores.json": ((("systems",), list), (("signature",), dict)),
}

PEFT_USE = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

base, tokenizer = AutoModelForCausalLM.from_pretrained("{base}"), AutoTokenizer.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "{name}")
ids = tokenizer("{example}{end}", return_tensors="pt")
made = model.generate(**ids, generation_config=GenerationConfig.from_pretrained("{name}"))
print(tokenizer.decode(made[0, ids.input_ids.shape[1]:], skip_special_tokens=True))"""
HF_USE = """\
from transformers import pipeline

generate = pipeline("text-generation", "{name}")
print(generate("{example}{end}", return_full_text=False)[0]["generated_text"])"""


@dataclass(frozen=True)
class Run:
    """What the folder that a checkpoint lies in says of its run. What is not there is empty."""

    training: Mapping = field(default_factory=dict)  # run.json
    decoding: Mapping = field(default_factory=dict)  # beam_prediction.run.json
    scored: Mapping = field(default_factory=dict)  # scores.json

    @property
    def data(self) -> str | None:
        """The name of the data set: that of the folder that was trained on."""
        folder = self._data_folder()
        return visible(folder.name) if folder else None

    @property
    def task(self) -> str | None:
        """The task, as the task.json beside the data says, or the data set's name."""
        folder = self._data_folder()
        said = _object(folder / "task.json").get("task") if folder else None
        named = said or {"mini": "e2e"}.get(str(self.data), self.data)
        return named if isinstance(named, str) and named in TASKS else None

    def _data_folder(self) -> Path | None:
        path = self.given("--train_data")
        return Path(path).parent if path else None

    def given(self, flag: str) -> str | None:
        """Return what the training was given as a flag; None if that is not recorded."""
        return recorded(self.training.get("argv") or (), flag)

    @property
    def base(self) -> str | None:
        """The base's name on the Hub, where it was named so."""
        said = _within(self.training, "hub", "init_checkpoint")
        found = hub.ID.fullmatch(said) if isinstance(said, str) else None
        return found[1] if found else None

    @property
    def search(self) -> Mapping:
        """The rules that the run's own outputs were decoded with."""
        return _within(self.decoding, "settings", "search") or {}

    def scores_of(self, digest: str, name: str) -> dict[str, float]:
        """Return the scores of the run's outputs; none unless this checkpoint made them: the decoding recorded its `name`.

        When another decoding begins, it moves the scores of the one before away.
        """
        if _within(self.decoding, "settings", name) != digest:
            return {}
        own = (s for s in self.scored.get("systems") or () if Path(str(_within(s, "file"))).name == OUTPUTS)
        scores = _within(next(own, {}), "scores")
        return dict(scores) if isinstance(scores, Mapping) else {}


def beside(checkpoint: Path) -> Run:
    """Return what is recorded in the folder of a checkpoint. Raises UserError for a record that is damaged."""
    names = ("run.json", "beam_prediction.run.json", "scores.json")
    return Run(*(_object(checkpoint.parent / name) for name in names))


def _object(path: Path) -> dict:
    if not os.path.exists(path):
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no object")
        for names, kind in SHAPES.get(path.name, ()):
            if not isinstance(_within(content, *names), kind | None):
                raise ValueError(f"its {names[-1]} is no {kind.__name__}")
        _check_search(_within(content, "settings", "search") or {})
        _check_scored(content)
    except (ValueError, RecursionError, OSError, UserError) as error:
        raise UserError(f"{path} is damaged ({error}); make it again, or move it away to export without it") from error
    return content


def _check_search(search: Mapping) -> None:
    """Raise UserError or ValueError for rules of a search that none has; records of earlier versions may have fewer of them."""
    said = {rule.name: search[rule.name] for rule in dataclasses.fields(BeamConfig) if rule.name in search}
    if isinstance(said.get("eos_token_ids"), list):
        said["eos_token_ids"] = tuple(said["eos_token_ids"])
    rules = BeamConfig(**{"eval_len": E2E_SEARCH.eval_len, **said})
    if not all(type(token) is int and 0 <= token < 2**31 for token in rules.eos_token_ids):
        raise ValueError("its eos_token_ids are no whole numbers of tokens")


def _check_scored(content: Mapping) -> None:
    """Raise ValueError for what stands in scores.json in the place of a number."""
    for system in content.get("systems") or ():
        scores = _within(system, "scores") or {}
        if not isinstance(scores, Mapping):
            raise ValueError("its scores are no object")
        for name, score in scores.items():
            if (
                type(score) not in (int, float)
                or not -LARGEST < score < LARGEST
                or not re.fullmatch(r"[\w. +-]+", name)
            ):
                raise ValueError(f"its {visible(name)[:40]} is no score")
    for name in ("segments", "inputs"):
        n = _within(content, "signature", name)
        if n is not None and type(n) is not int:
            raise ValueError(f"its {name} are no whole number")


def _within(content: Any, *names: str) -> Any:
    for name in names:
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


def generation_config(run: Run, vocab_size: int) -> dict[str, object]:
    """Return the generation_config.json with which transformers searches as the run did; without a run it ends texts, and no more."""
    ends = [token for token in run.search.get("eos_token_ids") or [END_OF_TEXT_ID] if token < vocab_size]
    settings: dict[str, object] = {"do_sample": False, "max_new_tokens": E2E_SEARCH.eval_len}
    if ends:
        eos = ends if len(ends) > 1 else ends[0]
        settings |= {"bos_token_id": ends[0], "eos_token_id": eos, "pad_token_id": ends[0]}
    settings |= {theirs: run.search[ours] for ours, theirs in SEARCH.items() if run.search.get(ours) is not None}
    if settings.get("num_beams", 1) == 1:
        settings.pop("length_penalty", None)  # of no effect, which transformers warns of
    return settings


@dataclass(frozen=True)
class Card:
    """What a model card says."""

    name: str  # of the repository, or of the folder
    library: str  # peft or transformers
    run: Run
    base: str | None = None  # its name on the Hub
    card: str | None = None  # the base's name here
    base_sha256: str | None = None
    config: methods.Config | None = None  # of the adapters, merged or not
    step: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)

    def text(self) -> str:
        """Return the README.md of the export: front matter for the Hub, and what people ask first."""
        return f"---\n{self.front_matter()}\n---\n\n# {self.name.rpartition('/')[2]}\n\n{self.facts()}{self.table()}{self.use()}"

    def front_matter(self) -> str:
        """Return the YAML that the Hub goes by."""
        from huggingface_hub import EvalResult, ModelCardData

        title, data = DATA.get(str(self.run.data), ("", None))
        results = [
            EvalResult("text-generation", data, title, metric.lower(), score, dataset_split="test", metric_name=metric)
            for metric, score in self.scores.items()
            if data is not None
        ]
        method = self.config.method if self.config else None
        return ModelCardData(
            license=LICENSE,
            base_model=self.base,
            library_name=self.library,
            pipeline_tag="text-generation",
            tags=["gpt2", "data-to-text", *([method] if method else [])],
            datasets=[data] if data else None,
            metrics=[metric.lower() for metric in self.scores] or None,
            model_name=self.name.rpartition("/")[2] if results else None,
            eval_results=results or None,
        ).to_yaml()

    def facts(self) -> str:
        """Return what it is, one line a fact; what is not known is left out."""
        task, data = self.run.task, self.run.data
        titled = DATA[data][0] if data in DATA else data
        base = f"`{self.base}`" if self.base else f"`{self.card}`, which has no name on the Hub" if self.card else None
        trained = "GPT-2, trained whole" if self.run.training else None
        if self.config:
            merged = ", merged into the base" if self.library == "transformers" else ""
            trained = methods.method(self.config.method).summary(self.config) + merged
        known = {
            "what": trained,
            "task": f"{task}: a text for an input such as `{TASKS[task].example}`" if task else None,
            "data": titled,
            "base": base and base + (f", weights `{self.base_sha256[:12]}…`" if self.base_sha256 else ""),
            "training": f"{self.step:,} micro-batches" if self.step else None,
            "licence": "MIT; the base and the data have their own",
        }
        made_by = f"- {MADE_BY} {lora_nlg.__version__}, a reproduction of [LoRA](https://arxiv.org/abs/2106.09685)'s experiments\n"
        return "".join(f"- **{name}**: {fact}\n" for name, fact in known.items() if fact) + made_by

    def table(self) -> str:
        """Return the scores and what they are of; nothing without any."""
        if not self.scores:
            return ""
        data = self.run.data
        n = _within(self.run.scored, "signature", "segments") or _within(self.run.scored, "signature", "inputs")
        of = f"the {f'{n} ' if n else ''}test inputs of {DATA[data][0] if data in DATA else data or 'its data set'}"
        rows = [
            list(self.scores),
            ["---"] * len(self.scores),
            [f"{score:.4f}" if isinstance(score, float) else str(score) for score in self.scores.values()],
        ]
        shown = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        return f"\n## Scores\n\nOf this very run, on {of}:\n\n{shown}\n"

    def use(self) -> str:
        """Return the lines that make a text with it."""
        lines = PEFT_USE if self.library == "peft" else HF_USE
        task = TASKS[self.run.task or "own"]
        shown = lines.format(
            name=self.name, base=self.base or "FOLDER_OF_THE_BASE", example=task.example, end=END_OF_TEXT
        )
        return (
            f"\n## Use\n\n```python\n{shown}\n```\n\nAn input ends with `{END_OF_TEXT}`, which is where its text begins. "
            f"`{GENERATION}` has the end tokens and the search.\n"
        )


def check_place(folder: Path) -> None:
    """Raise UserError where a card would replace somebody's README.md, as in the folder of a project."""
    there = folder / FILE
    if there.is_file() and MADE_BY not in there.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{there} is no model card of an export, and would be lost; give --output a folder of its own")


def files(card: Card, vocab_size: int) -> dict[str, str]:
    """Return what goes beside the weights, by name."""
    settings = json.dumps(generation_config(card.run, vocab_size), indent=1)
    return {FILE: card.text(), GENERATION: f"{settings}\n"}


def base_of(run: Run, card: str | None, given: str | None = None) -> str | None:
    """Return the base's name on the Hub: as --init_checkpoint names it, the run's record does, or its card; None if it has none.

    A card alone is a shape: where the run says that it began with other weights than those of the card's name, it is not believed.
    """
    if said := hub.parsed(given) if given else None:
        return said[0]
    if run.base:
        return run.base
    began = run.given("--init_checkpoint") or given
    if began and card in hub.NAMES and not hub.published(began, card):
        return None
    return hub.name_of(card)
