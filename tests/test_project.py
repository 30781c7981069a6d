"""The project as a thing to clone, install and cite: line ends, the package's contents, the citation, the hooks."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import yaml

import lora_nlg
import real_data

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "lora_nlg"
# What a shell reads, and what is compared byte for byte
SAME_EVERYWHERE = (
    "scripts",
    ".ci",
    "data",
    "tests/golden",
    "tests/flags.tsv",
    "tests/slots_checked.tsv",
    "requirements.txt",
)


def git(*arguments: object) -> bytes:
    # Else, where a commit hook runs the tests, git would work on the repository that is committed to.
    outside = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=outside, capture_output=True, check=True).stdout


def test_a_clone_that_is_told_to_write_crlf_has_the_same_scripts_and_data(tmp_path):
    """Fails without .gitattributes: bash stops at the first line that ends with a carriage return."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout of git")
    clone = tmp_path / "clone"
    git(
        "-c",
        "core.autocrlf=true",
        "clone",
        "--quiet",
        "--shared",
        "--no-checkout",
        "-c",
        "core.autocrlf=true",
        ROOT,
        clone,
    )
    git("-C", clone, "checkout", "HEAD", "--", ".gitattributes", *SAME_EVERYWHERE)
    names = git("ls-tree", "-r", "--name-only", "HEAD", "--", *SAME_EVERYWHERE).decode().splitlines()
    assert {"scripts/run_all.sh", ".ci/run", "data/mini/train.txt", "tests/golden/train.json"} <= set(names)
    for name in names:
        content = (clone / name).read_bytes()
        assert content == git("cat-file", "blob", f"HEAD:{name}"), name
        assert not name.startswith(("scripts/", ".ci/")) or b"\r" not in content, name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel as pip builds it, from a copy, so that the checkout stays clean."""
    pytest.importorskip("setuptools", minversion="77", reason="the wheel is built with setuptools")
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [path] = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_package_and_no_program(wheel):
    """Fails when a room has no __init__.py, or when a module reads a file that only a checkout has beside it."""
    files = {f"lora_nlg/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*") if path.is_file()}
    expected = {name for name in files if "__pycache__" not in name}
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert len(expected) > 30
    assert found == expected


@pytest.mark.slow
def test_the_wheel_says_what_it_is_and_what_it_needs(wheel):
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    about = message_from_string(wheel.read(name).decode())
    assert (about["Name"], about["Version"], about["License-Expression"]) == ("lora-nlg", lora_nlg.__version__, "MIT")
    assert set(about["Requires-Python"].split(",")) == {">=3.10", "<3.14"}
    assert wheel.read(name.replace("METADATA", "licenses/LICENSE")) == (ROOT / "LICENSE").read_bytes()
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    wanted = sorted(line.replace(" ", "").replace("'", '"') for line in lines if line)
    assert wanted and sorted(line.replace(" ", "") for line in about.get_all("Requires-Dist")) == wanted


@pytest.mark.slow
def test_the_package_is_imported_without_the_checkout(wheel, tmp_path):
    """Every module, from the wheel alone, in a folder that is none of the project's."""
    modules = [
        name[:-3].replace("/", ".").removesuffix(".__init__") for name in wheel.namelist() if name.endswith(".py")
    ]
    wheel.extractall(tmp_path)
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]; import lora_nlg; print(lora_nlg.__file__)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code, *modules], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == tmp_path / "lora_nlg" / "__init__.py"


def test_the_citation_is_of_this_version_and_has_what_the_format_asks_for():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert (str(citation["version"]), citation["license"]) == (lora_nlg.__version__, "MIT")
    [paper] = citation["references"]
    assert {"type", "title", "authors"} <= set(paper) and paper["url"].endswith("/2106.09685")


def test_the_changelog_has_this_version():
    assert f"\n## [{lora_nlg.__version__}] - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_real_data_are_where_their_variable_says_or_are_asked_for_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("WEBNLG_DATA_DIR", str(tmp_path))
    assert real_data.missing("webnlg").startswith(
        f"no {tmp_path / 'train.json'}: bash scripts/02_create_datasets.sh webnlg "
    )
    assert real_data.missing("webnlg").endswith("; WEBNLG_DATA_DIR names a folder that has them")
    for name in ("train.json", "dev.json", "test.json"):
        (tmp_path / name).touch()
    assert real_data.missing("webnlg") is None and real_data.folder("webnlg") == tmp_path
    monkeypatch.setattr(real_data, "SHARED", tmp_path / "nowhere")
    monkeypatch.setattr(real_data, "ROOT", tmp_path)
    assert "which the project does not pass on" in real_data.missing("scoring")
    monkeypatch.delenv("E2E_DATA_DIR", raising=False)
    assert "bash scripts/02_create_datasets.sh e2e" in real_data.missing("e2e")


def test_only_one_file_says_where_the_real_data_are():
    tests = {
        path.name
        for path in (ROOT / "tests").glob("*.py")
        if re.search(r'[/] "shared"', path.read_text(encoding="utf-8"))
    }
    assert tests == {"real_data.py"}
