"""What goes with a decoding's output, and what is made of it, so that neither is taken for another decoding's. No torch."""

import json
from pathlib import Path

from lora_nlg import files, flags
from lora_nlg.config import GPT2_VOCAB_SIZE
from lora_nlg.errors import UserError
from lora_nlg.tasks.formatted import USUAL_ENDS

FORMATTED = "_formatted.jsonl"  # how the names of formatted files end
PREVIOUS = "previous_decoding"  # the folder beside an output that keeps the last one when another is made in its place
MADE_OF = {  # by steps 5 and 6, which say in no file what they were made of
    "beam_prediction.jsonl": ("prediction.txt", "scores.json"),
    "beam_base.jsonl": ("base.txt", "scores.json"),
}


def record_of(output: Path) -> Path:
    """Return the file that says how `output` was decoded."""
    return files.beside(output, ".run.json")


def partial_of(output: Path) -> Path:
    """Return the file of what is decoded of `output` so far."""
    return files.beside(output, ".partial.jsonl")


def set_aside(output: Path) -> list[Path]:
    """Move an earlier output, and what was made of it, to a folder beside it; return where they are now, none if there was nothing."""
    made = [output.with_name(name) for name in (output.name, *MADE_OF.get(output.name, ()))]
    there = [path for path in made if path.is_file()]
    if not there:
        return []
    folder = output.parent / PREVIOUS
    try:
        folder.mkdir(exist_ok=True)
        for path in (*made, record_of(output)):
            (folder / path.name).unlink(missing_ok=True)  # what was made of one is not to lie beside another
        return [path.replace(folder / path.name) for path in (*there, record_of(output)) if path.is_file()]
    except OSError as error:
        raise files.cannot_write(folder, error) from error


def end_tokens(output: Path, formatted: Path | None = None) -> tuple[int, ...]:
    """Return the end tokens that `output` was decoded with, as the record beside it says; without a record the usual two.

    Raises UserError where the record is of an interrupted decoding or of another output, or is damaged; and where the encoded file
    beside `formatted` is no longer the one that was decoded: line 7 may be another input now.
    """
    record = record_of(output)
    if not record.exists():
        return USUAL_ENDS
    try:
        said = json.loads(record.read_text(encoding="utf-8"))
        tokens, sha256 = said["settings"]["search"]["eos_token_ids"], said.get("sha256")
        data, sha256_of_data = flags.recorded(said.get("argv", ()), "--data"), said["settings"].get("data")
        if not isinstance(tokens, list) or not all(type(t) is int and 0 <= t < GPT2_VOCAB_SIZE for t in tokens):
            raise ValueError("its eos_token_ids are no whole numbers of tokens")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{record} is damaged ({error}); decode again, or move it away") from error
    if sha256 is None:
        raise UserError(
            f"the decoding that {record} is about was interrupted; finish it first, with gpt2_beam.py --resume"
        )
    if sha256 != files.sha256(output):
        raise UserError(
            f"{output} is not what was decoded, by the sha256 in {record}; decode again, or move the record away to take the file "
            "as it is"
        )
    encoded = encoded_beside(formatted) if formatted and sha256_of_data else None
    # Another name is that of a part, or of another encoding of the same lines.
    if encoded and data and Path(data).name == encoded.name and files.sha256(encoded) != sha256_of_data:
        raise UserError(
            f"{encoded} is not the data that {output} was decoded from, by the sha256 in {record}; decode again, or move the record "
            "away to take the file as it is"
        )
    return tuple(tokens)


def encoded_beside(formatted: Path) -> Path | None:
    """Return the encoded file that step 2 makes beside a formatted one; None if it is not there."""
    name = formatted.name.removesuffix(FORMATTED)
    encoded = formatted.with_name(f"{name}.jsonl")
    return encoded if name != formatted.name and encoded.is_file() else None
