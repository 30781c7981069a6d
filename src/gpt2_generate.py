"""Type or pipe meaning representations (MRs), and get a text for each, with what else the search found.

    python src/gpt2_generate.py --init_checkpoint pretrained_checkpoints/gpt2.mini --lora_checkpoint trained_models/mini/model.final.pt

Typed at a prompt (Ctrl-D ends), or piped, one MR a line: name : Blue Spice | Type : coffee shop | area : riverside

Prints "score  text" for the text itself and for each of its alternatives, then a blank line; with --alternatives 0 the text alone,
one line an MR. With --jsonl a line is {"mr": MR} or, as in formatted data, {"context": MR}, and is answered by one line
{"mr", "text", "score", "alternatives": [{"text", "score"}, ...]}.

With --serve all this is on a page in a browser, which this machine alone can open; with --compare_with the texts of two adapters of
one base stand beside each other there.

The text is the best hypothesis that ended in the beam search, the one that gpt2_beam.py and gpt2_decode.py give; the alternatives
are the next best that ended, as many as --alternatives says, or fewer where two differ in their end token alone. A hypothesis ends
with an end token or after --eval_len tokens. A score is the natural log of the probability of a hypothesis, its end token
included, divided by (number of its tokens) ** length_penalty.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

from lora_nlg import config, errors, flags
from lora_nlg.methods import placement
from lora_nlg.tasks import TASKS, Task, formatted

PROMPT = "> "
STDIN = "standard input"
VOCABULARY = Path(__file__).resolve().parent.parent / "vocab"
LAST_CARD = "gpt2.md"  # where neither base nor adapters say what they are
MOST_ALTERNATIVES = config.MOST_BEAMS - 1  # texts are as many at most as beams can be
PORT, MOST_PORT = 8765, 65535  # of the page


def parser() -> argparse.ArgumentParser:
    """Return the flags. The search's defaults are those of the E2E runs, not gpt2_beam.py's."""
    p = flags.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    said = f"what the base's config.json says, or the adapters' file, else {LAST_CARD}"
    flags.add_model_flags(p, card=None, alpha=None, no_card=said)
    p.add_argument(
        "--vocab", help="folder with encoder.json and vocab.bpe; default: the project's, from wherever it is called"
    )
    p.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:N")
    p.add_argument(
        "--task",
        choices=TASKS,
        default="e2e",
        help="what the model learnt; own: any text is an input",
    )
    p.add_argument("--jsonl", action="store_true", help="JSON lines in and out")
    p.add_argument("--alternatives", type=int, default=3, help=f"at most {MOST_ALTERNATIVES}; 0: none")
    p.add_argument(
        "--serve",
        nargs="?",
        type=int,
        const=PORT,
        metavar="PORT",
        help=f"a page that this machine alone can open, until Ctrl-C; at port {PORT} if none is given, 0: any that is free",
    )
    p.add_argument("--compare_with", metavar="ADAPTERS", help="with --serve: others, whose texts stand beside")

    rules = flags.add_search_flags(p, flags.E2E_SEARCH, "a score")
    rules.add_argument(
        "--eos_token_id",
        type=int,
        default=config.BLANK_LINE_ID,
        help="end token beside 50256, which ends a text and is no part of it; default: %(default)s, a blank line",
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Answer what is typed or piped, until it ends."""
    args = parser().parse_args(argv)
    args.model_card = args.model_card or card_of(args)
    model_config = config.model_config(args.model_card)
    rules = flags.search_rules(args, (config.END_OF_TEXT_ID, args.eos_token_id))
    check(args, model_config)
    if args.serve is not None:
        return serve(args, model_config, rules)
    generator = load(args, model_config, rules)
    if sys.stdin.isatty() and not args.jsonl:
        converse(generator, args.alternatives, TASKS[args.task])
        return 0

    from tqdm import tqdm

    with tqdm(desc="answering", unit="MR", disable=True if sys.stdout.isatty() else None) as bar:
        for where, line in piped_lines():
            mr = mr_of(line, where) if args.jsonl else line
            answers = generator.answers(mr, where, args.alternatives + 1)
            print(json_line(mr, answers) if args.jsonl else plain(answers, args.alternatives), flush=True)
            bar.update()
    return 0


def card_of(args: argparse.Namespace) -> str:
    """Return the card of a model that was named without one: as the base's config.json says, or the adapters' file."""
    from lora_nlg.storage import hub

    beside = hub.config_beside(args.init_checkpoint) if args.init_checkpoint else None
    if beside is not None:
        return str(beside)
    if adapters := args.lora_checkpoint or args.compare_with:
        from lora_nlg.storage import checkpoints

        return checkpoints.read(adapters).card or LAST_CARD
    return LAST_CARD


def check(args: argparse.Namespace, model_config: config.ModelConfig) -> None:
    """Raise UserError for flags that contradict each other or the model."""
    placement.refuse_without_adapters(args)
    check_page(args)
    if sys.stdin is None and args.serve is None:
        raise errors.UserError(
            "standard input is closed; type, pipe or redirect what is to be answered, or give --serve"
        )
    formatted.check_vocabulary(model_config.vocab_size, f"--model_card {args.model_card}")
    config.require(args.alternatives >= 0, "alternatives", "0 or more", args.alternatives)
    few_enough = args.alternatives <= MOST_ALTERNATIVES
    config.require(few_enough, "alternatives", f"no more than {MOST_ALTERNATIVES}", args.alternatives)
    if not 0 <= args.eos_token_id < model_config.vocab_size:
        raise errors.UserError(
            f"--eos_token_id must be from 0 to {model_config.vocab_size - 1}, but is {args.eos_token_id}"
        )
    if args.eval_len >= model_config.n_positions:
        raise errors.UserError(
            f"--eval_len {args.eval_len} leaves no room for the input in the {model_config.n_positions} positions of {args.model_card}"
        )


def check_page(args: argparse.Namespace) -> None:
    """Raise UserError for flags of the page that contradict each other or others."""
    if args.serve is None:
        if args.compare_with:
            raise errors.UserError("--compare_with is for the page; give --serve as well")
        return
    if args.jsonl:
        raise errors.UserError(
            "--jsonl would have no effect with --serve, which answers on a page; leave one of them out"
        )
    if not 0 <= args.serve <= MOST_PORT:
        raise errors.UserError(f"--serve must be a port from 0 to {MOST_PORT}, but is {args.serve}")
    if args.compare_with and args.compare_with == args.lora_checkpoint:
        raise errors.UserError(f"--compare_with {args.compare_with} is --lora_checkpoint itself; name other adapters")


def load(args: argparse.Namespace, model_config: config.ModelConfig, rules: config.BeamConfig):
    """Return the Generator that the flags describe."""
    from lora_nlg.storage import models

    generator_of = maker(args, rules)
    given, precision = placement.Given.by(args), flags.chosen_precision(args)
    return generator_of(models.merged_model(model_config, args.init_checkpoint, args.lora_checkpoint, given, precision))


def load_all(args: argparse.Namespace, model_config: config.ModelConfig, rules: config.BeamConfig):
    """Return the Systems that the page asks: --lora_checkpoint or the base alone, and --compare_with."""
    import torch

    from lora_nlg.decoding.systems import Systems
    from lora_nlg.storage import checkpoints, models

    generator_of = maker(args, rules)
    paths = [path for path in (args.lora_checkpoint, args.compare_with) if path]
    several = [checkpoints.read(path) for path in paths]
    given, precision = placement.Given.by(args), flags.chosen_precision(args)
    random, first = torch.Generator().manual_seed(0), several[0] if several else None
    model = models.base_model(model_config, args.init_checkpoint, random, precision, first)
    switch, on = models.tried(model, several, given, models.fingerprint(model) if several else "", precision)
    alone = {} if args.lora_checkpoint else {"the base alone": None}
    return Systems(generator_of(model), switch, {**alone, **dict(zip(paths, on, strict=True))})


def maker(args: argparse.Namespace, rules: config.BeamConfig):
    """Return what makes a Generator of a model. Vocabulary and device are had first: a model takes its time."""
    from lora_nlg import dist
    from lora_nlg.data import bpe
    from lora_nlg.decoding.generate import Generator

    precision, check_input = flags.chosen_precision(args), TASKS[args.task].check_input
    encoding = bpe.load_encoding(args.vocab or VOCABULARY)
    device = dist.start(args.device, rank=0, world_size=1, local_rank=0).device
    return lambda model: Generator(model.to(device).eval(), encoding, rules, device, precision, check_input)


def serve(args: argparse.Namespace, model_config: config.ModelConfig, rules: config.BeamConfig) -> int:
    """Answer what the page asks, until the program is ended."""
    from lora_nlg.questions import Questions
    from lora_nlg.server import Server

    with Server(args.serve) as server:  # before minutes of loading
        questions = Questions(load_all(args, model_config, rules), TASKS[args.task], args.alternatives)
        print(f"{server.url}  (Ctrl-C ends)", flush=True)
        server.serve(questions.about(), questions.answer)
    return 0


def converse(generator, n_alternatives: int, task: Task) -> None:
    """Answer at a prompt until the end of input; a mistake gets its sentence and another try."""
    print(f"Type an {task.input_name}, for example {task.example}; Ctrl-D ends.")
    while True:
        try:
            mr = input(PROMPT).strip()
        except EOFError:
            print()
            return
        if mr:
            try:
                print(plain(generator.answers(mr, f"this {task.input_name}", n_alternatives + 1), n_alternatives))
            except errors.UserError as error:
                print(errors.visible(str(error)), file=sys.stderr)


def piped_lines() -> Iterator[tuple[str, str]]:
    """Yield ("standard input:line", text) as lines come. Raises UserError for a blank line or bytes that are not UTF-8."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        where = f"{STDIN}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise errors.UserError(f"{where}: not UTF-8 ({error.reason}); convert the text") from error
        if not text:
            raise errors.UserError(f"{where}: the line is blank; every line must hold one MR, so remove it")
        yield where, text


def mr_of(line: str, where: str) -> str:
    """Return the MR of a JSON line, under "mr" or "context"."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise errors.UserError(f"{where}: not JSON ({error}); expected one JSON object a line") from error
    found = [fields[key] for key in ("mr", "context") if key in fields] if isinstance(fields, dict) else []
    if len(found) != 1 or not isinstance(found[0], str):
        raise errors.UserError(
            f'{where}: expected a JSON object with the MR, a string, under "mr" or "context", found {line[:60]!r}'
        )
    return found[0]


def plain(answers: list, n_alternatives: int) -> str:
    """Return the answers for people: a line each with its score, and a blank line; without alternatives the text alone.

    A model may generate any bytes: those that a terminal would obey are shown as their escapes.
    """
    texts = [errors.visible(answer.text) for answer in answers]
    if n_alternatives == 0:
        return texts[0]
    return "".join(f"{answer.score:8.4f}  {text}\n" for answer, text in zip(answers, texts, strict=True))


def json_line(mr: str, answers: list) -> str:
    """Return the answers as one JSON line."""
    best, *others = ({"text": answer.text, "score": answer.score} for answer in answers)
    return errors.visible_json(json.dumps({"mr": mr, **best, "alternatives": others}, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(errors.run(main))
