"""The notebook: it runs as it is committed, and what it computes is what it says."""

import base64
import io
import json
from pathlib import Path

import nbformat
import pytest
from matplotlib.image import imread
from nbclient import NotebookClient

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTEBOOK = DOCS / "lora_walkthrough.ipynb"

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

print(json.dumps(dict(
    labels=labels,
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


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook after a run in which no cell failed, with a cell before its own and one after them."""
    notebook, folder = read(), tmp_path_factory.mktemp("walkthrough")
    notebook.cells = [nbformat.v4.new_code_cell(WATCH), *notebook.cells, nbformat.v4.new_code_cell(PROBE)]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MPLBACKEND", raising=False)  # figures go into the notebook
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "TMPDIR"):
            (folder / name).mkdir()
            patch.setenv(name, str(folder / name))
        where = {"metadata": {"path": str(DOCS)}}
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    assert not list((folder / "TMPDIR").glob("tmp*"))  # it tidies up
    return notebook


@pytest.fixture(scope="module")
def results(executed):
    return json.loads(executed.cells[-1].outputs[0].text)


def test_it_is_committed_without_outputs():
    """They would be another machine's, would go stale, and an error could hide among them."""
    notebook = read()
    nbformat.validate(notebook)
    assert not [cell.source for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]


def test_figures_have_labels_and_need_no_colour(executed, results):
    outputs = [output for cell in executed.cells for output in cell.get("outputs", []) if "data" in output]
    images = [output["data"]["image/png"] for output in outputs if "image/png" in output["data"]]
    assert len(images) == len(results["labels"]) == 6
    assert all(any(labels) for figure in results["labels"] for labels in figure)
    for image in images:
        red, green, blue = imread(io.BytesIO(base64.b64decode(image)))[..., :3].transpose(2, 0, 1)
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
