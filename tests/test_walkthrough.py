"""The notebook: it runs as it is committed, prints and shows what is committed, and what it computes is what it says."""

import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from matplotlib.image import imread

import run_walkthrough
from documents import ROOT, links, read
from run_walkthrough import figures, small
from test_project import git

MOST_BYTES = 12_000  # of a figure
MOST_DIFFERENCE = 0.001  # of two figures, on average, where white is 1; processors made 0.000002
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")

# Before the notebook's own cells: which axes of each figure have labels is seen when the figure is shown.
WATCH = """
import matplotlib.pyplot as plt

labels, show = [], plt.show


def watching():
    axes = plt.gcf().axes
    labels.append([[axis.get_xlabel() for axis in axes], [axis.get_ylabel() for axis in axes]])
    show()


plt.show = watching
"""

# After them: the results, as JSON.
PROBE = """
import json

import importlib.metadata

owners = importlib.metadata.packages_distributions()
print(json.dumps(dict(
    labels=labels,
    packages=sorted({package for name in list(sys.modules) for package in owners.get(name, ())}),
    parameters=[n_full, n_A, n_B, n_adapters],
    starts={name: [look.A, look.B, look.change] for name, look in looks.items()},
    stuck=stuck,
    base_valid_loss=base_valid_loss,
    valid_losses=[run.valid_loss for run in runs.values()],
    beyond_rank=[(values[rank] / values[0]).item() for rank, of in spectra.items() for values in of.values()],
    within_rank=[(values[rank - 1] / values[0]).item() for rank, of in spectra.items() for values in of.values()],
    similarity={"".join(name): [phi[0, 0].item(), phi[3, 15].item()] for name, phi in maps.items()},
    merging=[gap, scale, exact_gap],
    saved_keys=list(saved_keys),
    counts=counts,
    left=left,
)))
"""


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output.text for output in cell.get("outputs", []) if output.output_type == "stream")


def are_near(one: str, other: str) -> bool:
    """Whether two printed numbers are the same, those with a point but for one in the last digit: processors round differently."""
    last = 10.0 ** -len(one.partition(".")[2])
    return one == other or ("." in one and abs(float(one) - float(other)) < 1.5 * last)


def pixels(png: str) -> np.ndarray:
    """Return the picture of a PNG in base64, every number from 0 to 1."""
    return imread(io.BytesIO(base64.b64decode(png)))


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook after a run in which no cell failed, with a cell before its own and one after them."""
    notebook, folder = run_walkthrough.read(), tmp_path_factory.mktemp("walkthrough")
    notebook.cells = [nbformat.v4.new_code_cell(WATCH), *notebook.cells, nbformat.v4.new_code_cell(PROBE)]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MPLBACKEND", raising=False)  # figures go into the notebook
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "TMPDIR"):
            (folder / name).mkdir()
            patch.setenv(name, str(folder / name))
        run_walkthrough.execute(notebook)
    assert not list((folder / "TMPDIR").glob("tmp*"))  # it tidies up
    return notebook


@pytest.fixture(scope="module")
def results(executed):
    return json.loads(executed.cells[-1].outputs[0].text)


def test_it_is_valid_and_was_run_from_its_first_cell_to_its_last_without_an_error():
    notebook = run_walkthrough.read()
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} == {"stream", "display_data"}
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}


def test_what_it_prints_is_committed(executed):
    """But for last digits: docs/run_walkthrough.py writes it anew after a change of cells, base or data."""
    for cell, run in zip(run_walkthrough.read().cells, executed.cells[1:-1], strict=True):
        old, new = " ".join(printed(cell).split()), " ".join(printed(run).split())
        assert NUMBER.sub("0", old) == NUMBER.sub("0", new), cell.id
        numbers = zip(NUMBER.findall(old), NUMBER.findall(new), strict=True)
        assert [pair for pair in numbers if not are_near(*pair)] == [], cell.id


@pytest.mark.skipif(sys.version_info < (3, 11), reason="drawn by the matplotlib of Python 3.11 and later")
def test_what_it_shows_is_committed(executed):
    committed = [figure["image/png"] for figure in figures(run_walkthrough.read())]
    assert max(map(len, committed)) * 3 / 4 < MOST_BYTES
    for old, new in zip(committed, figures(executed), strict=True):
        one, other = pixels(old), pixels(small(new["image/png"]))
        assert one.shape == other.shape
        assert abs(one - other).mean() < MOST_DIFFERENCE


def test_figures_have_labels_and_need_no_colour(executed, results):
    images = [figure["image/png"] for figure in figures(executed)]
    assert len(images) == len(results["labels"]) == 5
    assert all(any(labels) for figure in results["labels"] for labels in figure)
    for image in images:
        red, green, blue = pixels(image)[..., :3].transpose(2, 0, 1)
        assert (red == green).all() and (green == blue).all()


def test_the_arithmetic(results):
    assert results["parameters"] == [16_777_216, 65_536, 65_536, 131_072]


def test_only_the_usual_start_learns_from_the_base(results):
    """Gradients of A and of B, and the largest change of a logit."""
    starts = results["starts"]
    assert starts["both zero"] == [0, 0, 0]
    assert starts["A random, B zero"][0] == starts["A random, B zero"][2] == 0 < starts["A random, B zero"][1]
    assert min(starts["both random"]) > 0
    assert results["stuck"] == [0, 0, 0]


def test_both_ranks_learn(results):
    assert all(loss < results["base_valid_loss"] / 2 for loss in results["valid_losses"])


def test_the_change_is_of_the_rank(results):
    assert max(results["beyond_rank"]) < 1e-5  # float32's rounding
    assert min(results["within_rank"]) > 1e-3


def test_two_ranks_learn_more_alike_than_chance(results):
    """B starts at zero, so what two trainings share in it they have learnt."""
    chance = results["similarity"]["random"]
    for target in "qv":
        learnt = results["similarity"][f"B{target}"]
        assert all(phi > 3 * random for phi, random in zip(learnt, chance, strict=True))


def test_merged_and_unmerged_agree(results):
    gap, scale, exact_gap = results["merging"]
    assert gap < 1e-5 * scale  # float32
    assert exact_gap < 1e-10  # float64


def test_only_adapters_are_saved(results):
    names = [f"h.{layer}.attn.c_attn.lora_{side}" for layer in range(4) for side in "AB"]
    assert results["saved_keys"] == names


@pytest.mark.slow
def test_the_other_families_have_their_counts_and_what_they_leave_behind(results):
    """The published counts of GPT-2 Medium; and after merging only prefixes and adapters are there, prefixes in positions."""
    assert {name: results["counts"][name] for name in ("top2", "bias", "prefix_layer", "adapter_l", "lora", "vera", "fourier")} == {
        "top2": 25_192_448, "bias": 271_360, "prefix_layer": 344_064, "adapter_l": 368_784, "lora": 393_216, "vera": 98_304,
        "fourier": 48_000,
    }  # fmt: skip
    assert {name for name, (extra, _) in results["left"].items() if extra} == {
        "prefix_layer",
        "prefix_kv",
        "adapter_h",
        "adapter_l",
    }
    assert {name for name, (_, positions) in results["left"].items() if positions} == {"prefix_layer", "prefix_kv"}


# The first cell


def first_cell() -> str:
    return next(cell.source for cell in run_walkthrough.read().cells if cell.cell_type == "code")


# In the place of Python: writes down where and how it was called, and brings the vocabulary.
STUB = """#!/bin/sh
echo "$PWD $*" >>"$CALLS"
case "$*" in *"download.py vocab") mkdir vocab && touch vocab/vocab.bpe ;; esac
"""


@pytest.fixture
def run_first_cell(tmp_path):
    """A function that runs the first cell in a folder with an address; it returns its sys.path[0] or its error, and Python's calls."""
    stub, calls = tmp_path / "python", tmp_path / "calls"
    stub.write_text(STUB)
    stub.chmod(0o755)

    def run(folder: Path, address: str = "") -> tuple[str, list[str]]:
        calls.write_text("")
        source = first_cell().replace('ADDRESS = ""', f"ADDRESS = {address!r}")
        code = f"import sys\nsys.executable = {str(stub)!r}\n{source}\nprint(sys.path[0])"
        environment = {"PATH": "/usr/bin:/bin", "CALLS": str(calls), "HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
        return (done.stdout or done.stderr).splitlines()[-1], calls.read_text().splitlines()

    return run


@pytest.mark.parametrize("folder", ["docs", "."])
def test_the_first_cell_does_nothing_in_a_checkout(run_first_cell, folder):
    assert run_first_cell(ROOT / folder) == (str(ROOT / "src"), [])


def test_the_first_cell_clones_and_installs_elsewhere_and_only_once(run_first_cell, tmp_path):
    repository, content = tmp_path / "repository", tmp_path / "content"
    (repository / "src/lora_nlg").mkdir(parents=True)
    (repository / "src/lora_nlg/__init__.py").touch()
    content.mkdir()
    git("init", "--quiet", repository)
    git("-C", repository, "add", ".")
    git("-C", repository, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message=a")
    clone = content / "lora-nlg"
    at_once, calls = run_first_cell(content, f"file://{repository}")
    assert at_once == str(clone / "src") and (clone / "src/lora_nlg/__init__.py").is_file()
    packages = re.search(r'PACKAGES = "(.*)"', first_cell())[1]
    assert calls == [f"{content} -m pip install --quiet {packages}", f"{clone} src/download.py vocab"]
    assert run_first_cell(content, f"file://{repository}") == (at_once, [])


def test_without_an_address_the_first_cell_says_so(run_first_cell, tmp_path):
    said, calls = run_first_cell(tmp_path)
    assert said.startswith("ValueError: ADDRESS is empty; expected the address of this repository") and calls == []


def test_the_first_cell_installs_what_a_run_imports(results):
    """Of what the project requires; Colab has a notebook's own packages."""
    required = set(re.findall(r"^([\w.-]+)==", read("requirements.txt"), re.MULTILINE))
    packages = re.search(r'PACKAGES = "(.*)"', first_cell())[1].split()
    assert sorted(set(results["packages"]) & required) == packages


def test_colab_opens_the_repository_that_the_citation_names():
    """Until it names one, Colab asks for it. Fails when it names one and the badges or the first cell do not."""
    address = yaml.safe_load(read("CITATION.cff")).get("repository-code", "")
    place = address.removeprefix("https://github.com/")
    opens = "https://colab.research.google.com/github/"
    opens += f"{place}/blob/main/docs/lora_walkthrough.ipynb" if place else ""
    title = run_walkthrough.read().cells[0].source
    for text in (title, read("docs/lora.md")):
        assert [link for link in links(text) if "colab" in link and not link.endswith(".svg")] == [opens]
    assert f'ADDRESS = "{address}"' in first_cell()
