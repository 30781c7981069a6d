"""Write the bundled mini data set: train.txt, valid.txt and test.txt in the format of the recipe's E2E files.

What is tested is generalisation: no test input's combination of slots, and no test venue's name, is in the other files.
"""

import argparse
import sys
from pathlib import Path
from random import Random

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

from lora_nlg import errors, flags
from lora_nlg.bundled.venues import describe, draw_mr, draw_name, slot_sets
from lora_nlg.files import atomic_writer

HELD_OUT = {3: 3, 4: 5, 5: 5, 6: 3, 7: 1, 8: 1}  # slots in a combination -> combinations kept for the test set
TEST_INPUTS_A_SET = 4
TEST_REFERENCES = 4
TRAIN_INPUTS, VALID_INPUTS = 780, 55
REFERENCES = 3  # drawn for each training and validation input; those that agree are written once


def parser() -> argparse.ArgumentParser:
    """Return the arguments."""
    p = flags.Parser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="folder to write the three files to")
    p.add_argument("--seed", type=int, default=1, help="the bundled files were made with 1")
    return p


def main(argv: list[str] | None = None) -> int:
    """Write the files."""
    args = parser().parse_args(argv)
    for name, lines in make_sets(args.seed).items():
        path = args.out_dir / name
        with atomic_writer(path) as file:
            file.writelines(lines)
        print(f"{path}: {len(lines)} lines")
    return 0


def make_sets(seed: int) -> dict[str, list[str]]:
    """Return file name -> lines, the same for the same seed; all lines of one input stand together."""
    rng = Random(seed)
    held_out = [
        slots
        for size, count in HELD_OUT.items()
        for slots in rng.sample([slots for slots in slot_sets() if len(slots) == size], count)
    ]
    seen = [slots for slots in slot_sets() if slots not in held_out]

    test_inputs = _distinct_inputs(rng, held_out, len(held_out) * TEST_INPUTS_A_SET, held_back=True)
    other_inputs = _distinct_inputs(rng, seen, TRAIN_INPUTS + VALID_INPUTS, held_back=False)
    rng.shuffle(other_inputs)  # else the last combinations would be missing from the shorter file
    return {
        "train.txt": _lines(other_inputs[:TRAIN_INPUTS], rng),
        "valid.txt": _lines(other_inputs[TRAIN_INPUTS:], rng),
        "test.txt": [_line(mr, reference) for mr in test_inputs for reference in _distinct_references(mr, rng)],
    }


def _distinct_inputs(
    rng: Random, slot_sets: list[tuple[str, ...]], count: int, held_back: bool
) -> list[dict[str, str]]:
    """Return `count` different MRs that go through `slot_sets` in turn."""
    inputs: list[dict[str, str]] = []
    while len(inputs) < count:
        name, near = (draw_name(rng, held_back) for _ in range(2))
        mr = draw_mr(rng, slot_sets[len(inputs) % len(slot_sets)], name, near)
        if name != near and mr not in inputs:
            inputs.append(mr)
    return inputs


def _distinct_references(mr: dict[str, str], rng: Random) -> list[str]:
    """Return TEST_REFERENCES different references, likely ones first; every MR has at least that many."""
    references: dict[str, None] = {}
    while len(references) < TEST_REFERENCES:
        references[describe(mr, rng)] = None
    return list(references)


def _lines(inputs: list[dict[str, str]], rng: Random) -> list[str]:
    return [
        _line(mr, reference)
        for mr in inputs
        for reference in dict.fromkeys(describe(mr, rng) for _ in range(REFERENCES))
    ]


def _line(mr: dict[str, str], reference: str) -> str:
    """Return the recipe's raw line; its references end in a space, and so do these."""
    return " | ".join(f"{slot} : {value}" for slot, value in mr.items()) + f"||{reference} \n"


if __name__ == "__main__":
    sys.exit(errors.run(main))
