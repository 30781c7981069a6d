"""Write adapters, or a model with its adapters merged, in the form of another library: PEFT, transformers, or the recipe's code."""

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

from lora_nlg import config, errors, flags, methods
from lora_nlg.methods import placement

VOCABULARY = Path(__file__).parent.parent / "vocab"
# transformers' names for GPT-2's vocabulary files, and the ones they were published under
TOKENIZER_FILES = {"vocab.json": "encoder.json", "merges.txt": "vocab.bpe"}
HF_FORM = ("model.safetensors", "config.json")
PEFT_FORM = ("adapter_model.safetensors", "adapter_config.json")


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
    p.add_argument(
        "--push",
        metavar="REPO",
        help="then upload what was written to OWNER/NAME on the Hub, with the token in HF_TOKEN",
    )
    flags.add_model_flags(p, card=None, alpha=None)
    return p


def main(argv: list[str] | None = None) -> int:
    """Export as the flags say."""
    args = parser().parse_args(argv)
    output = Path(args.output)
    if args.push:
        check_repository(args.push)
    if args.to == "hf":
        written = export_model(args, output)
    else:
        written = export_adapters(args, output)
    errors.say(f"saved {output}")
    if args.push:
        from lora_nlg.storage import hub

        print(f"pushed to {hub.push(output, args.push, written)}")
    return 0


def check_repository(name: str) -> None:
    """Raise UserError, before anything is made, for what cannot be a repository's name."""
    from lora_nlg.storage import hub

    found = hub.ID.fullmatch(name)
    if found is None or found[2]:
        raise errors.UserError(f"--push must be OWNER/NAME, a repository on the Hub, but is {name!r}")


def check_folder(args: argparse.Namespace, output: Path, form: tuple[str, ...]) -> None:
    """Raise UserError when `output` cannot become a folder of the files in `form`, or holds what is not an export's of that form."""
    if output.exists() and not output.is_dir():
        raise errors.UserError(f"--output {output} is a file; expected a folder, new or not")
    from lora_nlg.storage import hub, model_card

    others = [name for name in (*hub.BASE_FILES, *hub.PEFT_FILES, *hub.SETTINGS) if name not in form]
    if found := next((name for name in others if (output / name).exists()), None):
        raise errors.UserError(
            f"--output {output} holds {found}, which would be read with what is written there, or in its place; give another folder"
        )
    model_card.check_place(output)
    check_files(args, [output / name for name in (*form, model_card.FILE, model_card.GENERATION)])


def check_files(args: argparse.Namespace, outputs: list[Path]) -> None:
    """Raise UserError when one of the outputs cannot be written, or is a file that is read."""
    from lora_nlg import files
    from lora_nlg.storage import checkpoints, hub

    files.check_outputs(outputs)  # before anything is downloaded
    given = [source for source in (args.init_checkpoint, args.lora_checkpoint) if source not in (None, "random")]
    read = [checkpoints.file_of(Path(source)) for source in given]
    beside = {**dict.fromkeys(hub.BASE_FILES, "config.json"), **dict.fromkeys(hub.PEFT_FILES, "adapter_config.json")}
    settings = [path.with_name(beside[path.name]) for path in read if path.name in beside]
    files.check_outputs(outputs, [*read, *settings])


def export_model(args: argparse.Namespace, folder: Path) -> list[str]:
    """Write the base, with the adapters merged if there are any, its card, and GPT-2's vocabulary if it is here; return the names."""
    from lora_nlg import files
    from lora_nlg.storage import checkpoints, models

    if args.model_card is None:
        raise errors.UserError("--to hf needs --model_card, the shape of the model, e.g. gpt2.md")
    placement.refuse_without_adapters(args)
    check_folder(args, folder, HF_FORM)
    model_config = config.model_config(args.model_card)
    model = models.merged_model(
        model_config,
        args.init_checkpoint,
        args.lora_checkpoint,
        placement.Given.by(args),
        flags.chosen_precision(args),
    )
    if model.trained_by is not None:
        raise errors.UserError(
            f"--to hf cannot express {methods.called(model.trained_by.method)}: it cannot be merged into the base; "
            "decode with gpt2_beam.py or gpt2_generate.py"
        )
    beside = card_files(args, "transformers", None if args.lora_checkpoint else model, model_config.vocab_size)
    vocabulary = tokenizer_files(folder) if model_config.vocab_size == config.GPT2_VOCAB_SIZE else {}
    with files.atomic_files(folder, last=HF_FORM[0]) as new:
        checkpoints.save_hugging_face(model, new)
        write_texts(beside, new)
        for name, published in vocabulary.items():
            shutil.copyfile(published, new / name)
    return [*HF_FORM, *beside, *vocabulary]


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """Return GPT-2's vocabulary files, where they are here, by transformers' names. Raises UserError where `folder` has others."""
    here = {name: VOCABULARY / published for name, published in TOKENIZER_FILES.items()}
    here = {name: published for name, published in here.items() if published.is_file()}
    for name, published in here.items():
        there = folder / name
        if there.is_dir() or (there.is_file() and there.read_bytes() != published.read_bytes()):
            raise errors.UserError(f"{there} is not GPT-2's, and would be lost; give --output a folder of its own")
    return here


def export_adapters(args: argparse.Namespace, output: Path) -> list[str]:
    """Write the adapters alone, without their base, and return the names of the files."""
    from lora_nlg import files
    from lora_nlg.storage import checkpoints, fitting, interchange, model_card

    if not args.lora_checkpoint:
        raise errors.UserError(f"--to {args.to} writes adapters; pass them as --lora_checkpoint")
    if args.init_checkpoint and args.to != "peft":
        raise no_effect(args.to)
    if args.to == "peft":
        check_folder(args, output, PEFT_FORM)
    else:
        check_files(args, [output])
    adapters = checkpoints.read(args.lora_checkpoint)
    of_method = adapters.adapter_config(placement.Given.by(args))
    tensors = adapters.adapters()
    if of_method.method == "pissa" and adapters.is_peft:
        raise errors.UserError(
            f"{args.lora_checkpoint} started as a part of its base, which it does not hold; use --to hf, with the base, merged"
        )
    fitting.check(tensors, of_method, adapters.path)
    if args.to == "peft":
        card = adapters.base.published_as if adapters.base else args.model_card
        beside = card_files(args, "peft", None, config.GPT2_VOCAB_SIZE, adapters)
        name = model_card.base_of(model_card.beside(adapters.path), card, args.init_checkpoint)
        base = base_of(args, adapters, of_method, tensors)
        with files.atomic_files(output, last=PEFT_FORM[0]) as new:
            checkpoints.save_peft(tensors, new, of_method, name, base)
            write_texts(beside, new)
        return [*PEFT_FORM, *beside]
    if args.to == "safetensors":
        checkpoints.save_adapters(tensors, output, of_method, adapters.base, adapters.step)
    else:
        if of_method.method not in ("lora", "pissa"):
            raise errors.UserError(
                f"--to loralib cannot express {methods.called(of_method.method)}: the recipe has LoRA alone; use --to safetensors"
            )
        tensors, of_method = interchange.recipe_lora(tensors, of_method)
        if not interchange.fits_the_recipe(of_method):
            print(
                "warning: the recipe's own layer has adapters of q and v alone, in every layer and of one rank, and no place for "
                "others; the programs here read them as they are",
                file=sys.stderr,
            )
        checkpoints.save_recipe_tensors(tensors, output, of_method, adapters.base, adapters.step)
    return [output.name]


def base_of(args: argparse.Namespace, adapters, of_method, tensors) -> dict | None:
    """Return the base's tensors, which PEFT's form of some DoRA wants; None without. Raises UserError for one that is no use."""
    from lora_nlg.storage import checkpoints, interchange, models

    if not args.init_checkpoint:
        return None
    if not interchange.needs_base(tensors, of_method):
        raise no_effect(args.to)
    base = checkpoints.read(args.init_checkpoint).base_tensors()
    if adapters.base and models.digest(base) != adapters.base.sha256:
        raise errors.UserError(
            f"{args.init_checkpoint} is not the base that {args.lora_checkpoint} was trained on; pass that one"
        )
    return base


def card_files(args: argparse.Namespace, library: str, whole, vocab_size: int, found=None) -> dict[str, str]:
    """Return model card and generation settings by name, as the run beside the checkpoint says; `whole`: a model without adapters.

    `found` is what the checkpoint holds, for a caller that has read it.
    """
    from lora_nlg.storage import checkpoints, model_card, models

    source = args.lora_checkpoint or args.init_checkpoint
    if source == "random":
        found, run = None, model_card.Run()
    else:
        found = found or checkpoints.read(source)
        run = model_card.beside(found.path)
    if found is None:
        scores = {}
    elif whole is not None:
        scores = run.scores_of(models.fingerprint(whole), "weights") if run.training else {}
    else:
        scores = run.scores_of(models.digest(found.adapters()), "adapters")
    lora_config = found.adapter_config(placement.Given.by(args)) if found and args.lora_checkpoint else None
    base = found.base if found else None
    card, published_as = (base.card, base.published_as) if base else (args.model_card, args.model_card)
    return model_card.files(
        model_card.Card(
            name=args.push or errors.visible(Path(args.output).name),
            library=library,
            run=run,
            base=model_card.base_of(run, published_as, args.init_checkpoint),
            card=card if card in config.CARDS else None,
            base_sha256=base.sha256 if base else None,
            config=lora_config,
            step=found.step if found else 0,
            scores=scores,
        ),
        vocab_size,
    )


def write_texts(texts: dict[str, str], folder: Path) -> None:
    """Write files of text into a folder."""
    from lora_nlg import files

    for name, text in texts.items():
        with files.atomic_writer(folder / name) as file:
            file.write(text)


def no_effect(to: str) -> errors.UserError:
    """Return the error for a base where the adapters alone are written."""
    return errors.UserError(f"--init_checkpoint would have no effect: --to {to} writes adapters alone; leave it out")


if __name__ == "__main__":
    sys.exit(errors.run(main))
