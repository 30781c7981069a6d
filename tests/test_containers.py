"""The Dockerfile without a container engine: its rules, its packages, what is copied, and the commands that need no root."""

import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import pytest

import documents
from documents import ROOT, read
from test_project import git

IGNORED = [line for line in read(".dockerignore").splitlines() if line and not line.startswith("#")]
MADE = """.git/config .venv/bin/python vocab/vocab.bpe vocab/encoder.json data/mini/train.jsonl data/e2e/train.txt data/own/a/b.jsonl
    pretrained_checkpoints/gpt2-medium/model.safetensors trained_models/mini/log.jsonl eval/metrics/paraphrases.npz build/lib/a.py
    src/__pycache__/a.cpython-311.pyc tests/__pycache__/b.pyc src/lora_nlg.egg-info/PKG-INFO .hypothesis/a .mypy_cache/a""".split()


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions in order, each as its word and the rest on one line."""
    text = re.sub(r"^#.*\n", "", read("Dockerfile"), flags=re.MULTILINE).replace("\\\n", " ")
    return [
        (word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)
    ]


def runs(as_root: bool) -> list[str]:
    """Return the commands before USER or those after it."""
    words = [word for word, _ in instructions()]
    user = words.index("USER")
    return [rest for word, rest in (instructions()[:user] if as_root else instructions()[user:]) if word == "RUN"]


def values(word: str) -> list[str]:
    return [rest for name, rest in instructions() if name == word]


def packages() -> list[str]:
    [apt] = [command for command in runs(as_root=True) if "apt-get install" in command]
    return re.search(r"apt-get install ([^&]*)", apt)[1].replace("-y --no-install-recommends", "").split()


def is_ignored(path: str) -> bool:
    """Whether .dockerignore leaves a file out: the last pattern that fits it or a folder above it says."""
    ignored = False
    for line in IGNORED:
        pattern = line.removeprefix("!").removeprefix("**/")
        tails = PurePosixPath(path).parts if "**/" in line else ()
        names = [str(folder) for folder in (PurePosixPath(path), *PurePosixPath(path).parents)]
        if any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for name in (*names, *tails)):
            ignored = not line.startswith("!")
    return ignored


def tracked() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout of git")
    return git("ls-files", "--cached", "--others", "--exclude-standard").decode().splitlines()


def test_the_rules_of_good_images_are_kept():
    """Pinned bases; packages without extras and lists; the last user is not root; nothing but COPY copies; a command in JSON."""
    documented = re.findall(r"BASE=(\S+)", read("docs/containers.md"))
    bases = [value.partition("=")[2] for value in values("ARG") if value.startswith("BASE=")] + documented
    assert len(bases) == 2
    assert all(re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", base) and "latest" not in base for base in bases)
    assert values("FROM") == ["${BASE}"]
    [apt] = [command for command in runs(as_root=True) if "apt-get" in command]
    assert re.fullmatch(
        r"apt-get update && apt-get install -y --no-install-recommends [^&]+ && rm -rf /var/lib/apt/lists/\*", apt
    )
    assert packages() == sorted(packages()) and len(packages()) > 1
    assert values("USER") == ["lora"] and len(runs(as_root=False)) == 1
    assert not {"ADD", "MAINTAINER", "SHELL"} & {word for word, _ in instructions()}
    assert "sudo" not in read("Dockerfile")
    assert values("CMD") == ['["bash", "scripts/run_all.sh"]']


def test_apt_has_the_packages():
    """On Debian and Ubuntu, the bases' systems; it needs no root."""
    if shutil.which("apt-get") is None:
        pytest.skip("no apt-get here")
    known = subprocess.run(["apt-cache", "policy", *packages()], capture_output=True, text=True).stdout
    if "Candidate: (none)" in known or known.count("Candidate:") < 1:
        pytest.skip("apt has no lists here; apt-get update fetches them")
    command = ["apt-get", "install", "--simulate", "-y", "--no-install-recommends", *packages()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_image_has_what_git_has():
    """Fails when a file is left out that git has, or copied that it ignores."""
    assert [path for path in tracked() if is_ignored(path)] == []
    assert [path for path in MADE if not is_ignored(path)] == []
    not_gits_own = [path for path in MADE if not path.startswith(".git/")]
    assert git("check-ignore", *not_gits_own).decode().split() == not_gits_own


def test_the_document_uses_what_the_dockerfile_has():
    commands = "".join(block for _, block in documents.BLOCK.findall(read("docs/containers.md")))
    arguments = {value.partition("=")[0] for value in values("ARG")}
    assert set(re.findall(r"--build-arg (\w+)=", commands)) == arguments
    volumes = re.findall(r"-v \$PWD/(\w+):(\S+?)/(\w+)(?=[ \"])", commands)
    assert [(there, name) for _, there, name in volumes] == [(*values("WORKDIR"), name) for name, _, _ in volumes]
    assert {name for name, _, _ in volumes} == {"data", "pretrained_checkpoints", "trained_models"}


def can_install(folder: Path) -> bool:
    """Whether pip reaches packages, by the smallest one that is required."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(folder),
        "Unidecode==1.4.0",
    ]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.slow
def test_the_set_up_works_in_a_folder_of_the_images_files(tmp_path):
    """With a home of its own and pip's cache. Fails when the set-up reads a file that is not copied."""
    if not can_install(tmp_path / "wheels"):
        pytest.skip("no network for pip")
    copied = [path for path in tracked() if not is_ignored(path)]
    project, home = tmp_path / "lora-nlg", tmp_path / "home"
    for path in copied:
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, project / path)
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "TMPDIR") or name.startswith("PIP_")}
    cache = subprocess.run([sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True).stdout.strip()
    environment = {**kept, "HOME": str(home), "PIP_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"}

    def sh(command: str) -> subprocess.CompletedProcess:
        return subprocess.run(["sh", "-c", command], cwd=project, env=environment, capture_output=True, text=True)

    try:
        [set_up] = runs(as_root=False)
        done = sh(set_up)
        assert done.returncode == 0 and "== Set-up is complete" in done.stdout, done.stdout + done.stderr
        again = sh("bash scripts/00_setup.sh && bash scripts/02_create_datasets.sh mini")
        assert again.returncode == 0 and "set-up" not in again.stdout.lower(), again.stdout + again.stderr
        assert (project / "data/mini/test.jsonl").is_file()
    finally:
        shutil.rmtree(project / ".venv", ignore_errors=True)  # a gigabyte
