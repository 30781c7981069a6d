"""Write adapters, or a model with its adapters merged, in the form of another library: PEFT, transformers, or the recipe's code."""

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

from lora_nlg import config, errors, flags
from lora_nlg.methods import placement

VOCABULARY = Path(__file__).parent.parent / "vocab"
# transformers' names for GPT-2's vocabulary files, and the ones they were published under
TOKENIZER_FILES = {"vocab.json": "encoder.json", "merges.txt": "vocab.bpe"}


def parser() -> argparse.ArgumentParser:
    """Return the flags."""
    p = flags.Parser(description=__doc__)
    p.add_argument(
        "--to",
        required=True,
        choices=("peft", "hf", "loralib", "safetensors"),
        help="peft: a folder for PEFT; hf: a folder for transformers, adapters merged; loralib: a .pt with the recipe's keys; "
        "safetensors: this project's own form",
    )
    p.add_argument("--output", required=True, help="the folder (peft, hf) or file (loralib, safetensors) to write")
    flags.add_model_flags(p, card=None, alpha=None)
    return p


def main(argv: list[str] | None = None) -> int:
    """Export as the flags say."""
    args = parser().parse_args(argv)
    output = Path(args.output)
    if args.to == "hf":
        check_folder(output)
        export_model(args, output)
    else:
        export_adapters(args, output)
    print(f"saved {output}")
    return 0


def check_folder(output: Path) -> None:
    """Raise UserError when `output` cannot become a folder."""
    if output.exists() and not output.is_dir():
        raise errors.UserError(f"--output {output} is a file; expected a folder, new or not")


def export_model(args: argparse.Namespace, folder: Path) -> None:
    """Write the base, with the adapters merged if there are any, and GPT-2's vocabulary if it is here."""
    from lora_nlg.storage import checkpoints, models

    if args.model_card is None:
        raise errors.UserError("--to hf needs --model_card, the shape of the model, e.g. gpt2.md")
    placement.refuse_without_adapters(args)
    model_config = config.model_config(args.model_card)
    model = models.merged_model(
        model_config,
        args.init_checkpoint,
        args.lora_checkpoint,
        placement.Given.by(args),
        flags.chosen_precision(args),
    )
    checkpoints.save_hugging_face(model, folder)
    for name, published in TOKENIZER_FILES.items():
        if model_config.vocab_size == config.GPT2_VOCAB_SIZE and (VOCABULARY / published).is_file():
            shutil.copyfile(VOCABULARY / published, folder / name)


def export_adapters(args: argparse.Namespace, output: Path) -> None:
    """Write the adapters alone, without their base."""
    from lora_nlg import files
    from lora_nlg.storage import checkpoints

    if not args.lora_checkpoint:
        raise errors.UserError(f"--to {args.to} writes adapters; pass them as --lora_checkpoint")
    if args.init_checkpoint:
        raise errors.UserError(
            f"--init_checkpoint would have no effect: --to {args.to} writes adapters alone; leave it out"
        )
    if args.to != "peft":
        files.check_outputs([output], [args.lora_checkpoint])
    adapters = checkpoints.read(args.lora_checkpoint)
    lora_config = adapters.adapter_config(placement.Given.by(args))
    tensors = adapters.adapters()
    if args.to == "peft":
        check_folder(output)
        checkpoints.save_peft(tensors, output, lora_config, adapters.base.card if adapters.base else args.model_card)
    elif args.to == "safetensors":
        checkpoints.save_adapters(tensors, output, lora_config, adapters.base, adapters.step)
    else:
        checkpoints.save_recipe_tensors(tensors, output, lora_config, adapters.base, adapters.step)


if __name__ == "__main__":
    sys.exit(errors.run(main))
