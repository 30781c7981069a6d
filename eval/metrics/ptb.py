"""The Stanford PTB tokenizer 3.4.1 as the MS-COCO caption evaluation uses it: lower case, punctuation dropped."""

import itertools
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from metrics import java as java_runtime
from metrics.errors import UserError
from metrics.files import one_line
from metrics.processes import Processes

LEAST_ROOM = 1 << 16  # bytes of a disk that has still some
TIMEOUT = 600  # seconds; 5 000 references take one
TEXTS_A_SECOND = 100  # what is added to the time-out for long files
# After each set, since a number that begins the next line makes a last "No." an abbreviation. A blank line reads as the end.
_DIVIDER = ""
_PUNCTUATION = frozenset("'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split())


class Tokens:
    """The tokens of a set of texts, each text's joined by spaces. They are in a file, which every iteration reads anew."""

    def __init__(self, path: Path, start: int, number: int):
        self._path, self._start, self._number = path, start, number

    def __iter__(self) -> Iterator[str]:
        with open(self._path, "rb") as file:
            file.seek(self._start)
            for line in itertools.islice(file, self._number):
                yield _words(line.decode("utf-8", "replace"))


class Groups:
    """Tokens of references, grouped by input: each iteration yields the next `sizes[i]` of them as a list."""

    def __init__(self, tokens: Tokens, sizes: Sequence[int]):
        self._tokens, self._sizes = tokens, sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[list[str]]:
        tokens = iter(self._tokens)
        for size in self._sizes:
            yield list(itertools.islice(tokens, size))


def tokenise(
    java: java_runtime.Java, text_sets: Iterable[Iterable[str]], folder: str, processes: Processes | None = None
) -> list[Tokens]:
    """Return the sets' tokens, in a file in `folder`, which must be there as long as they are used; one JVM for all.

    `processes` ends the JVM where its block ends. Raises UserError if it fails.
    """
    questions, answers, messages = (Path(folder) / name for name in ("ptb.in", "ptb.out", "ptb.err"))
    sizes = _write(questions, text_sets)
    jar = java_runtime.data_file(java_runtime.PTB_JAR)
    flags = ("edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", "-encoding", "UTF-8")
    timeout = TIMEOUT + sum(sizes) // TEXTS_A_SECOND
    try:
        with open(questions, "rb") as stdin, open(answers, "wb") as stdout, open(messages, "wb") as stderr:
            command = java.command("-cp", jar, *flags)
            environment = java_runtime.environment()
            pipes = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
            code = (processes or Processes()).run(command, timeout, env=environment, **pipes)
    except subprocess.TimeoutExpired:
        said = java_runtime.said(messages.read_bytes())
        raise UserError(
            f"the PTB tokeniser did not finish in {timeout} s (is the machine overloaded?); it said: {said}"
        ) from None
    except OSError as error:
        raise UserError(f"cannot start the PTB tokeniser with {java.path}: {error.strerror}") from error
    tokens = _sets(answers, sizes)
    if code or tokens is None:
        printed = answers.read_bytes() if code else b""  # a JVM that cannot start says so there
        said = java_runtime.said(messages.read_bytes() or printed)
        if shutil.disk_usage(folder).free < LEAST_ROOM:
            raise UserError(
                f"cannot write the temporary file {answers}: no space left; free some space, or set TMPDIR to another folder"
            )
        raise UserError(f"the PTB tokeniser failed under {java.path}; it said: {said}")
    return tokens


def _write(path: Path, text_sets: Iterable[Iterable[str]]) -> list[int]:
    """Write a line for each text and a divider after each set; return the number of texts in each."""
    sizes = []
    try:
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            for texts in text_sets:
                size = 0
                for text in texts:
                    file.write(one_line(text) + "\n")
                    size += 1
                file.write(_DIVIDER + "\n")
                sizes.append(size)
    except OSError as error:
        raise UserError(
            f"cannot write the temporary file {path}: {error.strerror}; free some space, or set TMPDIR to another folder"
        ) from error
    return sizes


def _sets(path: Path, sizes: list[int]) -> list[Tokens] | None:
    """Return where the tokens of each set are; None if the file has not a line for each text and divider."""
    tokens = []
    with open(path, "rb") as file:
        for size in sizes:
            tokens.append(Tokens(path, file.tell(), size))
            if sum(1 for _ in itertools.islice(iter(file.readline, b""), size + 1)) != size + 1:
                return None
        return None if file.read(1) else tokens


def _words(line: str) -> str:
    return " ".join(word for word in line.rstrip().split(" ") if word not in _PUNCTUATION)
