"""How to make the run a second time: commands to paste, and the sha256 of all that it was made from."""

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path

from report_page.contents import SYSTEM, Contents

PYTHON = ".venv/bin/python"
AGAIN = "_again"  # behind the name of the run's folder: what is pasted leaves the run as it is


def folder(run: Contents) -> str:
    """Return the folder that the commands train into: the recorded one, with AGAIN behind."""
    return _training_dir(run) + AGAIN


def commands(run: Contents) -> list[tuple[str, list[str]]]:
    """Return (what, command in the parts of `_command`) of each step, as recorded but into `folder`.

    Text and scores follow from the file names.
    """
    training, decoding = run.record.training, run.record.decoding
    target = Path(_moved(run, _decoding_dir(run)))
    made = [("Training", _command("src/gpt2_ft.py", _argv(run, training), _processes(training)))]
    if decoding:
        made.append(("Beam search", _command("src/gpt2_beam.py", _argv(run, decoding), _processes(decoding))))
    to_text = ["--sample_file", target / "beam_prediction.jsonl", "--input_file", run.data]
    to_text += ["--output_pred_file", target / SYSTEM, "--output_ref_file", target / run.task.references]
    if run.task.decode_flags:
        to_text += ["--ref_type", run.task.name, *run.task.decode_flags]
    made.append(("Ids to text", _command("src/gpt2_decode.py", to_text)))
    scoring: list[object] = [target / run.task.references, target / SYSTEM]
    if run.task.protocols:
        scoring += ["--protocol", *run.task.protocols, "--categories", run.data]
    if "mean" in run.record.signature.get("nist_reference_length", ""):
        scoring.append("-p")
    made.append(("Scores", _command(run.task.scorer, scoring)))
    return made


def _training_dir(run: Contents) -> str:
    return _value_of("--work_dir", run.record.training.get("argv", [])) or str(run.record.work_dir)


def _decoding_dir(run: Contents) -> str:
    return _value_of("--work_dir", run.record.decoding.get("argv", [])) or _training_dir(run)


def _value_of(flag: str, argv: Sequence[str]) -> str:
    """Return the value of a flag: the last one, as the programs take it; nothing if it is not there."""
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
    return next((value for name, value in reversed([*itertools.pairwise(words)]) if name == flag), "").rstrip("/")


def _argv(run: Contents, record: dict) -> list[str]:
    """Return a record's arguments with the folders of the run moved, also behind a flag's =."""
    moved = []
    for word in record.get("argv", []):
        flag, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
        moved.append(flag + equals + _moved(run, value))
    return moved


def _moved(run: Contents, path: str) -> str:
    """Return a path with the run's folder as the one that the commands make; one that is elsewhere stays."""
    trained, decoded = _training_dir(run), _decoding_dir(run)
    if (
        path.endswith(".pt") and path.rpartition("/")[0] == decoded
    ):  # a sweep's decoding has links to its training's weights
        path = f"{trained}/{path.rpartition('/')[2]}"
    home = next((home for home in (trained, decoded) if path.rstrip("/") == home or path.startswith(f"{home}/")), None)
    return path if home is None else home + AGAIN + path[len(home) :]


def _processes(record: dict) -> int:
    return record.get("settings", {}).get("world_size", 1)


def _command(program: str, arguments: Sequence[object], processes: int = 1) -> list[str]:
    """Return the command, quoted for a shell, in parts that belong on one line: the program, then each flag with its values."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    parts = [[PYTHON, *launcher, program]]
    for argument in map(str, arguments):
        if argument.startswith("--"):
            parts.append([])
        parts[-1].append(argument)
    return [shlex.join(part) for part in parts]


def hashes(run: Contents) -> dict[str, str]:
    """Return the sha256 of all that the scores came from, by what it is of: as recorded, as the files are now, the scorers'."""
    training, decoding = (record.get("settings", {}) for record in (run.record.training, run.record.decoding))
    recorded = {
        "the base's weights, as trained on": (training.get("base") or {}).get("sha256"),
        "the training data, as trained on": training.get("train_data"),
        "the weights decoded with": decoding.get("weights"),
        "the data decoded": decoding.get("data"),
    }
    return {
        **{name: digest for name, digest in recorded.items() if digest},
        **run.sha256,
        **run.record.signature.get("sha256", {}),
    }
