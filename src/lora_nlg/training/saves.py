"""A run's checkpoints in its work dir: written whole or not at all, verified, listed in saves.json, the oldest deleted last.

Files: model.STEP.pt (weights, in the recipe's form) and state.STEP.pt (what else it takes to resume) for the newest steps,
model.STEP.pt alone for every epoch's end, as the recipe leaves them,
model.best.pt (the best validation, by --select), model.final.pt and adapter.safetensors (the end). A file counts only once saves.json
names it with its sha256, so whatever a killed process leaves behind is never picked up.
What a state holds stands in train.py (`Run.save`: step, validation, log, optimiser, scaler, each rank's random state and
gradients), the form of the weights in storage/checkpoints.py (`save_recipe`).
"""

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_nlg import methods
from lora_nlg.config import flat
from lora_nlg.errors import UserError
from lora_nlg.files import atomic_writer, cannot_write, sha256
from lora_nlg.model.gpt2 import GPT2
from lora_nlg.storage import checkpoints, tensor_files

MANIFEST = "saves.json"
PREVIOUS = "previous"  # the folder that keeps the last run's results when another one starts in the same place
NOTHING: dict[str, Any] = {"saves": [], "epochs": [], "best": None, "final": None}  # what saves.json lists at the start
RESULTS = ("model.final.pt", "model.best.pt", "adapter.safetensors", "log.jsonl", "run.json")
NUMBERED = re.compile(r"(model|state)\.[0-9]+\.pt")  # the names of saves


def check_start(work_dir: Path, start: str | os.PathLike) -> None:
    """Raise UserError if a run in `work_dir` would move or delete the file that it starts from."""
    folder, name = os.path.split(os.path.realpath(start))
    here = os.path.realpath(work_dir)
    if (folder == here and (name in RESULTS or NUMBERED.fullmatch(name))) or folder == os.path.join(here, PREVIOUS):
        raise UserError(f"a run in {work_dir} would move or delete {start}, its own start; use another work dir")


def check_folder(work_dir: Path) -> None:
    """Raise UserError if a run in `work_dir` would delete checkpoints there that no run has written, or meet a folder as a file."""
    names = {MANIFEST, *RESULTS}
    for path in work_dir.glob("*"):
        if path.is_dir() and (path.name in names or NUMBERED.fullmatch(path.name)):
            raise UserError(f"{path} is a folder, where a run has a file of its own; use another work dir")
    if any((work_dir / name).exists() for name in (MANIFEST, "run.json", "log.jsonl", PREVIOUS)):
        return  # what is not listed there, a run has left that was killed while it saved
    unknown = sorted(path.name for path in work_dir.glob("*.pt") if NUMBERED.fullmatch(path.name))
    if unknown:
        raise UserError(
            f"{work_dir} holds {unknown[0]}, but no {MANIFEST} or run.json of a run that wrote it; use another work dir"
        )


class Saves:
    """The checkpoints of one run. `settings` (JSON) is what a run must share with the one it resumes."""

    def __init__(
        self,
        work_dir: Path,
        settings: dict | None = None,
        keep_last: int = 3,
        base: checkpoints.Base | None = None,
        keep_epochs: bool = True,
    ):
        self.work_dir, self.keep_last, self.base, self.keep_epochs = Path(work_dir), keep_last, base, keep_epochs
        self.listed: dict[str, Any] = {"settings": settings or {}, **NOTHING}

    def read(self) -> bool:
        """Take over what saves.json lists; return whether there is anything. Raises UserError if it is damaged."""
        path = self.work_dir / MANIFEST
        if not path.is_file():
            return False
        try:
            listed = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
            if fault := fault_in(listed):
                raise ValueError(fault)
        except (ValueError, RecursionError, OSError) as error:
            raise UserError(
                f"{path} is damaged ({error}); pass --resume never to start anew, or another --work_dir"
            ) from error
        settings = self.listed["settings"]
        self.listed = NOTHING | listed  # a list of an earlier version has no epochs
        self.listed["settings"], self.earlier = settings, listed["settings"]
        return bool(listed["saves"])

    @property
    def finished(self) -> bool:
        """True once the run has come to its end."""
        return self.listed["final"] is not None

    @property
    def last_step(self) -> int:
        """The step of the newest save; 0 if there is none."""
        return self.listed["saves"][-1]["step"] if self.listed["saves"] else 0

    def check_settings(self) -> None:
        """Raise UserError, naming the differences, if the run in the work dir had other settings than this one."""
        ours, theirs = flat(self.listed["settings"]), flat(self.earlier)
        for settings in (ours, theirs):  # a base may be named by its folder or on the Hub; its sha256 is what counts
            settings.pop("base.card", None)
            settings.pop("base.name", None)
        different = [
            f"{name} {theirs.get(name)}, now {ours.get(name)}"
            for name in ours | theirs
            if ours.get(name) != theirs.get(name)
        ]
        if different:
            raise UserError(
                f"{self.work_dir} holds a run with other settings ({'; '.join(different[:4])}); give those again, use another "
                "--work_dir, or pass --resume never to start anew there"
            )

    def load(self, step: int | None, fall_back: bool) -> dict:
        """Return the state of the newest save, or of `step`, with its weights under "model".

        Raises UserError, naming the file and offering the newest whole save before it, if it is damaged; with `fall_back` that
        one is taken, and said on stderr.
        """
        candidates = [save for save in reversed(self.listed["saves"]) if step in (None, save["step"])]
        if not candidates:
            steps = ", ".join(str(save["step"]) for save in self.listed["saves"])
            raise UserError(f"{self.work_dir} has no save of step {step}; it has {steps}")
        chosen = candidates[0]
        if damage := self._damage(chosen):
            whole = [
                save
                for save in reversed(self.listed["saves"])
                if save["step"] < chosen["step"] and not self._damage(save)
            ]
            if not whole:
                raise UserError(f"{damage}, and no earlier save is whole; pass --resume never to start anew")
            if not fall_back:
                raise UserError(
                    f"{damage}; the save of step {whole[0]['step']} is whole: pass --resume {whole[0]['step']}"
                )
            print(f"warning: {damage}; going on from step {whole[0]['step']}", file=sys.stderr)
            chosen = whole[0]
        for kind in ("saves", "epochs"):
            self.listed[kind] = [save for save in self.listed[kind] if save["step"] <= chosen["step"]]
        state = tensor_files.load(self.work_dir / f"state.{chosen['step']}.pt")[0]
        state["model"] = checkpoints.read(self.work_dir / f"model.{chosen['step']}.pt").tensors
        return state

    def _damage(self, save: dict) -> str | None:
        """Return what is wrong with the files of `save`, None if they are as they were written."""
        for name, digest in save["files"].items():
            path = self.work_dir / name
            if not path.is_file():
                return f"{path} is missing"
            if sha256(path) != digest:
                return f"{path} is damaged (its sha256 is not the one in {MANIFEST})"
        return None

    def begin(self, resumed: bool) -> None:
        """Make the work dir ready for a run that starts anew, or for one that is resumed."""
        if resumed:
            self._write_manifest()  # first: it may still list saves after the one that the run goes on from
            self.tidy()
        else:
            self.start_anew()

    def start_anew(self) -> None:
        """Move an earlier run's results to previous/ and delete its other saves, so that no later step takes them for this run's."""
        earlier = Saves(self.work_dir)
        with contextlib.suppress(UserError):  # a damaged list names no epochs
            earlier.read()
        names = [*RESULTS, *(name for save in earlier.listed["epochs"] for name in save["files"])]
        results = [self.work_dir / name for name in names if (self.work_dir / name).is_file()]
        previous = self.work_dir / PREVIOUS
        if previous.is_dir() and not any(path.suffix in (".pt", ".safetensors") for path in results):
            for path in results:  # of a run that came to nothing: it takes the place of none that did not
                path.unlink()
        elif results:
            try:
                if previous.is_dir() and not previous.is_symlink():
                    shutil.rmtree(previous)
                previous.mkdir()
            except OSError as error:
                raise cannot_write(previous, error) from error
            for path in results:
                path.replace(previous / path.name)
        (self.work_dir / MANIFEST).unlink(missing_ok=True)
        self.listed |= NOTHING
        self.tidy()

    def tidy(self) -> None:
        """Delete saves that saves.json does not list, and the temporary files of a process that was killed."""
        listed = {name for kind in ("saves", "epochs") for save in self.listed[kind] for name in save["files"]}
        for pattern in ("*.pt", ".*.tmp"):
            for path in self.work_dir.glob(pattern):
                if path.name not in listed and (NUMBERED.fullmatch(path.name) or path.suffix == ".tmp"):
                    path.unlink(missing_ok=True)

    def add(self, model: GPT2, step: int, state: dict, ends_epoch: bool = False) -> list[str]:
        """Save weights and state of `step`; delete the oldest save only when the new one is on disk and was read back.

        The weights of an epoch's end outlive their state, unless `keep_epochs` is off. Return the names of the files.
        """
        weights = {f"model.{step}.pt": self._write(f"model.{step}.pt", self._weights(model, step))}
        name = f"state.{step}.pt"
        files = weights | {name: self._write(name, lambda path: tensor_files.save_torch(state, path))}
        self.listed["saves"] = _with(self.listed["saves"], step, files)[-self.keep_last :]
        if ends_epoch and self.keep_epochs:
            self.listed["epochs"] = _with(self.listed["epochs"], step, weights)
        self._write_manifest()
        self.tidy()
        return list(files)

    def add_best(self, model: GPT2, step: int, valid_loss: float, bleu: float | None = None) -> list[str]:
        """Write model.best.pt, with what the validation measured. Return the names of what was written."""
        digest = self._write("model.best.pt", self._weights(model, step))
        measured = {"valid_loss": valid_loss} | ({} if bleu is None else {"bleu": bleu})
        self.listed["best"] = {"step": step, **measured, "files": {"model.best.pt": digest}}
        self._write_manifest()
        return ["model.best.pt"]

    def finish(self, model: GPT2, step: int) -> None:
        """Write model.final.pt and, of a model with adapters, adapter.safetensors."""
        files = {"model.final.pt": self._write("model.final.pt", self._weights(model, step))}
        config, tensors = methods.adapter_config(model), methods.adapter_tensors(model)
        if config is not None and config.method != methods.PLAIN:
            files["adapter.safetensors"] = self._write(
                "adapter.safetensors", lambda path: checkpoints.save_adapters(tensors, path, config, self.base, step)
            )
        self.listed["final"] = {"step": step, "files": files}
        self._write_manifest()

    def _weights(self, model: GPT2, step: int) -> Callable[[Path], str]:
        return lambda path: checkpoints.save_recipe(model, path, self.base, step)

    def _write(self, name: str, write: Callable[[Path], str]) -> str:
        """Write a file, read it back, and return its sha256."""
        path = self.work_dir / name
        try:
            written = write(path)
            if sha256(path) != written:
                raise UserError(f"{path} reads back other than it was written; check the disk")
        except UserError as error:
            if not self.listed["saves"]:
                raise
            raise UserError(
                f"{error}; the save of step {self.last_step} is whole: mend this and go on with --resume"
            ) from error
        return written

    def _write_manifest(self) -> None:
        with atomic_writer(self.work_dir / MANIFEST) as file:
            json.dump(self.listed, file, indent=1)
            file.write("\n")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. Raises ValueError where it has a key twice: the first one's value would be lost."""
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"it has {max(keys, key=keys.count)!r} twice")
    return dict(pairs)


def _with(saves: list[dict], step: int, files: dict[str, str]) -> list[dict]:
    """Return `saves` with that of `step` at the end, in place of an earlier one of that step."""
    return [save for save in saves if save["step"] != step] + [{"step": step, "files": files}]


def fault_in(listed: object) -> str | None:
    """Return what is wrong with the content of saves.json, in words; None if it is such as `Saves` writes."""
    if not isinstance(listed, dict) or {*listed, "epochs"} != {"settings", *NOTHING}:
        return "it has other fields"
    if not isinstance(listed["settings"], dict):
        return "its settings are no object"
    saves, epochs = listed["saves"], listed.get("epochs", [])
    for name, kind in (("saves", saves), ("epochs", epochs)):
        if not isinstance(kind, list):
            return f"its {name} are no list"
    named: list[tuple[str, Any, tuple[str, ...]]] = [
        (f"save {n}", save, ("model.{}.pt", "state.{}.pt")) for n, save in enumerate(saves, 1)
    ]
    named += [(f"epoch {n}", save, ("model.{}.pt",)) for n, save in enumerate(epochs, 1)]
    named += [("best", listed["best"], ("model.best.pt",))] if listed["best"] is not None else []
    named += [("final", listed["final"], ("model.final.pt",))] if listed["final"] is not None else []
    for where, save, files in named:
        if fault := _fault_in_save(save, files):
            return f"its {where} {fault}"
    for name, kind in (("saves", saves), ("epochs", epochs)):
        steps = [save["step"] for save in kind]
        if steps != sorted(set(steps)):
            return f"its {name} are not in the order of their steps"
    best = listed["best"]
    if best is not None and not isinstance(best.get("valid_loss"), float):
        return "its best has no valid_loss"
    if best is not None and not isinstance(best.get("bleu", 0.0), float):
        return "its best has a bleu that is no number"
    return None


def _fault_in_save(save: object, names: tuple[str, ...]) -> str | None:
    """Return what is wrong with an entry of saves.json that must list the files `names`; None if nothing is."""
    if not isinstance(save, dict):
        return "is no object"
    step, files = save.get("step"), save.get("files")
    if type(step) is not int or step < 1:
        return f"has the step {step!r}"
    if not isinstance(files, dict) or not {name.format(step) for name in names} <= set(files):
        return f"does not list {' and '.join(name.format(step) for name in names)}"
    strange = next((name for name in files if not re.fullmatch(r"[\w.]+", name)), None)
    if strange is not None:
        return f"lists {strange!r}, which is no name of a file of a run"
    if not all(isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) for digest in files.values()):
        return "has a sha256 that is none"
    return None
