"""Count the slots that a system's outputs miss, get wrong or invent, which no score of the other kind shows.

    python eval/slots.py trained_models/e2e_gpt2_md --data data/e2e/test_formatted.jsonl

Slot error rate = (missing + wrong + invented) / slots asked for by the inputs. A slot is missing if the output says nothing about it,
wrong if it tells another value (also beside the right one), invented if the input does not ask for it. Rules find what an output
says (slot_words.py); how often they agree with a reader is in docs/slots.md.
"""

import argparse
import sys
from pathlib import Path
from types import ModuleType

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

import run_dir
import slot_rules
import task
from run_dir import distinct_inputs, errors, files

RULES = {"e2e": slot_rules}  # by the name that a task has for the rules of its slots
KINDS = ("missing", "wrong", "invented")
EXAMPLES = 3


def parser() -> argparse.ArgumentParser:
    """Return the flags."""
    p = errors.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("outputs", type=Path, metavar="WORK_DIR", help="a run's folder, with prediction.txt, or such a file")
    p.add_argument("--data", type=Path, required=True, help="the formatted test file, for the inputs")
    p.add_argument("--json", type=Path, metavar="FILE", help="default: slots.json in the run's folder; none for a file")
    p.add_argument(
        "--if_any", action="store_true", help="say so and end well where the data's task has no slots to count"
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Print the summary and write the JSON file."""
    args = parser().parse_args(argv)
    of = task.read(args.data)
    if of.slots is None:
        without = f"{args.data} is of the task {of.name}, which has no slots to count"
        if not args.if_any:
            raise errors.UserError(without)
        print(errors.visible(without))
        return 0
    rules = rules_of(of)
    is_run = args.outputs.is_dir()
    path = args.outputs / run_dir.SYSTEM if is_run else args.outputs
    target = args.json or (args.outputs / "slots.json" if is_run else None)
    run_dir.check_outputs([target], [path.parent], [path, args.data], made="slots.json")
    mrs = read_mrs(args.data, rules)
    if is_run:
        run_dir.check_data(args.outputs, of.references, args.data)
    texts = run_dir.read_texts(path, "05" if is_run else None)
    if len(texts) != len(mrs):
        raise errors.UserError(
            f"{path} has {len(texts)} lines, but {args.data} has {len(mrs)} distinct inputs; decode all of them"
        )
    counted = count(list(mrs.values()), texts, rules)
    if target:
        files.write(target, files.json_text(counted))
    print(summary(mrs, texts, counted, rules), end="")
    return 0


def rules_of(of: task.Task) -> ModuleType:
    """Return the rules for a task's slots. Raises UserError if it names some that are not here."""
    if of.slots not in RULES:
        raise errors.UserError(
            f"the task {of.name} has the slot rules {of.slots!r}, but there are none but {', '.join(RULES)}; run step 02 again"
        )
    return RULES[of.slots]


def read_mrs(formatted: Path, rules: ModuleType = slot_rules) -> dict[str, dict[str, str]]:
    """Return {MR: {slot: value}} of a formatted file's inputs, once each, in first-seen order."""
    mrs = {}
    for number, mr in enumerate(distinct_inputs(formatted), 1):
        try:
            mrs[mr] = rules.parse_mr(mr)
        except ValueError as error:
            raise errors.UserError(f"{formatted}: input {number} is no input of {rules.TASK}: {error}") from error
    return mrs


def count(mrs: list[dict[str, str]], texts: list[str], rules: ModuleType = slot_rules) -> dict:
    """Return what slots.json holds: totals, the slot error rate, and the slots at fault of every output."""
    vocabulary = rules.vocabulary(mrs)
    outputs = [rules.differences(mr, text, vocabulary) for mr, text in zip(mrs, texts, strict=True)]
    totals = {kind: sum(len(output[kind]) for output in outputs) for kind in KINDS}
    asked = sum(map(len, mrs))
    rate = sum(totals.values()) / asked
    return {"inputs": len(mrs), "slots": asked, **totals, "slot_error_rate": rate, "outputs": outputs}


def summary(mrs: dict[str, dict[str, str]], texts: list[str], counted: dict, rules: ModuleType = slot_rules) -> str:
    """Return the totals, the table by slot and kind, and the worst outputs, for people."""
    outputs = counted["outputs"]
    faults = [sum(len(output[kind]) for kind in KINDS) for output in outputs]
    good = faults.count(0)
    errors_in_all = f"{sum(faults):,} error{'' if sum(faults) == 1 else 's'}"
    lines = [
        f"slot error rate {counted['slot_error_rate']:.4f}: {errors_in_all} in {counted['slots']:,} slots asked for",
        f"{good:,} of {counted['inputs']:,} outputs tell every slot as asked for, and nothing else",
        "",
        "".join(f"{name:>16}" for name in ("", "asked", *KINDS)),
    ]
    for slot in rules.SLOTS:
        asked = sum(slot in mr for mr in mrs.values())
        found = [sum(slot_of(fault) == slot for output in outputs for fault in output[kind]) for kind in KINDS]
        lines.append(f"{slot:>16}" + "".join(f"{number:16,}" for number in (asked, *found)))
    lines.append(f"{'all':>16}" + "".join(f"{counted[key]:16,}" for key in ("slots", *KINDS)))
    worst = sorted(range(len(texts)), key=lambda i: -faults[i])[:EXAMPLES]
    for i in worst:
        if faults[i]:
            told_of = [f"input    {list(mrs)[i]}", f"output   {texts[i]}", *told(outputs[i])]
            lines += ["", *map(errors.visible, told_of)]
    return "\n".join(lines) + "\n"


def slot_of(fault: str | dict) -> str:
    """Return the slot of an entry of slots.json, which is the slot itself or has it under "slot"."""
    return fault if isinstance(fault, str) else fault["slot"]


def told(output: dict[str, list]) -> list[str]:
    """Return one line for each kind of fault in `output`."""
    wrong = [f"{fault['slot']} ({fault['found']}, not {fault['expected']})" for fault in output["wrong"]]
    invented = [f"{fault['slot']} ({fault['found']})" for fault in output["invented"]]
    found = zip(KINDS, (output["missing"], wrong, invented), strict=True)
    return [f"{kind:<8} {', '.join(faults)}" for kind, faults in found if faults]


if __name__ == "__main__":
    sys.exit(errors.run(main))
