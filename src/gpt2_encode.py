"""Turn formatted JSON lines into GPT-2 token ids, one {"context": ids, "completion": ids} a line.

A line is read, encoded and written before the next, so memory does not grow with the file.
"""

import argparse
import json
import sys

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

from lora_nlg import errors, flags


def parser() -> argparse.ArgumentParser:
    """Return the recipe's flags."""
    p = flags.Parser(description=__doc__)
    p.add_argument("--input", required=True, help="formatted file, as format_converting_e2e.py writes it")
    p.add_argument("--vocab", default="vocab", help="folder with encoder.json and vocab.bpe")
    p.add_argument("--output", required=True, help="encoded file (JSON lines)")
    p.add_argument("--add_bos", action="store_true", help="end every context with 50256, where the completion begins")
    p.add_argument("--add_eos", action="store_true", help="end every completion with 50256")
    return p


def main(argv: list[str] | None = None) -> int:
    """Encode one file."""
    args = parser().parse_args(argv)

    from tqdm import tqdm

    from lora_nlg import files
    from lora_nlg.data import bpe
    from lora_nlg.data.lines import count_lines
    from lora_nlg.tasks.formatted import read_formatted

    files.check_outputs([args.output], inputs=[args.input])
    encoding = bpe.load_encoding(args.vocab)
    lines = 0
    with files.atomic_writer(args.output) as file:
        formatted, total = read_formatted(args.input), count_lines(args.input)
        for line in tqdm(formatted, "encoding", total, unit="line", disable=None):
            context, completion = bpe.encode_pair(
                encoding, line["context"], line["completion"], args.add_bos, args.add_eos
            )
            file.write(json.dumps({"context": context, "completion": completion}) + "\n")
            lines += 1
    errors.say(f"encoded {lines:,} lines into {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
