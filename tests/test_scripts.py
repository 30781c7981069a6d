"""What the scripts share: signals that reach what they run, and nothing of the user's environment that reaches it."""

import fcntl
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = 'set -euo pipefail; source scripts/common.sh; attended "$0" -c "$1" "$2"; echo "went on"'
# Takes a moment to save at a signal, as training does.
WORKER = """
import os, signal, sys, time
came = []
def save(number, frame):
    came.append(number)
    if len(came) == 1:
        time.sleep(0.3)
        with open(sys.argv[1], "w") as file:
            file.write(f"saved at {number}, of {len(came)}")
        os._exit(128 + number)  # an exception is lost where Python happens to close a file for want of a name
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, save)
with open(sys.argv[1] + ".pid", "w") as file:
    print(os.getpid(), file=file)
print(os.getpid(), flush=True)
for _ in range(600):
    time.sleep(0.1)  # Python hears no signal that comes just before a sleep until that sleep has ended
"""


def start(saved: Path, *before: str) -> subprocess.Popen:
    command = [*before, "bash", "-c", SCRIPT, sys.executable, WORKER, saved]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("whole_group", [False, True], ids=["the script alone", "its whole group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.slow
def test_a_signal_to_a_script_ends_what_it_runs_and_waits_for_it(number, whole_group, tmp_path):
    """Fails when the script ends at once: what it ran would be left, and the same command would start a second one beside it."""
    process = start(tmp_path / "saved")
    worker = int(process.stdout.readline())
    (os.killpg if whole_group else os.kill)(process.pid, number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert (tmp_path / "saved").read_text() == f"saved at {number}, of 1"
    assert not is_alive(worker)
    assert "went on" not in said


@pytest.mark.slow
def test_a_script_that_nohup_started_outlives_its_terminal(tmp_path):
    process = start(tmp_path / "saved", "nohup")
    worker = int(process.stdout.readline())
    process.send_signal(signal.SIGHUP)
    os.kill(worker, signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert (tmp_path / "saved").read_text() == "saved at 15, of 1"


def test_the_exit_code_of_what_runs_is_the_scripts():
    done = subprocess.run(
        ["bash", "-c", SCRIPT, sys.executable, "import sys; sys.exit(7)", "x"], cwd=ROOT, capture_output=True
    )
    assert done.returncode == 7 and done.stdout == b""


# The scripts themselves, on a Python whose programs do nothing, but for one that works until it gets a signal

PYTHON = """#!/usr/bin/env bash
case $* in *"$WORKS"*) exec "$REAL" -c "$WORKER" "$SAVED" ;; esac
[[ $1 != src/gpt2_ft.py ]] || echo weights >trained_models/mini/model.final.pt
"""


def leave(path: Path) -> None:
    """Make a file as an earlier step does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder with a name that has to be quoted, the scripts, and that Python."""
    folder = tmp_path / "-my check 'out"
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    (folder / "eval").mkdir()
    shutil.copy(ROOT / "eval/published_placement.tsv", folder / "eval")
    (folder / ".venv/bin").mkdir(parents=True)
    for name in "beam_base.jsonl beam_prediction.jsonl base.txt prediction.txt reference.txt".split():
        leave(folder / "trained_models/mini" / name)
    for name in "train.jsonl valid.jsonl test.jsonl test_formatted.jsonl".split():
        leave(folder / "data/mini" / name)
    leave(folder / "trained_models/mini/model.final.pt")
    for name in ("00_setup", "02_create_datasets"):
        (folder / f"scripts/{name}.sh").write_text("")
    (folder / ".venv/bin/python").write_text(PYTHON)
    (folder / ".venv/bin/python").chmod(0o755)
    return folder


def run_script(checkout: Path, script: str, works: str, saved: Path, **settings) -> subprocess.Popen:
    """Start a script; the program that `works` is named by a part of its command line."""
    environment = {**os.environ, "WORKS": works, "REAL": sys.executable, "WORKER": WORKER, "SAVED": str(saved)}
    command = ["bash", str(checkout / "scripts" / script)]
    settings = {"start_new_session": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **settings}
    return subprocess.Popen(command, env=environment, cwd="/", **settings)


def wait_for_worker(saved: Path, seconds: float = 60) -> int:
    """Return the worker's process id, once it hears signals."""
    end, path = time.monotonic() + seconds, saved.with_suffix(".pid")
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < end
        time.sleep(0.01)
    return int(path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "works"),
    [
        ("03_train.sh", "src/gpt2_ft.py"),
        ("03_train.sh", "src/preflight.py"),
        ("04_beam.sh", "--output_file beam_base.jsonl"),
        ("04_beam.sh", "--output_file beam_prediction.jsonl"),
        ("07_compare.sh", "eval/report.py"),
        ("run_all.sh", "src/gpt2_ft.py"),
        ("run_all.sh", "src/gpt2_decode.py"),
        ("sweep.sh", "src/gpt2_ft.py"),
        ("placement.sh", "src/gpt2_ft.py"),
    ],
)
@pytest.mark.parametrize("kill", [os.kill, os.killpg])
def test_every_script_passes_a_signal_on_through_all_levels(script, works, kill, checkout, tmp_path):
    """Once: a second signal says more to a program that is saving. Fails when a level ends before the one below."""
    saved = tmp_path / "saved"
    process = run_script(checkout, script, works, saved)
    try:
        worker = wait_for_worker(saved)
        kill(process.pid, signal.SIGTERM)
        assert process.wait(60) == 143
    finally:
        process.kill()
    assert saved.read_text() == "saved at 15, of 1"
    assert not is_alive(worker)


@pytest.mark.parametrize("script", ["03_train.sh", "run_all.sh"])
def test_ctrl_c_at_a_terminal_comes_once(script, checkout, tmp_path):
    ours, theirs = pty.openpty()
    terminal = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    saved = tmp_path / "saved"
    take_it = lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # noqa: E731
    process = run_script(checkout, script, "src/gpt2_ft.py", saved, preexec_fn=take_it, **terminal)
    try:
        worker = wait_for_worker(saved)
        os.write(ours, b"\x03")
        assert process.wait(60) == 130
    finally:
        process.kill()
        os.close(ours)
        os.close(theirs)
    assert saved.read_text() == "saved at 2, of 1"
    assert not is_alive(worker)


# Mistakes in a script's command, with programs that read it


@pytest.fixture
def readable(checkout) -> Path:
    """The same, with the project's own programs and an empty trained_models."""
    shutil.rmtree(checkout / "trained_models")
    shutil.rmtree(checkout / "eval")
    for name in ("src", "eval"):
        (checkout / name).symlink_to(ROOT / name)
    (checkout / ".venv/bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    return checkout


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}


MISTAKES = [
    ("run_all.sh --presset mini", "unknown flag --presset (did you mean --preset?)"),
    ("run_all.sh --preset minni", "unknown preset minni (did you mean mini?); expected one of: "),
    ("run_all.sh --lr much", "argument --lr: invalid float value: 'much'"),
    ("run_all.sh --scheduler dev_perf", "--scheduler dev_perf is a constant rate in the recipe"),
    ("run_all.sh --rank 1", "unknown flag --rank"),
    ("run_all.sh --lr 1 more", "unrecognized arguments: more"),
    ("run_all.sh --data e2f", "no data set, folder or file e2f (did you mean e2e?)"),
    ("run_seeds.sh 110 111 --presset mini", "unknown flag --presset (did you mean --preset?)"),
    ("run_seeds.sh --preset mini", "give the seeds first, such as"),
    ("run_seeds.sh 110 one", "a seed must be a whole number, but is one"),
    ("run_seeds.sh 110 111 110", "a seed is given twice: 110 111 110"),
    ("run_seeds.sh 110 --preset no", "unknown preset no; expected"),
    ("run_seeds.sh 110 --rank 4", "unknown flag --rank; --help"),
    ("run_seeds.sh 110 --ranks 4", "unknown flag --ranks; --help"),
    ("sweep.sh --rank 1 2", "unknown flag --rank (did you mean --ranks?)"),
    ("sweep.sh --seed 1", "unknown flag --seed (did you mean --seeds?)"),
    ("sweep.sh --lora-dim 3", "--lora_dim is what --ranks is for"),
    ("placement.sh --rank 1", "unknown flag --rank; --help"),
    ("placement.sh --rnaks 1", "unknown flag --rnaks; --help"),
    ("placement.sh --length_penaltie 1", "unknown flag --length_penaltie; --help"),
    ("placement.sh --ranks 1", "--ranks is what the tables say; bash scripts/sweep.sh takes others"),
    ("placement.sh --sed 1", "unknown flag --sed (did you mean --seeds?)"),
    ("methods.sh --rank 1", "unknown flag --rank; --help"),
    ("methods.sh --targets q", "unknown flag --targets"),
    ("methods.sh --doc a.md b.md", "unknown argument b.md; expected flags"),
    ("methods.sh --rates_of nowhere", "--rates_of: there is no nowhere/methods.md; expected a table, or a folder"),
    (
        "methods.sh --rates_of scripts/methods.tsv",
        "the table of --rates_of, scripts/methods.tsv, has no lora; name others",
    ),
    (
        "methods.sh --preset e2e_gpt2_md --budget 1M",
        "--budget would have no effect on full, whose size is in scripts/presets/",
    ),
    (f"methods.sh --doc {ROOT}/docs/methods.md --rates_of nowhere", "--rates_of: there is no nowhere/methods.md"),
    ("methods.sh --earlier a.json", "--earlier: there is no file a.json; expected the methods.json of other runs"),
    (
        "methods.sh --doc docs/methods.md --preset mini_short",
        "--doc docs/methods.md has no line <!-- methods on mini_short: b",
    ),
    ("methods.sh --metods lora", "unknown flag --metods (did you mean --method"),
    ("methods.sh --seeds=110 --seeds 0110", "--seeds has a value twice"),
    ("sweep.sh --length_penalties 0.8 0.80", "--length_penalties has a value twice"),
    ("sweep.sh --seeds=one", "--seeds must be"),
    ("methods.sh --rates_of scripts/methods.tsv --preset e2e_gpt2_md", "--rates_of would have no effect on lora"),
    ("test.sh --quik", "unknown flag --quik (did you mean --quick?)"),
    ("test.sh tests/test_beam.py --qick", "unknown flag --qick (did you mean --quick?)"),
    ("placement.sh --warmup_stpe 3", "unknown flag --warmup_stpe (did you mean --warmup_step?)"),
    ("02_create_datasets.sh minni", "no data set, folder or file minni (did you mean mini?)"),
    ("02_create_datasets.sh mini --add_boss", "unknown flag --add_boss (did you mean --add_bos?)"),
    ("03_train.sh --work-dri x", "unknown flag --work_dri (did you mean --work_dir?)"),
    ("04_beam.sh --beem 3", "unknown flag --beem (did you mean --beam?)"),
    ("04_beam.sh --checkpoint bset", "--checkpoint must be best or final, but is bset (did you mean best?)"),
    ("04_beam.sh --chekpoint best", "unknown flag --chekpoint (did you mean --checkpoint?)"),
    ("run_all.sh --checkpoint=last", "--checkpoint must be best or final, but is last"),
    ("run_all.sh --checkpoint", "--checkpoint needs a value"),
    ("04_beam.sh --bea 3", "unknown flag --bea (did you mean --beam?)"),
    ("05_decode.sh --tokenise", "unknown flag --tokenise (did you mean --tokenize?)"),
    ("07_compare.sh --work_dri x", "unknown argument --work_dri (did you mean --work_dir?)"),
    ("install_chromium.sh now", "unknown argument now"),
    ("run_all.sh --data=", "--data is empty; name a place, or leave it out"),
    ("07_compare.sh --work-dir=", "--work_dir is empty; name a place, or leave it out"),
    (
        "02_create_datasets.sh mini --output x",
        "--output is this step's own, by its work dir and data; use src/gpt2_encode.py",
    ),
    ("02_create_datasets.sh mini --input=x", "--input is this step's own"),
]


@pytest.mark.parametrize(("command", "says"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_is_of_the_script_that_was_typed_and_leaves_nothing(command, says, readable):
    """Fails when it is found out by a program below, in whose name, or after folders, data and locks were made."""
    script, *arguments = command.split()
    shutil.copy(ROOT / "scripts" / script, readable / "scripts")
    before = everything_in(readable)
    done = subprocess.run(["bash", readable / "scripts" / script, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{script}: error: {says}"), done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert everything_in(readable) == before


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"NPROC": "two"}, "NPROC=two and NNODES= must be whole numbers"),
        ({"NPROC": "0"}, "NPROC=0 and NNODES= must be whole numbers"),
        ({"NNODES": "1:4"}, "NPROC= and NNODES=1:4 must be whole numbers"),
        ({"NNODES": "2", "NODE_RANK": "2"}, "NODE_RANK must be from 0 to 1, but is 2"),
        ({"NNODES": "2", "NODE_RANK": "-1"}, "NODE_RANK must be from 0 to 1, but is -1"),
    ],
)
def test_numbers_of_processes_that_are_none_are_one_sentence(given, says, readable):
    for script in ("run_all.sh", "03_train.sh", "sweep.sh"):
        command = ["bash", readable / "scripts" / script]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **given})
        assert done.returncode == 2 and done.stderr.startswith(f"{script}: error: {says}"), done.stderr
        assert done.stderr.count("\n") == 1 and done.stdout == ""


@pytest.mark.parametrize("flag", ["--json", "-l", "--seg-level=x", "--seg_level"])
def test_scores_go_where_the_later_steps_look(flag, checkout):
    """Fails when the summary below them shows those of an earlier call."""
    (checkout / ".venv/bin/python").write_text("#!/bin/sh\necho eval/e2e/measure_scores.py\n")
    done = subprocess.run(["bash", checkout / "scripts/06_evaluate.sh", flag, "x"], capture_output=True, text=True)
    assert done.returncode == 2 and "is this step's own, by its work dir and data; use eval/e2e/" in done.stderr


@pytest.mark.parametrize(
    "given", [{"SHELLOPTS": "keyword"}, {"PYTHONHASHSEED": "abc"}, {"PYTHONHASHSEED": "-1"}], ids=lambda one: str(one)
)
def test_more_of_a_users_environment_that_says_nothing_here(given, readable):
    """An exported option of bash takes arguments for variables; with that seed no Python starts."""
    command = ["bash", readable / "scripts/07_compare.sh", "--work_dir", "x", "--data=mini", "--work_dri=y"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **given})
    assert done.stderr.startswith("07_compare.sh: error: unknown argument --work_dri=y (did you mean --work_dir?)")


def test_a_leftover_node_rank_says_nothing():
    """SageMaker, PyTorchJob and others set it: all was trained, and nothing decoded or scored, with exit code 0."""
    show = f'cd {ROOT}; source scripts/common.sh; echo "${{NODE_RANK:-none}}"'
    for given, shown in (({}, "none"), ({"NNODES": "2"}, "1")):
        environment = {**os.environ, "NODE_RANK": "1", **given}
        done = subprocess.run(["bash", "-c", show], capture_output=True, text=True, env=environment)
        assert done.stdout == f"{shown}\n"


def test_own_data_lie_in_one_folder_in_every_locale():
    """A letter is one byte or two: a job of cron did not find what a terminal's step 2 had made."""
    show = f"cd {ROOT}; source scripts/common.sh; own_data_made /x/größe.csv"
    shown = {
        subprocess.run(
            ["bash", "-c", show], capture_output=True, text=True, env={**os.environ, "LC_ALL": locale}
        ).stdout
        for locale in ("C", "C.UTF-8")
    }
    assert len(shown) == 1 and "data/own/gr" in shown.pop()


def test_what_a_terminal_would_obey_is_not_said_by_scripts():
    command = ["bash", ROOT / "scripts/03_train.sh", "--preset", "\x1b]0;x\x07\ny"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "\x1b" not in done.stderr


def test_a_document_wants_both_marks_in_their_order(readable):
    begin, end = "<!-- methods on mini: begin, written by scripts/methods.sh -->", "<!-- methods on mini: end -->"
    for text in (begin, f"{end}\n{begin}"):
        (readable / "d.md").write_text(f"{text}\n")
        command = ["bash", readable / "scripts/methods.sh", "--doc", readable / "d.md", "--rates_of", "nowhere"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2 and f"d.md has no line {end} below the one with begin" in done.stderr


def test_flags_of_pytest_reach_it(readable):
    """--quiet is as near to --quick as a mistyped one."""
    shutil.copy(ROOT / "scripts/test.sh", readable / "scripts")
    (readable / "scripts/install_chromium.sh").write_text("")
    for tool in ("ruff", "mypy", "lint-imports"):
        (readable / ".venv/bin" / tool).write_text("#!/bin/sh\n")
        (readable / ".venv/bin" / tool).chmod(0o755)
    real = f'case $* in *pytest*) echo "$@" ;; *) exec "{sys.executable}" "$@" ;; esac'
    (readable / ".venv/bin/python").write_text(f"#!/bin/sh\n{real}\n")
    command = ["bash", readable / "scripts/test.sh", "--quick", "--quiet", "-k", "quik", "--lf"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("-m not slow --quiet -k quik --lf\n")


@pytest.mark.slow
def test_what_is_refused_before_training_leaves_nothing_and_names_the_script(readable):
    """By preflight, after the flags were read: below run_all.sh, and in a sweep. Fails when a check leaves a folder or a lock."""
    before = everything_in(readable)
    for script, *arguments in (["run_all.sh", "--lora_dim", "0"], ["sweep.sh", "--ranks", "1", "--max_step", "0"]):
        done = subprocess.run(["bash", readable / "scripts" / script, *arguments], capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(f"{script}: error: "), done.stderr
        assert done.stderr.count("error:") == 1
        assert everything_in(readable) == before


@pytest.mark.parametrize(
    ("script", "gone", "says"),
    [
        ("03_train.sh", "data/mini/train.jsonl", "02 first: bash scripts/02_create_datasets.sh mini"),
        ("04_beam.sh", "data/mini/test.jsonl", "02 first: bash scripts/02_create_datasets.sh mini"),
        ("04_beam.sh", "trained_models/mini/model.final.pt", "03 first: bash scripts/03_train.sh --preset mini"),
        (
            "05_decode.sh",
            "trained_models/mini/beam_prediction.jsonl",
            "04 first: bash scripts/04_beam.sh --preset mini",
        ),
        ("05_decode.sh", "trained_models/mini/beam_base.jsonl", "04 first: bash scripts/04_beam.sh --preset mini"),
        ("06_evaluate.sh", "trained_models/mini/base.txt", "05 first: bash scripts/05_decode.sh --preset mini"),
        ("06_evaluate.sh", "trained_models/mini/prediction.txt", "05 first: bash scripts/05_decode.sh --preset mini"),
    ],
)
def test_a_step_says_which_step_is_missing(script, gone, says, checkout):
    (checkout / gone).unlink()
    done = subprocess.run(["bash", checkout / "scripts" / script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{script}: error: there is no {gone}; run step {says}\n"


@pytest.mark.parametrize(
    ("command", "decoded"),
    [
        ("04_beam.sh", "final"),
        ("04_beam.sh --checkpoint best --beam 3", "best"),
        ("04_beam.sh --checkpoint=final", "final"),
        ("run_all.sh --lr 1", "final"),
        ("run_all.sh --checkpoint best --lr 1", "best"),
    ],
)
@pytest.mark.parametrize("whole", [False, True], ids=["adapters", "whole model"])
def test_the_best_or_the_final_weights_are_decoded(command, decoded, whole, checkout):
    """The base alone is decoded as before. Fails when the training or a program gets --checkpoint, or a flag is lost beside it."""
    work = checkout / "trained_models/mini"
    leave(work / "model.best.pt")
    if whole:
        (work / "run.json").write_text('{"settings": {"lora": {"rank": 0, "alpha": null}}}')
    (checkout / ".venv/bin/python").write_text('#!/bin/sh\necho "$@"\n')
    for name in ("05_decode", "06_evaluate", "07_compare"):
        (checkout / f"scripts/{name}.sh").write_text("")
    script, *flags = command.split()
    done = subprocess.run(["bash", checkout / "scripts" / script, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    log = work / "run_all.log"  # has what the later steps of a whole pipeline say
    said = done.stdout + (log.read_text() if log.exists() else "")
    calls = [line.split() for line in said.splitlines() if line.startswith("src/")]
    base, trained = [call for call in calls if call[0] == "src/gpt2_beam.py"]
    weights, of_mini = f"trained_models/mini/model.{decoded}.pt", "pretrained_checkpoints/gpt2.mini"
    named = [f"--init_checkpoint {weights}"] if whole else [f"--init_checkpoint {of_mini} --lora_checkpoint {weights}"]
    assert f"--output_file beam_prediction.jsonl {named[0]} --resume" in " ".join(trained)
    assert f"--output_file beam_base.jsonl --init_checkpoint {of_mini} --resume" in " ".join(base)
    assert not [call for call in calls if any(part.startswith("--checkpoint") for part in call)]
    assert ("--beam 3" in " ".join(trained)) == ("--beam 3" in command)


def test_a_run_without_its_best_weights_says_which_step_is_missing(checkout):
    command = ["bash", checkout / "scripts/04_beam.sh", "--checkpoint", "best"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no trained_models/mini/model.best.pt; run step 03 first" in done.stderr


def test_the_missing_step_has_the_work_dir_and_the_base_has_its_step(checkout):
    command = ["bash", checkout / "scripts/05_decode.sh", "--work-dir", "other place"]
    assert "scripts/04_beam.sh --preset mini --work_dir other place\n" in subprocess.run(
        command, capture_output=True, text=True
    ).stderr  # fmt: skip
    leave(checkout / "data/e2e/train.jsonl")
    command = ["bash", checkout / "scripts/03_train.sh", "--preset", "e2e_gpt2_md"]
    assert "run step 01 first: bash scripts/01_download_pretrained_checkpoints.sh gpt2.md\n" in subprocess.run(
        command, capture_output=True, text=True
    ).stderr  # fmt: skip


@pytest.mark.parametrize("found", ["install.target='/x'", "global.prefix='/y'"])
def test_a_pip_conf_that_puts_packages_elsewhere_is_named(found, checkout):
    """PIP_USER=0 undoes a `user = true`, but nothing undoes these."""
    shutil.copy(ROOT / "scripts/00_setup.sh", checkout / "scripts")
    for name in ("requirements.txt", "requirements-dev.txt"):
        (checkout / name).touch()
    (checkout / ".venv/bin/python").write_text(f'#!/bin/sh\ncase "$*" in *"config list"*) echo "{found}" ;; esac\n')
    done = subprocess.run(["bash", checkout / "scripts/00_setup.sh"], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"pip's configuration has {found}, and .venv would stay empty" in done.stderr


SETTINGS = [
    *"CDPATH=/tmp:/ PYTHONSAFEPATH=1 PYTHONHOME=/nowhere PYTHONOPTIMIZE=2 PYTHONWARNINGS=error PYTHONINSPECT=1".split(),
    *"PYTHONPATH=FOLDER PYTHONSTARTUP=FOLDER/json.py PYTHONIOENCODING=ascii LC_ALL=C LC_ALL=POSIX IFS=/ GLOBIGNORE=*".split(),
    *"PIP_USER=1 PIP_TARGET=/x PIP_REQUIRE_VIRTUALENV=1 POSIXLY_CORRECT=1 SHELLOPTS=noclobber:noglob:posix".split(),
    *"TMPDIR=/nowhere HOME=/nowhere VIRTUAL_ENV=/nowhere CONDA_PREFIX=/nowhere GREP_OPTIONS=--count".split(),
    "BASH_FUNC_cd%%=() { builtin cd /tmp; echo here; }",
    "BASH_FUNC_mkdir%%=() { echo none; }",
]
STEP = """
source scripts/common.sh
attended "$0" src/format_converting_e2e.py "$1/raw.txt" "$1/formatted.jsonl"
"$0" -c "print(chr(215))" >"$1/formatted.jsonl.times"
pwd
echo scripts/03*
echo "${PIP_USER-} ${PIP_TARGET-}${PIP_REQUIRE_VIRTUALENV-}"
type -t mkdir
"""


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_users_environment_does_not_reach_a_step(setting, tmp_path):
    """A folder with modules of our names on PYTHONPATH, and others. Most of them fail without what common.sh undoes."""
    for name in ("lora_nlg", "regex", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    name, value = setting.replace("FOLDER", str(tmp_path)).split("=", 1)
    (tmp_path / "raw.txt").write_text("name : The Tall Jar||It is a pub .\n")
    (tmp_path / "formatted.jsonl.times").touch()
    command = ["bash", "-c", STEP, sys.executable, tmp_path]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, name: value}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == [str(ROOT), "scripts/03_train.sh", "0 ", "file"]
    assert (tmp_path / "formatted.jsonl.times").read_bytes() == "×\n".encode()
    assert b"Tall Jar" in (tmp_path / "formatted.jsonl").read_bytes()


def test_bash_env_is_read_by_the_first_shell_alone(tmp_path):
    (tmp_path / "env").write_text("echo read\n")
    environment = {**os.environ, "BASH_ENV": str(tmp_path / "env")}
    command = ["bash", "-c", "source scripts/common.sh; attended bash -c 'echo step'"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "read\nstep\n"


def test_where_packages_come_from_stays_the_users(tmp_path):
    kept = {"PIP_INDEX_URL": "a", "PIP_EXTRA_INDEX_URL": "b", "PIP_CERT": "c", "PIP_PROXY": "d", "PIP_FIND_LINKS": "e"}
    command = ["bash", "-c", "source scripts/common.sh; env"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **kept}, capture_output=True, text=True)
    assert {f"{name}={value}" for name, value in kept.items()} <= set(done.stdout.splitlines())


# The programs by themselves, in the same environments

PROGRAMS = [
    path
    for path in sorted((*ROOT.glob("src/*.py"), *ROOT.glob("eval/*.py"), *ROOT.glob("eval/*/*.py")))
    if "__main__" in path.read_text(encoding="utf-8")
]
TRAIN = ("src/gpt2_ft.py", *"--train_data a --valid_data a --max_step 1".split())
SCORE = ("eval/e2e/measure_scores.py", "refs", "sys")


def run_program(*arguments, python: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *python, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_programs_find_their_modules_and_have_help_in_every_environment(path):
    """PYTHONSAFEPATH leaves the program's folder out, and with PYTHONOPTIMIZE=2 there are no docstrings to help with."""
    settings = {"PYTHONSAFEPATH": "1", "PYTHONOPTIMIZE": "2", "PYTHONIOENCODING": "ascii", "PYTHONWARNINGS": "error"}
    done = run_program(path, "--help", **settings)
    assert (done.returncode, done.stderr) == (0, "")


FOREIGN = [(TRAIN, "torch"), (TRAIN, "numpy"), (SCORE, "regex"), (SCORE, "numpy")]


@pytest.mark.parametrize(("command", "package"), FOREIGN)
@pytest.mark.parametrize("content", ["", "import no_such_module", "raise ImportError('broken')"])
def test_a_foreign_package_on_pythonpath_is_named(command, package, content, tmp_path):
    (tmp_path / f"{package}.py").write_text(content)
    done = run_program(*command, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2, done.stderr
    said = done.stderr.splitlines()[-1]
    assert f"{tmp_path}/{package}.py, which PYTHONPATH names, is not the package that is needed" in said


@pytest.mark.parametrize("command", [TRAIN, SCORE])
def test_a_python_without_the_packages_is_named(command):
    done = run_program(*command, python=("-S",))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "has no package " in done.stderr and "use .venv/bin/python" in done.stderr


def test_the_programs_own_modules_come_before_others(tmp_path):
    (tmp_path / "metrics.py").write_text("raise SystemExit('the wrong module')")
    for path in (SCORE[0], "eval/summary.py"):
        assert run_program(path, "--help", PYTHONPATH=str(tmp_path)).returncode == 0


def test_letters_that_an_encoding_lacks_are_no_error(tmp_path):
    """Names of files may have accents, and what a program says of its output names it."""
    names = tmp_path / "é.txt", tmp_path / "ü≥.jsonl"
    names[0].write_text("name : The Tall Jar||It is a pub .\n")
    done = run_program("src/format_converting_e2e.py", *names, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2265" in done.stdout


PAGES = [
    f"eval/{name}.py"
    for name in ("summary", "compare", "report", "slots", "closing", "sweep", "methods_table", "placement_table")
]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_needs_its_packages_only_once_it_can_say_so(path, tmp_path):
    """With neither numpy nor regex it says what is missing, or what is wrong with the run. Fails at a traceback."""
    done = run_program(path, tmp_path / "run", "--data", tmp_path / "test.jsonl", python=("-S",))
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    (tmp_path / "numpy.py").write_text("x = 1\n")
    (tmp_path / "regex.py").write_text("x = 1\n")
    done = run_program(path, tmp_path / "run", "--data", tmp_path / "test.jsonl", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("path", ["src/format_converting_e2e.py", "eval/e2e/measure_scores.py"])
def test_a_folder_that_is_gone_is_one_sentence(path, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f"cd {gone} && rmdir {gone} && exec {sys.executable} {ROOT}/{path} a b"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "the current folder is not there any more" in done.stderr


def test_output_beyond_the_largest_file_is_one_sentence(tmp_path):
    """Fails when a limit of the shell, which is no full disk, is a traceback."""
    line = f"ulimit -f 0; exec {sys.executable} {ROOT}/src/describe_task.py e2e --field references >{tmp_path}/out"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "File too large" in done.stderr


def test_a_work_dir_that_begins_with_a_dash_is_no_flag(readable):
    done = subprocess.run(
        ["bash", "scripts/06_evaluate.sh", "--work_dir=-lead"], cwd=readable, capture_output=True, text=True
    )
    assert done.returncode == 2 and "there is no ./-lead/" in done.stderr, done.stderr


@pytest.mark.parametrize("stdout", [">&-", ">/dev/full"])
def test_a_script_that_nobody_hears_goes_on(stdout, readable):
    """Fails when a line that cannot be printed ends the step before its work, with bash's words for it."""
    line = f"bash scripts/07_compare.sh {stdout}"
    done = subprocess.run(["bash", "-c", line], cwd=readable, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("07_compare.sh: error: data/mini/test_formatted"), (
        done.stderr
    )


PORTS = [
    ({"MASTER_PORT": "99999"}, "MASTER_PORT must be a port"),
    ({"MASTER_PORT": "abc"}, "MASTER_PORT must be a port"),
]


@pytest.mark.parametrize(("given", "says"), [*PORTS, ({"NPROC": "9" * 20}, "must be whole numbers of at least 1")])
def test_a_port_or_a_number_of_processes_that_is_none_is_one_sentence(given, says, tmp_path):
    settings = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"} | given
    line = "set -euo pipefail; source scripts/common.sh; launch src/gpt2_ft.py"
    done = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True
    )
    assert done.returncode == 2 and says in done.stderr, done.stderr
