"""Say how many parameters a method trains, and what that takes: the flags are those of gpt2_ft.py that describe a model and a method.

python src/count_parameters.py --model_card gpt2.md --method vera --vera_dim 1024
"""

import argparse
import sys

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

import gpt2_ft
from lora_nlg import config, errors, flags, methods


def parser() -> argparse.ArgumentParser:
    """Return the flags."""
    p = flags.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_model_flags(p, card="gpt2.md", alpha=128.0)
    methods.add_flags(p)
    p.add_argument("--number", action="store_true", help="print the number alone, for a script")
    return p


def main(argv: list[str] | None = None) -> int:
    """Count, and print."""
    args = parser().parse_args(argv)
    methods.refuse_unread(args, parser().get_default)
    for flag in ("init_checkpoint", "lora_checkpoint"):
        if getattr(args, flag) is not None:
            raise errors.UserError(f"--{flag} would have no effect: shapes alone are counted; leave it out")

    import torch

    from lora_nlg.methods.cost import cost_of
    from lora_nlg.model.gpt2 import GPT2

    shape = config.model_config(args.model_card)
    of_method = methods.from_flags(args, shape)
    with torch.device("meta"):  # shapes alone
        model = GPT2(shape).to(torch.float64 if flags.chosen_precision(args) == "fp64" else torch.float32)
    methods.attach(model, of_method)
    cost = cost_of(model)
    if args.number:
        print(cost.trained)
        return 0
    print(f"{methods.method(of_method.method).summary(of_method)}: {cost.trained:,} of {cost.total:,} parameters")
    print(
        f"{gpt2_ft.megabytes(cost.bytes_on_disk)} on disk, {gpt2_ft.megabytes(cost.optimizer_bytes)} for Adam's averages"
    )
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
