"""Count the processes whose first call of a vector function by several threads at once comes out otherwise than the second.

Every process is forked from one that has imported torch and computed nothing, splits 200 000 numbers among its threads, and calls one
function twice. In turn the call is its first one, or comes after src/lora_nlg's calls on one number (see first_calls.py). Measures
whether results differ and by how much of themselves; does not measure speed. Exits with 1 if any differ after those calls.
"""

import json
import multiprocessing
import sys

import harness

NAMES = ("exp", "log", "sqrt", "tanh")  # the loss, the scores of beams, Adam, and one more
DTYPES = ("float32", "float64")
NUMBERS = 200_000


def first_against_second(threads: int, settled: bool, name: str, dtype: str) -> float:
    """Return the largest difference of the first call of `name` from the second, as a share of the latter; 0 if none differs."""
    import torch

    torch.set_num_threads(threads)
    if settled:
        from lora_nlg.model import first_calls

        first_calls.make()
    x = torch.linspace(0.1, 0.9, NUMBERS, dtype=getattr(torch, dtype))  # none of whose results is 0
    function = getattr(torch, name)
    first, second = function(x), function(x)
    return ((first - second) / second).abs().max().item()


def main(argv: list[str] | None = None) -> int:
    """Fork, count, report."""
    p = harness.parser(__doc__)
    p.add_argument("--processes", type=int, default=600, help="with and without the calls each; default: %(default)s")
    args = p.parse_args(argv)
    processes = 16 if args.smoke else args.processes

    import torch  # noqa: F401  (once, for all processes)

    cases = [(name, dtype) for name in NAMES for dtype in DTYPES]
    differ, worst = {True: 0, False: 0}, {True: 0.0, False: 0.0}
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for number in range(processes):
            for settled in (False, True):
                difference = pool.apply(first_against_second, (args.threads, settled, *cases[number % len(cases)]))
                differ[settled] += difference != 0
                worst[settled] = max(worst[settled], difference)
    for settled, words in ((False, "first of all"), (True, "after the calls on one number")):
        print(
            f"{words}: {differ[settled]} of {processes} processes differ, by up to {worst[settled]:.1e} of the result"
        )
    said = {"processes": processes, "threads": args.threads}
    print(json.dumps(said | {"differ": differ[False], "differ_after_calls": differ[True], "worst": worst[False]}))
    return 1 if differ[True] else 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
