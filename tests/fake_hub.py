"""A Hugging Face Hub on this machine: files of repositories by commit, and the three requests of an upload."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

TOKEN = "hf_secret"
FILE = re.compile(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)")


class Hub(ThreadingHTTPServer):
    """Repositories by name, each a dict of contents by file name; `commits` has the commit of each branch or tag."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.commits = {"main": "a" * 40, "v1": "b" * 40}
        self.private: set[str] = set()
        self.moves = False  # whether main becomes another commit once a file was sent
        self.code = 0  # what every request is answered with, 0: as usual
        self.got: list[str] = []  # names of the files that were sent
        self.made: list[str] = []  # repositories that were asked for


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.serve(False)

    def do_GET(self):
        self.serve(True)

    def refuse(self, code: int, why: str):
        self.send_response(code)
        self.send_header("X-Error-Code", why)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def serve(self, with_body: bool):
        found = FILE.fullmatch(self.path)
        if self.server.code:
            return self.refuse(self.server.code, "")
        if found is None:
            return self.refuse(404, "")
        repository, revision, name = found.groups()
        files = self.server.repositories.get(repository)
        if files is None or (repository in self.server.private and not self.is_known()):
            return self.refuse(401, "RepoNotFound")
        commit = self.server.commits.get(revision, revision)
        if len(commit) != 40:
            return self.refuse(404, "RevisionNotFound")
        if name not in files:
            return self.refuse(404, "EntryNotFound")
        content = files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if with_body:
            self.server.got.append(name)
            self.wfile.write(content)
            if self.server.moves:
                self.server.commits["main"] = "b" * 40

    def is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if not self.is_known():
            return self.refuse(401, "")
        if self.path == "/api/repos/create":
            said = json.loads(body)
            repository = "/".join(filter(None, (said.get("organization"), said["name"])))
            self.server.made.append(repository)
            self.server.repositories.setdefault(repository, {})
            return self.answer({"url": f"{self.server.url}/{repository}"})
        repository, step = re.match(r"/api/models/([\w.-]+/[\w.-]+)/(preupload|commit)/main", self.path).groups()
        if step == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            return self.answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.repositories[repository][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        self.answer({"commitUrl": f"{self.server.url}/{repository}/commit/{'a' * 40}", "commitOid": "a" * 40})

    def answer(self, content: dict):
        encoded = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that the client of this process talks to, with a cache of its own; the work is done in a new folder."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the pauses before another try
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with Hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
