"""Get what the project does not carry: GPT-2's vocabulary, the data of E2E, WebNLG and DART, pretrained checkpoints."""

import argparse
import sys

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

from lora_nlg import errors, flags
from lora_nlg.storage import downloads

DATA = {"e2e": "E2E", "webnlg": "WebNLG 2017", "dart": "DART 1.1.1"}
NOT_PINNED = "; not pinned: its checksum is known from its server alone"


def parser() -> argparse.ArgumentParser:
    """Return one command each."""
    p = flags.Parser(description=__doc__)
    commands = p.add_subparsers(dest="command", required=True)

    vocab = commands.add_parser("vocab", help="GPT-2's vocabulary (VOCAB_URL: another address)")
    vocab.add_argument("--folder", default="vocab", help="where it goes")

    for name, title in DATA.items():
        upper = name.upper()
        places = f"({upper}_DATA_DIR: a folder that has them; {upper}_URL: another address)"
        data = commands.add_parser(name, help=f"{title}'s three files {places}")
        data.add_argument("--folder", default=f"data/{name}", help="where they go")

    checkpoint = commands.add_parser("checkpoint", help="GPT-2 from the Hugging Face Hub (HF_ENDPOINT: a mirror)")
    checkpoint.add_argument(
        "card", nargs="+", choices=(downloads.BUNDLED_CARD, *downloads.HUB_NAMES, "all"), help="which, one or more"
    )
    checkpoint.add_argument("--folder", default="pretrained_checkpoints", help="where they go")
    return p


def main(argv: list[str] | None = None) -> int:
    """Fetch what the command names."""
    args = parser().parse_args(argv)
    if args.command == "checkpoint":
        for card in downloads.HUB_NAMES if "all" in args.card else args.card:
            if card == downloads.BUNDLED_CARD:
                print(f"{card} is part of the project: nothing to download")
            else:
                fetched = downloads.checkpoint(card, args.folder)
                report(f"{args.folder}/{downloads.HUB_NAMES[card]}", fetched, card in downloads.HUB_SHA256)
    else:
        fetch = downloads.vocabulary if args.command == "vocab" else getattr(downloads, args.command)
        report(args.folder, fetch(args.folder))
    return 0


def report(folder: str, fetched: bool, pinned: bool = True) -> None:
    """Say what happened, and what it was verified against."""
    errors.say(f"{folder}: {'fetched' if fetched else 'already there'}{', verified' if pinned else NOT_PINNED}")


if __name__ == "__main__":
    sys.exit(errors.run(main))
