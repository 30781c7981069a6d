"""What reaches a terminal: one line, and nothing that the terminal would obey."""

import errno

import pytest

import gpt2_generate
from lora_nlg import errors, flags
from lora_nlg.decoding.generate import Answer

CLEAR = "\x1b[2J"  # wipes a screen


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"a{CLEAR}b", r"a\x1b[2Jb"),
        ("a\nb\r\tc", r"a\nb\r\tc"),  # a file's name can hold them; the sentence is one line
        ("\x9b31m\x7f\x00", r"\x9b31m\x7f\x00"),  # C1's own escape, DEL, NUL
        ("abc\u202efed", r"abc\u202efed"),  # writes from right to left from here on
        ("\u2066a\u2069\u200f\u061c", r"\u2066a\u2069\u200f\u061c"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("\udcff", r"\udcff"),  # a byte of a file's name that is not UTF-8
        ("café – 你好 👩‍🍳 \\x1b", "café – 你好 👩‍🍳 \\x1b"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_instead(text, shown):
    assert errors.visible(text) == shown


def test_an_error_is_one_line_without_escapes(monkeypatch, capsys):
    """Fails when the sentence is printed as it is."""

    def fail(argv):
        raise errors.UserError(f"the file {CLEAR}x\ny\u202e is damaged")

    monkeypatch.setattr("sys.argv", ["program.py"])
    assert errors.run(fail) == 2
    assert capsys.readouterr().err == "program.py: error: the file \\x1b[2Jx\\ny\\u202e is damaged\n"


def test_a_wrong_flag_is_one_line_without_escapes(capsys):
    """Fails when argparse's message is printed as it is."""
    parser = flags.Parser(prog="program.py")
    with pytest.raises(SystemExit):
        parser.parse_args([f"--{CLEAR}\n"])
    assert capsys.readouterr().err == ("program.py: error: unknown flag --\\x1b[2J\\n; --help lists all flags\n")


def test_a_text_of_a_model_is_one_line_without_escapes():
    """Fails when the text that a model generated is printed as it is."""
    answers = [Answer(f"A{CLEAR}\n.", -1.0), Answer("B\x07", -2.0)]
    assert gpt2_generate.plain(answers, 0) == "A\\x1b[2J\\n."
    assert gpt2_generate.plain(answers, 1) == " -1.0000  A\\x1b[2J\\n.\n -2.0000  B\\x07\n"


def test_no_place_for_a_temporary_file_is_one_sentence(monkeypatch, capsys):
    """torch looks for one when it is imported. Fails at a traceback of tempfile's."""

    def main(_):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    assert errors.run(main) == 2
    assert capsys.readouterr().err.endswith(f"error: {errors.NO_PLACE}\n")
