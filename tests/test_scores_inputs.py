"""What the scorer reads: plain text and tables, and one sentence for everything that is wrong. No Java."""

import pytest

from metrics import files, inputs
from metrics.errors import UserError


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return str(path)

    return write


TWO_GROUPS = [["one .", "uno ."], ["two ."]]


@pytest.mark.parametrize(
    "content",
    [
        "one .\nuno .\n\ntwo .\n\n",
        "one .\nuno .\n\ntwo .",  # no end of line at the end
        "one .\r\nuno .\r\n\r\ntwo .\r\n\r\n",
        b"\xef\xbb\xbfone .\nuno .\n\n two .  \n\n\n",  # byte order mark, blanks, two blank lines at the end
    ],
)
def test_references_as_text(write, content):
    references = inputs.read_references(write("ref.txt", content))
    assert references == inputs.References(TWO_GROUPS, None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ref.csv", '"mr","ref"\n"A","one ."\n"B","two ."\n"A","uno ."\n'),
        ("ref.CSV", "id,Reference,MR\n1,one .,A\n2,uno .,A\n\n3,two .,B\n"),
        ("ref.tsv", "Source\thuman ref\nA\tone .\nA\tuno .\nB\ttwo .\n"),
        ("ref.tsv", "\ufeffMeaning Representation\tref\r\nA\tone .\r\nA\tuno .\r\n\r\nB\ttwo .\r\n"),
    ],
)
def test_references_as_a_table_are_grouped_by_source(write, name, content):
    assert inputs.read_references(write(name, content)) == inputs.References(TWO_GROUPS, ["A", "B"])


def test_cells_have_quotes_whatever_separates_them(write):
    csv = inputs.read_references(write("a.csv", 'ref\n"say ""hi"", now"\n'))
    tsv = inputs.read_references(write("a.tsv", 'ref\tn\n"say ""hi"", now"\t1\n'))
    assert csv.groups == tsv.groups == [['say "hi", now']]


def test_quotes_that_enclose_no_cell_of_a_tsv_are_text(write):
    tsv = inputs.read_references(write("a.tsv", 'ref\tn\n"hi" she said\t1\n5" wide\t2\n"in ""quotes"""\t3\n'))
    assert tsv.groups == [['"hi" she said'], ['5" wide'], ['in "quotes"']]


def test_quotes_do_not_swallow_rows_of_a_tsv(write):
    tsv = inputs.read_references(write("a.tsv", 'mr\tref\nA\t"one .\nA\tuno .\nB\ttwo ."\n'))
    assert tsv.groups == [['"one .', "uno ."], ['two ."']]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "ref.csv",
            "mr\tref\nA\tone .\nA\tuno .\nB\ttwo .\n",
        ),  # the first line says what separates cells, not the name
        ("ref.tsv", "mr,ref\nA,one .\nA,uno .\nB,two .\n"),
        ("ref.tsv", '\n"A"\t"one ."\n\n"A"\t"uno ."\nB\ttwo .\n'),  # no header
        ("ref.csv", '"A","one ."\n,\nA,uno .\nB,"two\n."\n'),
        ("ref.tsv", "MR\tref\n'A'\t'one .'\n'A'\t'uno .'\n'B'\t'two .'\n"),
        ("ref.tsv", "'A'\t'one .'\n'A'\t'uno .'\n'B'\t'two .'"),
        ("ref.csv", "'mr','ref'\n'A','one .'\n'A','uno .'\n'B','two .'\n"),
    ],
)
def test_references_of_other_tables(write, name, content):
    assert inputs.read_references(write(name, content)) == inputs.References(TWO_GROUPS, ["A", "B"])


REFERENCES = inputs.References(TWO_GROUPS, ["A", "B"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("sys.txt", "x\n\n"),  # the second output is empty, the file is not short
        ("sys.tsv", "sys_out\tBLEU\nx\t1\n\t0\n"),
        ("sys.tsv", "mr\toutput\nB\t\nA\tx\n"),  # goes by source, not by row
        ("sys.csv", "MR,Output\nA,x\nA,x\nB,\n"),  # one row a reference: equal outputs are one
    ],
)
def test_outputs(write, name, content):
    assert inputs.read_outputs(write(name, content), REFERENCES).texts == ["x", ""]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("mr\toutput\n'A'\t'it''s x'\n'B'\t'Blue Spice's, y'\n", ["it's x", "Blue Spice's, y"]),
        ("mr,output\n'A','x, y'\n'B','z'\n", ["x, y", "z"]),
        ("mr\toutput\nA\t'x'\nB\t'y'\n", ["'x'", "'y'"]),  # not every cell
        ("mr\tref\nA\tx\nB\ty\n", ["x", "y"]),  # as the data set names it
        ("A\tx\nB\ty\n", ["x", "y"]),
    ],
)
def test_outputs_of_other_tables(write, content, texts):
    assert inputs.read_outputs(write("sys.tsv", content), REFERENCES).texts == texts


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("s.csv", 'mr,output\nA, "x, ."\nB, y\n'),  # a blank before the quote
        ("s.csv", 'sep=;\nmr;output\nA;"x, ."\nB;y\n'),  # what a spreadsheet writes to be understood by itself
        ("s.csv", '\ufeff\ufeffmr,output\nA,"x, ."\nB,y\n'),  # a byte order mark before a byte order mark
        ("s.tsv", '\ufeff"sep=\t"\nmr\toutput\nA\t"x, ."\nB\ty\n'),
    ],
)
def test_what_spreadsheets_put_around_cells(write, name, content):
    assert inputs.read_outputs(write(name, content), REFERENCES).texts == ["x, .", "y"]


def test_quotes_within_a_cell_after_a_blank_are_text(write):
    outputs = inputs.read_outputs(write("s.csv", 'mr,output\nA, "The Mill" serves tea\nB,y\n'), REFERENCES)
    assert outputs.texts == ['"The Mill" serves tea', "y"]


@pytest.mark.parametrize("name", ["s.csv", "s.tsv"])
def test_a_cell_may_be_longer_than_pythons_limit(write, name):
    separator = "\t" if name == "s.tsv" else ","
    content = f'mr{separator}output\nA{separator}"{"x" * 200_000}\n."\nB{separator}y\n'
    assert [len(text) for text in inputs.read_outputs(write(name, content), REFERENCES).texts] == [200_002, 1]


@pytest.mark.parametrize(
    "note",
    ['{"inputs": 3, "covered": [0, 1e400]}', '{"inputs": 3, "covered": "01"}', '{"inputs": 3, "covered": [1, 0]}',
     '{"inputs": 3, "covered": [0, 0]}', '{"inputs": 2, "covered": [0, 2]}', '{"inputs": 3, "covered": [-1, 2]}',
     '{"inputs": "3", "covered": [0, 1]}', '{"inputs": 3, "covered": {"0": 1}}', '{"inputs": 3, "covered": [0, true]}'],
)  # fmt: skip
def test_a_damaged_note_of_what_is_covered_is_one_sentence(write, note):
    path = write("prediction.txt", "x\ny\n")
    write("prediction.txt.covered.json", note)
    with pytest.raises(UserError, match="is damaged"):
        inputs.read_coverage(path, 2)


def test_texts_that_are_json_are_texts(write):
    """Of a task whose outputs are JSON: it would have been refused after hours of training."""
    lines = ['{"name": "Blue Spice"}', "[]"]
    assert inputs.read_outputs(write("s.txt", "\n".join(lines)), REFERENCES).texts == lines


def test_misread_letters_are_mended_and_polish_ones_are_not(write):
    rows = "mr\toutput\nA, less than £20\tcafÃ© under Â£20 or Ł 30\nB\tCAFã© in Łódź\n"
    references = inputs.read_references(write("r.csv", 'mr,ref\n"A, less than Ł20",x\nB,y\n'))
    assert references.sources == ["A, less than £20", "B"]
    assert inputs.read_outputs(write("s.tsv", rows), references).texts == ["café under £20 or £ 30", "CAFé in Łódź"]


def test_sources_beside_plain_references_put_outputs_in_order(write):
    references = inputs.with_sources(inputs.References(TWO_GROUPS, None), write("src.txt", "A\nB\n"))
    assert inputs.read_outputs(write("sys.tsv", "mr\toutput\nB\ty\nA\tx\n"), references).texts == ["x", "y"]
    with pytest.raises(UserError, match="source 2 is not that of the references: 'C'"):
        inputs.with_sources(references, write("other.txt", "A\nC\n"))


def test_sources_that_are_twice_leave_outputs_in_their_rows(write):
    references = inputs.with_sources(inputs.References(TWO_GROUPS, None), write("src.txt", "A\nA\n"))
    assert inputs.read_outputs(write("sys.tsv", "mr\toutput\nA\ty\nA\tx\n"), references).texts == ["y", "x"]


def test_outputs_keep_their_rows_where_the_references_have_no_source(write):
    plain = inputs.References(TWO_GROUPS, None)
    outputs = inputs.read_outputs(write("sys.tsv", "mr\toutput\nB\ty\nA\tx\n"), plain)
    assert outputs == inputs.Outputs(["y", "x"], ["B", "A"])


@pytest.mark.parametrize(("name", "content"), [("s.txt", "A\nA\n"), ("s.csv", "mr,ref\nA,1\nA,2\nB,3\n")])
def test_sources(write, name, content):
    assert len(inputs.read_sources(write(name, content), 2)) == 2


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("r.txt", "", "r.txt is empty"),
        ("r.txt", "\n\n", "only blank lines"),
        ("r.txt", "a\n\n\nb\n", "line 3: a blank line"),
        ("r.txt", "\na\n", "line 1: a blank line"),
        ("r.txt", b"good\nbad \xe9t\xe9\n", "line 2: byte 0xe9 is not UTF-8"),
        ("r.csv", "mr,text\nA,x\n", "names no reference column; call it 'ref'"),
        ("r.csv", "ref,Reference\nA,x\n", "more than one reference column: ref, Reference"),
        ("r.csv", "mr,ref\nA,x\nA\n", "line 3: 1 cells, but the header names 2 columns"),
        ("r.csv", 'mr,ref\nA,"x" y\n', "line 2: not a CSV table"),
        ("r.tsv", "mr\tref\n", "a header and no rows"),
        ("r.csv", ",\n\n", "only empty lines and cells"),
        ("r.tsv", "mr\tref\nA\t \n", "line 2: the reference is empty"),
        ("r.txt", "one .\runo .\r", r"its lines end with \r alone"),
        ("r.tsv", "mr\tref\rA\tone .\r", r"its lines end with \r alone"),
        ("r.jsonl", '{"text": "one ."}\n', "r.jsonl holds JSON; give one text a line, or a table"),
        ("r.txt", '{"context": "A", "completion": "one ."}\n', "r.txt holds JSON"),
    ],
)
def test_wrong_references_are_one_sentence(write, name, content, says):
    with pytest.raises(UserError) as error:
        inputs.read_references(write(name, content))
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("s.txt", "x\n", "has 1 outputs but the references are of 2 inputs"),
        ("s.txt", "x\ny\nz\n", "has 3 outputs but the references are of 2 inputs"),
        ("s.tsv", "output\nx\n", "has 1 outputs but the references are of 2 inputs"),
        ("s.csv", "mr,output\nA,x\nC,y\n", "line 3: the references have no input 'C'"),
        ("s.csv", "mr,output\nA,x\nA,y\n", "line 3: a second, different output for the input 'A'"),
        ("s.csv", "mr,output\nA,x\n", "'B' is missing"),
        ("s.jsonl", "x\ny\n", "s.jsonl holds JSON"),
        ("s.txt", '{"id": 0, "predict": [1]}\n{"id": 1, "predict": [2]}\n', "s.txt holds JSON"),
    ],
)
def test_wrong_outputs_are_one_sentence(write, name, content, says):
    with pytest.raises(UserError) as error:
        inputs.read_outputs(write(name, content), REFERENCES)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none\.txt: No such file"):
        inputs.read_references(str(tmp_path / "none.txt"))
    with pytest.raises(UserError, match="Is a directory"):
        inputs.read_references(str(tmp_path))


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "out.tsv"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), files.atomic_writer(path) as file:
        file.write("half")
        raise ZeroDivisionError
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    with files.atomic_writer(path) as file:
        file.write("é\n")
    assert path.read_bytes() == "é\n".encode()
    (tmp_path / "no").write_text("a file, not a folder")
    with pytest.raises(UserError, match="cannot write"), files.atomic_writer(tmp_path / "no" / "x"):
        pass


def test_one_line_leaves_no_line_break():
    assert files.one_line("a\tb\r\nc\u2028d\x85e\x0bf") == "a b  c d e f"
    assert len(files.one_line("a\tb\r\nc\u2028d\x85e\x0bf\x1cg").splitlines()) == 1
