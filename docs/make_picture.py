"""Photograph the top of a finished run's report.html for the README, with the system's Chromium.

    .venv/bin/python docs/make_picture.py trained_models/mini

The run is the mini preset's: bash scripts/run_all.sh. Chromium: bash scripts/install_chromium.sh. The picture is docs/report.png,
in light colours, whatever the machine prefers.
"""

import argparse
import io
import shutil
import sys
from pathlib import Path

OUTPUT = Path(__file__).with_name("report.png")
WIDTH = 1400  # CSS pixels, and those of the picture
MOST_BYTES = 200_000  # a clone and the README's reader load it
COLOURS = 128  # of the palette; the page has few, and its letters' edges are shades of them


def parser() -> argparse.ArgumentParser:
    """Return the flags."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    p.add_argument("work_dir", type=Path, help="a finished run, with its report.html")
    p.add_argument("--output", type=Path, default=OUTPUT, help="default: docs/report.png")
    p.add_argument("--height", type=int, default=940, help="CSS pixels from the top of the page; default: %(default)s")
    return p


def photograph(page: Path, height: int, chromium: str) -> bytes:
    """Return the PNG of the top of `page`, its colours reduced to a palette."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        tab = browser.new_page(viewport={"width": WIDTH, "height": height}, color_scheme="light")
        tab.goto(page.resolve().as_uri())
        shot = tab.screenshot()
        browser.close()
    picture = Image.open(io.BytesIO(shot)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def main(argv: list[str] | None = None) -> int:
    """Write the picture, or say in one sentence why not."""
    p = parser()
    args = p.parse_args(argv)
    page = args.work_dir / "report.html"
    chromium = shutil.which("chromium")
    if not page.is_file():
        p.error(f"{page} is not there; bash scripts/run_all.sh makes it in its last step")
    if chromium is None:
        p.error("there is no chromium; bash scripts/install_chromium.sh installs it")
    picture = photograph(page, args.height, chromium)
    if len(picture) > MOST_BYTES:
        p.error(f"the picture has {len(picture)} bytes, more than {MOST_BYTES}; choose a smaller --height")
    args.output.write_bytes(picture)
    print(f"{args.output}: {WIDTH} × {args.height}, {len(picture)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
