"""The Stanford PTB tokenizer 3.4.1 as the MS-COCO caption evaluation uses it: lower case, punctuation dropped."""

import subprocess

from e2e_metrics import java as java_runtime
from e2e_metrics.errors import UserError
from e2e_metrics.files import one_line

TIMEOUT = 600  # seconds; 5 000 references take one
# After each set, since a number that begins the next line makes a last "No." an abbreviation. A blank line reads as the end.
_DIVIDER = ""
_PUNCTUATION = frozenset("'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split())


def tokenise(java: java_runtime.Java, text_sets: list[list[str]]) -> list[list[str]]:
    """Return the sets with each text's tokens, joined by spaces, in its place; one JVM for all. Raises UserError if it fails."""
    text = "".join(f"{one_line(line)}\n" for texts in text_sets for line in (*texts, _DIVIDER))
    jar = java_runtime.data_file(java_runtime.PTB_JAR)
    flags = ("edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", "-encoding", "UTF-8")
    try:
        done = subprocess.run(
            java.command("-cp", jar, *flags), input=text.encode("utf-8"), capture_output=True, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        said = java_runtime.said(error.stderr or b"")
        raise UserError(
            f"the PTB tokeniser did not finish in {TIMEOUT} s (is the machine overloaded?); it said: {said}"
        ) from None
    except OSError as error:
        raise UserError(f"cannot start the PTB tokeniser with {java.path}: {error.strerror}") from error
    lines = done.stdout.decode("utf-8", "replace").split("\n")[:-1]
    if done.returncode or len(lines) != sum(len(texts) + 1 for texts in text_sets):
        raise UserError(f"the PTB tokeniser failed under {java.path}; it said: {java_runtime.said(done.stderr)}")
    tokenised = []
    for texts in text_sets:
        tokenised.append([_words(line) for line in lines[: len(texts)]])
        del lines[: len(texts) + 1]
    return tokenised


def _words(line: str) -> str:
    return " ".join(word for word in line.rstrip().split(" ") if word not in _PUNCTUATION)
