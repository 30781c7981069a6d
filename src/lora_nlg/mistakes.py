"""Flags that are mistyped, and help that shows every default. Training and scorer have this file each: neither imports the other."""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

TYPED = "LORA_TYPED"  # the script that was typed, where one has started the program: mistakes are in its command
LAUNCHERS = (
    "--rank",
    "--world_size",
    "--local_rank",
    "--local-rank",
)  # of no use in a script, which starts the processes


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " (did you mean X?)" with the nearest of `known`; nothing if none is near."""
    plain = {name.lstrip("-").replace("-", "_").lower(): name for name in known}
    near = difflib.get_close_matches(word.lstrip("-").replace("-", "_").lower(), plain, n=1)
    return f" (did you mean {plain[near[0]]}?)" if near else ""


def typed_name(program: str) -> str:
    """Return what errors are named by: the script that was typed, or else the program."""
    return os.environ.get(TYPED) or program


def with_default(action: argparse.Action) -> str | None:
    """Return the help of a flag with its default at the end, unless it says it already."""
    if not action.help or action.help == argparse.SUPPRESS or not action.option_strings or "default" in action.help:
        return action.help
    if action.required:
        return f"{action.help}; required"
    if action.nargs == 0:  # a switch, or what ends the program at once
        return f"{action.help}; default: off" if action.default is False else action.help
    return f"{action.help}; default: " + ("none" if action.default in (None, []) else "%(default)s")


class MendingParser(argparse.ArgumentParser):
    """A parser that takes - for _ in a flag's name and no abbreviations, and says which flag or choice may be meant.

    An action may have a dict `refused`: values that are none of its choices, and why, in words that follow flag and value.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        self.others: Sequence[str] = ()  # flags that the script which was typed takes itself

    def check_flags(self, others: Sequence[str], args: Sequence[str]) -> None:
        """End with a sentence if a script, with the flags `others` of its own, cannot pass `args` on. For before its work."""
        self.others = others
        self._actions[:] = [action for action in self._actions if action.option_strings]
        for action in self._actions:
            action.required = False
        for name in LAUNCHERS:
            self._option_string_actions.pop(name, None)
        self.parse_args(args)

    def parse_known_args(self, args=None, namespace=None):
        given = list(sys.argv[1:] if args is None else args)
        n = given.index("--") if "--" in given else len(given)
        if self._subparsers is not None:  # what follows a command is its own parser's
            n = next((i for i, word in enumerate(given[:n]) if not word.startswith("-")), n)
        given[:n] = [self._known_spelling(word) for word in given[:n]]
        unknown = next((word for word in given[:n] if self._is_unknown(word)), None)
        if unknown is not None:
            name = unknown.partition("=")[0]
            self.error(f"unknown flag {name}{did_you_mean(name, [*self._option_string_actions, *self.others])}")
        return super().parse_known_args(given, namespace)

    def _known_spelling(self, word: str) -> str:
        """Return a flag with _ for - or the other way round, where that is one of this parser's."""
        name, equals, value = word.partition("=")
        known = self._option_string_actions
        if name.startswith("--") and name not in known:
            name = next((k for k in known if k.replace("-", "_") == name.replace("-", "_")), name)
        return name + equals + value

    def _is_unknown(self, word: str) -> bool:
        name = word.partition("=")[0]
        if " " in name or name in self._option_string_actions:
            return False
        if name.startswith("--"):
            return len(name) > 2
        return re.match("-[A-Za-z]", name) is not None and name[:2] not in self._option_string_actions

    def _check_value(self, action: argparse.Action, value) -> None:
        if action.choices is None or value in action.choices:
            return
        name = action.option_strings[0] if action.option_strings else action.metavar or action.dest
        if value in (refused := getattr(action, "refused", {})):
            raise argparse.ArgumentError(None, f"{name} {value} {refused[value]}")
        choices = [str(choice) for choice in action.choices]
        raise argparse.ArgumentError(
            None, f"{name} must be one of {', '.join(choices)}, but is {value!r}{did_you_mean(str(value), choices)}"
        )

    def format_help(self) -> str:
        for action in self._actions:
            action.help = with_default(action)
        return super().format_help()
