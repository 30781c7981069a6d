"""Run docs/lora_walkthrough.ipynb, and write what its cells print and show into it.

    .venv/bin/python docs/run_walkthrough.py

For after a change of the notebook, of the bundled base or data, or of what it calls. bash scripts/00_setup.sh --dev installs what
it needs.
"""

import argparse
import base64
import io
import sys
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).with_name("lora_walkthrough.ipynb")
GRAYS = 16  # of a figure; its letters' edges are shades of them


def parser() -> argparse.ArgumentParser:
    """Return the flags: none but --help."""
    return argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def read() -> Any:
    """Return the notebook as it is in the checkout."""
    import nbformat

    return nbformat.read(NOTEBOOK, as_version=4)


def execute(notebook: Any) -> None:
    """Run all cells in the notebook's folder, and keep their outputs."""
    from nbclient import NotebookClient

    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources=where,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
    ).execute()


def figures(notebook: Any) -> list[dict[str, str]]:
    """Return the outputs that are pictures, by their form."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    return [output["data"] for output in outputs if "image/png" in output["data"]]


def small(png: str) -> str:
    """Return a picture, a PNG in base64, in few grays."""
    from PIL import Image

    step = 255 / (GRAYS - 1)
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("L")
    picture = picture.point(lambda gray: round(round(gray / step) * step))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main(argv: list[str] | None = None) -> int:
    """Run it and write it; what the kernel says of itself is another machine's, and stays out."""
    import nbformat

    parser().parse_args(argv)
    notebook = read()
    about = notebook.metadata.copy()
    execute(notebook)
    notebook.metadata = about
    for figure in figures(notebook):
        figure["image/png"] = small(figure["image/png"])
        figure.pop("text/plain")  # <Figure size …>
    nbformat.write(notebook, NOTEBOOK)
    print(f"{NOTEBOOK}: {len(figures(notebook))} figures, {NOTEBOOK.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
