"""What several test files share, and what lets several workers run them side by side."""

import contextlib
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

EDGE = Path(__file__).parent / "golden" / "edge"

if "PYTEST_XDIST_WORKER" in os.environ:  # both are read when torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # `two_threads` gives a test its second one
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait leave the cores to the other workers' tests


def pytest_configure(config):
    """Let SIGTERM end a session as Ctrl-C does: workers are told, fixtures are torn down."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_unconfigure(config):
    """End what an interrupted test has left running."""
    for pid in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """The children of a process, and theirs, on Linux; none elsewhere."""
    children = [
        int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()
    ]
    return [*children, *(below for child in children for below in descendants(child))]


COSTLY = ("executed", "browser", "score_once")  # fixtures that take seconds, once for all tests that use them


# Tests that share one of them run in one worker, one after the other; the parts of their names tell them. (The marks of
# --dist loadgroup do not reach the workers under pytest 9.2.)
TOGETHER = {
    "::test_real_systems_differ": "real systems",
    "::test_a_real_system_is_inside_the_band": "real systems",
    "::test_published_scores": "real systems",
    "test_walkthrough.py": "notebook",
    "test_report.py": "browser",
    "test_serve.py::test_in_a_browser": "browser of the page",
    "test_reports_side_by_side.py::test_in_a_browser": "browser of several",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give every test to the next worker that is free, but those of TOGETHER to one."""
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return next((group for part, group in TOGETHER.items() if part in nodeid), nodeid)

    return Together(config, log) if config.getvalue("dist") == "load" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what a costly fixture or real data make slow; the slow ones first, so that no worker is left with one at the end."""
    for item in items:
        if item.get_closest_marker("shared") or ("measure_scores" in item.name and "test_bad_input" in item.nodeid):
            item.add_marker(pytest.mark.slow)  # real data, and programs that start Java
        if not set(COSTLY).isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def two_threads():
    """Two threads for torch in this process, where one of several workers has one: what they can do to a number is seen."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def browser():
    """Chromium; the test is skipped where there is none."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("no chromium; bash scripts/install_chromium.sh installs it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable)
        yield started
        started.close()


@pytest.fixture(scope="session")
def score_once():
    """scores.score, which computes a system's scores only once for all tests of its group: a real one's take seconds."""
    from metrics import nist, scores

    known, compute = {}, scores.score

    def score(references, systems, nist_definition=nist.MTEVAL, java=None):
        keys = [(tuple(map(tuple, references)), tuple(outputs)) for outputs in systems]
        new = [outputs for key, outputs in zip(keys, systems, strict=True) if key not in known]
        if new:
            new_keys = [key for key in keys if key not in known]
            known.update(zip(new_keys, compute(references, new, nist_definition, java), strict=True))
        return [replace(known[key], nist_definition=nist_definition) for key in keys]

    return score


@pytest.fixture(scope="session")
def edge():
    """The edge corpus scored with three systems in one run: its own, perfect ones, and nothing at all."""
    from metrics import inputs, nist, scores

    groups = inputs.read_references(str(EDGE / "refs.txt")).groups
    own = inputs.read_outputs(str(EDGE / "sys.txt"), inputs.References(groups, None)).texts
    perfect = [group[0] for group in groups]
    return scores.score(groups, [own, perfect, [""] * len(groups)], nist.SEGMENT_MEANS)
