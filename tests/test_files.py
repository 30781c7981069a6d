"""The two writers of whole files, the training's and the evaluation's: neither imports the other, and they do the same."""

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest

from lora_nlg import files as of_training
from metrics import files as of_evaluation

BOTH = pytest.mark.parametrize("files", [of_training, of_evaluation], ids=["training", "evaluation"])
is_root = os.geteuid() == 0


@BOTH
@pytest.mark.parametrize("umask", [0o000, 0o002, 0o007, 0o022, 0o027, 0o077])
@pytest.mark.parametrize("is_there", [False, True])
def test_rights_are_those_of_any_new_file(tmp_path, files, umask, is_there):
    """Fails with fixed rights, such as 0644, which a umask of 077 or 002 does not ask for."""
    path = tmp_path / "a.txt"
    if is_there:
        path.write_text("old")
        path.chmod(0o600)
    before = os.umask(umask)
    try:
        with files.atomic_writer(path) as file:
            file.write("new")
        (tmp_path / "plain.txt").write_text("")
        assert os.umask(umask) == umask  # as it was before
    finally:
        os.umask(before)
    assert oct(path.stat().st_mode & 0o777) == oct(0o666 & ~umask)
    assert path.stat().st_mode == (tmp_path / "plain.txt").stat().st_mode


@BOTH
def test_text_is_utf8_with_plain_line_ends(tmp_path, files):
    with files.atomic_writer(tmp_path / "a.txt") as file:
        file.write("£ é \u2028\nb\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "£ é \u2028\nb\r\n".encode()


@BOTH
def test_missing_folders_are_made(tmp_path, files):
    with files.atomic_writer(tmp_path / "a" / "b" / "c.txt") as file:
        file.write("x")
    assert (tmp_path / "a/b/c.txt").read_text() == "x"


@BOTH
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_in_the_block_leaves_all_as_it_was(tmp_path, files, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), files.atomic_writer(path) as file:
        file.write("new")
        file.flush()
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def sentence(files, path) -> str:
    """Return what a writer says about a path that cannot be written."""
    with pytest.raises(files.UserError) as refused, files.atomic_writer(path) as file:
        file.write("x")
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("folder", "it is a folder"),
        ("file/a.txt", "a part of its path is a file, not a folder"),
        ("file/b/a.txt", "a part of its path is a file, not a folder"),
        ("x" * 300, "File name too long"),
        ("nowhere/" + "x" * 300, "File name too long"),
    ],
)
def test_what_cannot_be_written_is_the_same_sentence(tmp_path, name, reason):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    path = tmp_path / name
    said = {sentence(files, path) for files in (of_training, of_evaluation)}
    assert said == {f"cannot write {path}: {reason}; check the path, its folder's rights and free space"}
    assert (tmp_path / "file").read_text() == "old" and os.listdir(tmp_path / "folder") == []
    assert sorted(os.listdir(tmp_path))[:2] == ["file", "folder"]
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.skipif(is_root, reason="root may write everywhere")
def test_a_folder_without_rights_is_the_same_sentence(tmp_path):
    (tmp_path / "a").mkdir(mode=0o500)
    said = {sentence(files, tmp_path / "a" / "b") for files in (of_training, of_evaluation)}
    assert len(said) == 1 and "Permission denied" in said.pop()


@BOTH
@pytest.mark.parametrize("call", ["fsync", "chmod", "replace"])
def test_a_full_disk_leaves_all_as_it_was(tmp_path, monkeypatch, files, call):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, call, full)
    said = sentence(files, path)
    monkeypatch.undo()
    assert said.startswith(f"cannot write {path}: No space left on device; ")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@BOTH
def test_the_rename_is_made_to_last(tmp_path, monkeypatch, files):
    """The folder is synchronised after the file; where that is refused the file is good all the same."""
    synced, plain = [], os.fsync

    def fsync(descriptor):
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        if synced[-1]:
            raise OSError(errno.EINVAL, "not here")
        plain(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    with files.atomic_writer(tmp_path / "a.txt") as file:
        file.write("x")
    assert synced == [False, True]
    assert (tmp_path / "a.txt").read_text() == "x"


@pytest.mark.parametrize(
    ("outputs", "inputs", "says"),
    [
        (["a.txt"], [], None),
        (["new/a.txt", "new/b.txt"], ["c.txt"], None),
        (["a.txt", "x/../a.txt"], [], "it is named for two outputs"),
        (["in.txt"], ["in.txt"], "it is an input, too"),
        (["folder"], [], "it is a folder"),
        (["file/a.txt"], [], "a part of its path is a file, not a folder"),
    ],
)
def test_outputs_are_checked_alike(tmp_path, outputs, inputs, says):
    for name in ("folder", "x"):
        (tmp_path / name).mkdir()
    for name in ("file", "in.txt", "c.txt"):
        (tmp_path / name).write_text("")
    said = []
    for files in (of_training, of_evaluation):
        try:
            files.check_outputs([tmp_path / name for name in outputs], [tmp_path / name for name in inputs])
            said.append(None)
        except files.UserError as error:
            said.append(str(error))
    assert said[0] == said[1]
    assert (said[0] is None) if says is None else (says in said[0])


@BOTH
def test_digests(tmp_path, files):
    path = tmp_path / "a"
    path.write_bytes(b"x" * 3_000_000)
    assert files.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    for missing, reason in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(files.UserError) as refused:
            files.sha256(missing)
        assert str(refused.value) == f"cannot read {missing}: {reason}; check its rights"


def test_the_evaluation_goes_without_the_training():
    """Why there are two: its writer imports nothing of the training's, and the other way round."""
    for module, other in ((of_evaluation, "lora_nlg"), (of_training, "metrics")):
        lines = Path(module.__file__).read_text(encoding="utf-8").splitlines()
        assert not any(line.startswith(("import " + other, "from " + other)) for line in lines)


@BOTH
@pytest.mark.parametrize("name", ["dangling", "circle"])
def test_a_link_to_nothing_is_called_one(tmp_path, files, name):
    """Fails when a link that leads nowhere, or to itself, is said to be a file."""
    (tmp_path / name).symlink_to(tmp_path / ("circle" if name == "circle" else "nowhere/deep"))
    with (
        pytest.raises(
            files.UserError, match=r"cannot write .*: a part of its path is a link to nothing; check the path"
        ),
        files.atomic_writer(tmp_path / name / "out.txt"),
    ):
        pass
