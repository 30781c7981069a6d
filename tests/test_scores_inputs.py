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


def test_cells_of_csv_have_quotes_and_cells_of_tsv_do_not(write):
    csv = inputs.read_references(write("a.csv", 'ref\n"say ""hi"", now"\n'))
    tsv = inputs.read_references(write("a.tsv", 'ref\tn\n"hi" she said\t1\n'))
    assert csv.groups == [['say "hi", now']]
    assert tsv.groups == [['"hi" she said']]


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
        ("r.tsv", "mr\tref\nA\t \n", "line 2: the reference is empty"),
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
