"""Where the real data lie that some tests need, and what to do where they are missing. None of them is part of the project."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"  # a folder beside the checkout, with a folder for each of the names below
# Name: the variable that names another folder, the files that must be there, how to get them
SETS = {
    "e2e": (
        "E2E_DATA_DIR",
        ("train.txt", "valid.txt", "test.txt"),
        "bash scripts/02_create_datasets.sh e2e downloads the E2E data into data/e2e",
    ),
    "webnlg": (
        "WEBNLG_DATA_DIR",
        ("train.json", "dev.json", "test.json"),
        "bash scripts/02_create_datasets.sh webnlg downloads the WebNLG 2017 data into data/webnlg",
    ),
    "webnlg/outputs": (
        None,
        ("scores.tsv",),
        "these are public system outputs with their known scores, which the project does not pass on",
    ),
    "dart": (
        "DART_DATA_DIR",
        ("dart-v1.1.1-full-dev.json", "dart-v1.1.1-full-test.json"),
        "bash scripts/02_create_datasets.sh dart downloads DART 1.1.1 into data/dart",
    ),
    "scoring": (
        None,
        ("scores.tsv",),
        "these are public system outputs with their known scores, which the project does not pass on",
    ),
    "published": (
        None,
        ("e2e_since_the_paper.tsv", "webnlg_dart.tsv"),
        "these are the collections that eval/published*.tsv were made from, which the project does not pass on",
    ),
    "PAPER.md": (
        None,
        (),
        "this is the collection that eval/published.tsv was made from, which the project does not pass on",
    ),
}


def folder(name: str) -> Path:
    """Return where `name` is: the folder that its variable names, else data/NAME if it is there, else the one beside the checkout."""
    variable, files, _ = SETS[name]
    if variable and os.environ.get(variable):
        return Path(os.environ[variable])
    downloaded = ROOT / "data" / name
    return downloaded if files and all((downloaded / file).is_file() for file in files) else SHARED / name


def missing(name: str) -> str | None:
    """Return a sentence that says what is not there and how to get it, or None."""
    variable, files, how = SETS[name]
    place = folder(name)
    absent = [path for path in (place / file for file in files or ("",)) if not path.is_file()]
    if not absent:
        return None
    return f"no {absent[0]}: {how}" + (f"; {variable} names a folder that has them" if variable else "")


def marks(*names: str) -> list[pytest.MarkDecorator]:
    """Return the marks of a test or case that reads the real `names`: `shared`, and skipped where one of them is missing."""
    reasons = [reason for name in names if (reason := missing(name))]
    return [pytest.mark.shared, pytest.mark.skipif(bool(reasons), reason=". ".join(reasons))]


def needs(*names: str):
    """Return `marks` as one decorator."""

    def mark(test):
        for one in marks(*names):
            test = one(test)
        return test

    return mark
