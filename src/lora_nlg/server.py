"""A page for this machine alone, and the answers to what it asks.

Any site that is open in the same browser can send requests here. So they must name this machine as their host, whatever name was
made to lead to it (DNS rebinding), and what is posted must come from the page itself. Nothing is loaded from elsewhere.
"""

import base64
import hashlib
import json
import queue
import re
import socketserver
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lora_nlg.errors import Stopped, UserError

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")  # the latter through an SSH tunnel, with any port
MOST_BYTES = 64 * 1024  # of what is asked: an input and a few numbers
SECONDS = 30  # in which a request must have come
PAGE = Path(__file__).with_name("page.html")
PATHS = {"/": "GET", "/about": "GET", "/answer": "POST"}
JSON, HTML = "application/json", "text/html; charset=utf-8"
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Refused(Exception):
    """A request that gets no answer but `status` and one sentence."""

    def __init__(self, status: HTTPStatus, sentence: str):
        super().__init__(sentence)
        self.status = status


PAUSE = 0.5  # seconds in which a signal is heard


class Server(ThreadingHTTPServer):
    """Listens from the start, and answers once it is told what: requests that come before wait."""

    daemon_threads = True

    def __init__(self, port: int):
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            raise UserError(
                f"cannot listen on port {port} of {HOST}: {error.strerror}; give another one, or --serve 0 for any that is free"
            ) from error
        self.page = PAGE.read_text(encoding="utf-8")
        self.policy = policy(self.page)
        self.about: dict[str, object] = {}
        self.jobs: queue.SimpleQueue[tuple[Future, Any] | None] = queue.SimpleQueue()

    def server_bind(self) -> None:
        """Bind without asking for the machine's name, as HTTPServer does: without a network that can take its time."""
        socketserver.TCPServer.server_bind(self)

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://{HOST}:{self.server_address[1]}/"

    def serve(self, about: dict[str, object], answer: Callable[[Any], dict[str, object]]) -> None:
        """Answer until the program is ended, or a None is among the jobs.

        Requests come in threads of their own and are answered in this one, one after the other, so that Ctrl-C ends even a search.
        """
        self.about = about
        threading.Thread(target=self.serve_forever, daemon=True).start()
        try:
            while True:
                try:
                    job = self.jobs.get(timeout=PAUSE)
                except queue.Empty:  # Python hears no signal that comes just before a wait until that has ended
                    continue
                if job is None:
                    break
                done, asked = job
                try:
                    done.set_result(answer(asked))
                except UserError as error:
                    done.set_exception(Refused(HTTPStatus.BAD_REQUEST, str(error)))
                except Stopped:
                    raise
                except Exception as error:  # such as too little memory for so many beams: the next may well do
                    traceback.print_exc()
                    said = f"this could not be computed ({type(error).__name__}); what was printed where the program runs says why"
                    done.set_exception(Refused(HTTPStatus.INTERNAL_SERVER_ERROR, said))
        finally:
            self.shutdown()

    def ask(self, asked: Any) -> dict[str, object]:
        """Return the answer, from any thread. Raises Refused."""
        done: Future = Future()
        self.jobs.put((done, asked))
        return done.result()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that has gone away."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    timeout = SECONDS

    def do_GET(self) -> None:
        """Give the page or what it needs to know, or take what it asks."""
        try:
            self._send(HTTPStatus.OK, *self._answer())
        except Refused as refused:
            self._send_error(refused.status, str(refused))

    do_POST = do_GET

    def _answer(self) -> tuple[str, str]:
        """Return the type and the content of the answer. Raises Refused."""
        self._check_sender()
        path = self.path.partition("?")[0]
        if path not in PATHS:
            raise Refused(HTTPStatus.NOT_FOUND, f"there is nothing here; the page is at {self.server.url}")
        if self.command != PATHS[path]:
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} takes {PATHS[path]}, not {self.command}")
        if path == "/":
            return HTML, self.server.page
        return JSON, json.dumps(self.server.about if path == "/about" else self.server.ask(self._read()))

    def _check_sender(self) -> None:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or re.sub(r":\d+$", "", hosts[0]).lower() not in NAMES:
            raise Refused(HTTPStatus.FORBIDDEN, f"this page is for its own machine alone; open {self.server.url} there")
        origins = self.headers.get_all("Origin", [])  # no browser posts without
        if any(origin != f"http://{hosts[0]}" for origin in origins):
            raise Refused(HTTPStatus.FORBIDDEN, f"another site may not ask; open {self.server.url} itself")

    def _read(self) -> Any:
        """Return the JSON value that is posted."""
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,9}", length):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length in bytes")
        if int(length) > MOST_BYTES:
            self._drop(int(length))
            said = f"{length} bytes are too many, {MOST_BYTES} are taken; shorten the input"
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, said)
        content = self.rfile.read(int(length))
        if self.headers.get_content_type() != JSON:
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"expected the Content-Type {JSON}")
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise Refused(HTTPStatus.BAD_REQUEST, f"not JSON ({error}); expected one JSON object") from error

    def _drop(self, length: int) -> None:
        """Take in what is too much, so that its sender gets to read why; of a flood only a part."""
        left = min(length, 100 * MOST_BYTES)
        while left > 0 and (got := self.rfile.read(min(left, MOST_BYTES))):
            left -= len(got)

    def _send(self, status: HTTPStatus, kind: str, content: str) -> None:
        encoded = content.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(encoded)))
        self.send_header("Content-Security-Policy", self.server.policy)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(encoded)

    def _send_error(self, status: int, sentence: str) -> None:
        self._send(HTTPStatus(status), JSON, json.dumps({"error": sentence}))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is no request, or no method that is known, in the words of http.server."""
        self._send_error(HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else code, str(message))

    def version_string(self) -> str:
        """Say nothing of what serves."""
        return "lora_nlg"

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the terminal stays readable."""


def policy(page: str) -> str:
    """Return the Content-Security-Policy: the page's one style and one script, and answers from where it came from."""

    def allowed(tag: str) -> str:
        [content] = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

    others = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return f"{others}; {allowed('style')}; {allowed('script')}"
