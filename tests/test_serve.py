"""The page of gpt2_generate.py --serve: who may ask, what is answered, and how a browser shows it."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import contrast
import gpt2_generate
import toy
from lora_nlg import errors, server
from lora_nlg.config import BeamConfig
from lora_nlg.decoding.generate import Generator
from lora_nlg.decoding.systems import Systems
from lora_nlg.methods import add_adapters, merge_adapters
from lora_nlg.methods.placement import LoraConfig
from lora_nlg.methods.switch import Switch
from lora_nlg.questions import Questions
from lora_nlg.server import Server
from lora_nlg.storage import checkpoints, models
from lora_nlg.tasks import TASKS, e2e

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "pretrained_checkpoints/gpt2.mini"
PATIENCE = 300  # seconds, on a machine that has much else to do
MR = "name : The Fox | Type : pub | near : Zizzi"

needs_vocab = pytest.mark.skipif(
    not (ROOT / "vocab/encoder.json").is_file(), reason="no vocabulary: bash scripts/00_setup.sh"
)


# Which slots a text tells


@pytest.mark.parametrize(
    ("mr", "text", "told"),
    [
        (MR, "The Fox is a pub near Zizzi .", "name, Type, near"),
        (MR, "the fox is a PUB.", "name, Type"),
        (MR, "The Foxes run publicity .", ""),  # parts of words are none
        ("name : A | price : less than £20", "A asks less than £ 20 .", "name, price"),
        ("name : A | food : fast-food", "A has fast food", "name, food"),
        ("name : A | family friendly : yes", "A is family - friendly .", "name, family friendly"),
        ("name : A | family friendly : yes", "A is not family friendly .", "name"),
        ("name : A | family friendly : yes", "yes , A .", "name"),
        ("name : A | family friendly : no", "A is n't a family-friendly place .", "name, family friendly"),
        ("name : A | family friendly : no", "A is family friendly .", "name"),
        ("name : A | family friendly : no", "no A .", "name"),
        ("name : . | area : +", "", ""),
    ],
)
def test_a_slot_is_told_word_for_word(mr, text, told):
    found = e2e.told(mr, text)
    assert list(found) == list(e2e.parse_mr(mr, "here"))
    assert ", ".join(slot for slot, is_told in found.items() if is_told) == told


# One base, several adapters


class Numbers:
    """An encoding of letters as ids that the toy knows, and of ids as words."""

    def encode_ordinary(self, text: str) -> list[int]:
        return [ord(letter) % 160 for letter in text]

    def decode(self, ids: list[int]) -> str:
        return " ".join(f"w{i}" for i in ids)


RULES = BeamConfig(beam=4, eval_len=8, length_penalty=0.8, no_repeat_ngram_size=4, eos_token_ids=(162, 46))


@pytest.fixture(autouse=True)
def end_of_text(monkeypatch):
    """An end of text that is a token of the toy."""
    monkeypatch.setattr("lora_nlg.decoding.generate.END_OF_TEXT_ID", 162)


def generator(model) -> Generator:
    return Generator(model.eval(), Numbers(), RULES, torch.device("cpu"), "fp64", lambda text, where: None)


def systems() -> Systems:
    """The toy alone, and the toy with its adapters."""
    base = toy.model()
    tensors = {name: tensor for name, tensor in toy.tensors(4).items() if "lora_" in name}
    return Systems(generator(base), Switch(base), {"alone": None, "adapters": (LoraConfig(4, 32), tensors)})


def test_every_system_gives_what_it_gives_by_itself():
    """Fails when adapters are merged into the base of the next, or left on, or when the rules of before stay."""
    merged = toy.model(4)
    merge_adapters(merged)
    both = systems()
    for text, rules in (("a b", RULES), ("c", RULES), ("a b", replace(RULES, beam=2, length_penalty=0.0))):
        found = both.answers(text, "here", 3, rules)
        assert list(found) == ["alone", "adapters"]
        for name, model in (("alone", toy.model()), ("adapters", merged)):
            assert found[name] == replace(generator(model), rules=rules).answers(text, "here", 3)
        assert found["alone"][0].text != found["adapters"][0].text


# What is asked and answered


@pytest.fixture
def questions():
    task = replace(TASKS["e2e"], told=lambda mr, text: {"name": text.startswith("w1")})
    return Questions(systems(), task, n_alternatives=3)


def test_the_page_is_told_what_the_flags_say(questions):
    about = questions.about()
    assert (about["systems"], about["has_slots"]) == (["alone", "adapters"], True)
    defaults = {name: setting["default"] for name, setting in about["settings"].items()}
    assert defaults == {"beam": 4, "length_penalty": 0.8, "alternatives": 3, "eval_len": 8}
    assert about["settings"]["eval_len"]["most"] == toy.CONFIG.n_positions - 1


def test_a_default_is_never_out_of_bounds():
    both = systems()
    both.generator = replace(both.generator, rules=replace(RULES, beam=200))
    settings = Questions(both, TASKS["own"], 30).about()["settings"]
    assert [settings[name]["most"] for name in ("beam", "alternatives")] == [200, 30]


def test_the_first_text_is_the_best_and_settings_count(questions):
    plain = questions.answer({"input": f" {MR}\n"})
    assert plain["input"] == MR
    for system, name in zip(plain["systems"], ("alone", "adapters"), strict=True):
        expected = questions.systems.answers(MR, "here", 4, RULES)[name]
        assert system["name"] == name
        assert [(one["text"], one["score"]) for one in system["texts"]] == [(a.text, a.score) for a in expected]
        assert [one["told"] for one in system["texts"]] == [{"name": a.text.startswith("w1")} for a in expected]
    other = questions.answer({"input": MR, "beam": 2, "length_penalty": 2, "alternatives": 0, "eval_len": 3})
    rules = replace(RULES, beam=2, length_penalty=2, eval_len=3)
    for system in other["systems"]:
        [expected] = questions.systems.answers(MR, "here", 1, rules)[system["name"]]
        assert [(one["text"], one["score"]) for one in system["texts"]] == [(expected.text, expected.score)]


def test_a_task_without_slots_tells_none():
    answer = Questions(systems(), TASKS["own"], 0).answer({"input": "anything"})
    assert [system["texts"][0]["told"] for system in answer["systems"]] == [None, None]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ([], 'expected a JSON object with the input, a string, under "input"'),
        ({}, 'a string, under "input"'),
        ({"input": 3}, 'a string, under "input"'),
        ({"input": " \n\t"}, "the MR is empty; type one, such as name : Blue Spice"),
        ({"input": MR, "beams": 3}, "'beams' is no setting; expected any of beam, length_penalty"),
        ({"input": MR, "beam": 0}, "beam must be a whole number from 1 to 50, but is 0"),
        ({"input": MR, "beam": 51}, "from 1 to 50, but is 51"),
        ({"input": MR, "beam": 2.0}, "a whole number from 1 to 50, but is 2.0"),
        ({"input": MR, "beam": True}, "but is True"),
        ({"input": MR, "alternatives": -1}, "alternatives must be a whole number from 0 to 20"),
        ({"input": MR, "length_penalty": float("nan")}, "length_penalty must be a number from -10.0 to 10.0, but is nan"),
        ({"input": MR, "length_penalty": "x" * 99}, f"but is '{'x' * 39}"),
        ({"input": MR, "eval_len": 10**30}, "eval_len must be a whole number from 1 to 1023"),
        ({"input": MR * 100}, "this MR: 4201 tokens are too many"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_gets_one_sentence(questions, asked, words):
    with pytest.raises(errors.UserError) as raised:
        questions.answer(asked)
    assert words in str(raised.value)


# Who may ask, and how


@contextlib.contextmanager
def served(about: dict, answer) -> Iterator[Server]:
    """Serve in a thread."""
    with Server(0) as running:
        thread = threading.Thread(target=running.serve, args=(about, answer))
        thread.start()
        try:
            yield running
        finally:
            running.jobs.put(None)
            thread.join()


def echo(asked):
    """Answer with what is asked, but for what is refused and what is a fault of the program."""
    if asked == "refused":
        raise errors.UserError("not this one")
    if asked == "fault":
        raise RuntimeError("out of memory")
    return {"asked": asked}


@pytest.fixture(scope="module")
def port():
    with served({"systems": ["one"]}, echo) as running:
        yield running.server_address[1]


def send(port: int, method: str, path: str, body: bytes | None = None, **headers: str | None):
    """Return the status, the headers and the content of an answer; a header that is None is left out."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    given = {"Host": f"127.0.0.1:{port}", "Content-Type": "application/json"}
    given |= {} if body is None else {"Content-Length": str(len(body))}
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in (given | {name.replace("_", "-"): value for name, value in headers.items()}).items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def refused(status: int, words: str, answer) -> None:
    """Hold that an answer is one sentence of JSON."""
    code, headers, content = answer
    assert (code, headers["Content-Type"]) == (status, "application/json")
    [(name, sentence)] = json.loads(content).items()
    assert name == "error" and words in sentence and "\n" not in sentence


def test_what_is_asked_is_answered(port):
    status, headers, content = send(port, "POST", "/answer", b'{"input": "\xc3\xa9"}')
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(content) == {"asked": {"input": "é"}}
    assert json.loads(send(port, "GET", "/about")[2]) == {"systems": ["one"]}


def test_the_page_may_load_nothing_and_run_nothing_else(port):
    status, headers, content = send(port, "GET", "/?again")
    page = content.decode()
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert page == server.PAGE.read_text(encoding="utf-8")
    assert "http:" not in page and "https:" not in page and "url(" not in page and "@import" not in page
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\son\w+=|\sstyle=", page)
    policy = headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "form-action 'none'"} <= set(policy)
    assert not any("unsafe" in rule for rule in policy)
    assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")
    assert "Access-Control-Allow-Origin" not in headers


HERE = "this page is for its own machine alone"
ASK = json.dumps({"input": MR}).encode()


@pytest.mark.parametrize("path", ["/", "/about", "/answer"])
@pytest.mark.parametrize(
    "host", ["example.org", "127.0.0.1.example.org", "example.org:80", "", None, "127.0.0.1@example.org"]
)
def test_another_name_for_this_machine_is_refused(port, path, host):
    """DNS rebinding: a site's own name, made to lead here."""
    request_ = ("POST", path, ASK) if path == "/answer" else ("GET", path)
    refused(403, HERE, send(port, *request_, Host=host))


def test_two_names_are_refused(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: example.org\r\n\r\n")
        assert b" 403 " in connection.makefile("rb").readline()


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:9"])
def test_this_machine_has_its_own_names_through_any_port(port, host):
    """As through an SSH tunnel."""
    assert send(port, "GET", "/", Host=host)[0] == 200
    assert send(port, "POST", "/answer", ASK, Host=host, Origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize(
    "origin", ["http://example.org", "null", "http://127.0.0.1:9", "https://127.0.0.1:{}", "http://localhost:{}", ""]
)
def test_another_site_may_not_ask(port, origin):
    """Fails, too, when another program's page on this machine may."""
    answer = send(port, "POST", "/answer", ASK, Origin=origin.format(port))
    refused(403, "another site may not ask", answer)


def test_the_page_itself_may_ask_and_what_is_no_browser_as_well(port):
    assert send(port, "POST", "/answer", ASK, Origin=f"http://127.0.0.1:{port}")[0] == 200
    assert send(port, "POST", "/answer", ASK)[0] == 200


@pytest.mark.parametrize(
    ("status", "words", "request_", "headers"),
    [
        (404, "there is nothing here; the page is at http://127.0.0.1:", ("GET", "/nothing"), {}),
        (404, "there is nothing here", ("GET", "/../page.html"), {}),
        (404, "there is nothing here", ("POST", "/answer/", ASK), {}),
        (405, "/answer takes POST, not GET", ("GET", "/answer"), {}),
        (405, "/ takes GET, not POST", ("POST", "/", ASK), {}),
        (405, "Unsupported method ('PUT')", ("PUT", "/answer", ASK), {}),
        (405, "Unsupported method ('OPTIONS')", ("OPTIONS", "/answer"), {}),
        (411, "expected a Content-Length", ("POST", "/answer"), {}),
        (411, "expected a Content-Length", ("POST", "/answer"), {"Transfer_Encoding": "chunked"}),
        (411, "expected a Content-Length", ("POST", "/answer"), {"Content_Length": "-1"}),
        (411, "expected a Content-Length", ("POST", "/answer"), {"Content_Length": "1_0"}),
        (413, "65537 bytes are too many, 65536 are taken", ("POST", "/answer", b"x" * 65537), {}),
        (413, "3000000 bytes are too many", ("POST", "/answer", b"x" * 3_000_000), {}),
        (415, "expected the Content-Type application/json", ("POST", "/answer", ASK), {"Content_Type": "text/plain"}),
        (415, "expected the Content-Type", ("POST", "/answer", ASK), {"Content_Type": None}),
        (400, "not JSON (", ("POST", "/answer", b""), {}),
        (400, "not JSON (", ("POST", "/answer", b'{"input": "x"'), {}),
        (400, "not JSON (", ("POST", "/answer", b'"\xff"'), {}),
        (400, "not JSON (", ("POST", "/answer", b"[" * 60_000), {}),
        (400, "not JSON (", ("POST", "/answer", b"9" * 60_000), {}),
        (400, "not this one", ("POST", "/answer", b'"refused"'), {}),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_request_is_said_in_one_sentence(port, status, words, request_, headers):
    refused(status, words, send(port, *request_, **headers))


def test_a_fault_of_the_program_is_shown_in_its_terminal_and_the_next_is_answered(port, capfd):
    refused(500, "this could not be computed (RuntimeError)", send(port, "POST", "/answer", b'"fault"'))
    assert "RuntimeError: out of memory" in capfd.readouterr().err
    assert send(port, "POST", "/answer", ASK)[0] == 200


def test_who_goes_away_and_who_sends_no_request_leaves_no_trace(port, capfd):
    for sent in (
        b"",
        b"\r\n",
        b"nonsense\r\n\r\n",
        b"POST /answer HTTP/1.0\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(sent)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset, in place of an end
    assert send(port, "GET", "/about")[0] == 200
    assert capfd.readouterr().err == ""


def test_two_requests_at_once_are_answered_one_after_the_other():
    """Fails when the threads of the requests search themselves: both would use the one base."""
    searching, most = 0, 0

    def answer(asked):
        nonlocal searching, most
        searching += 1
        most = max(most, searching)
        time.sleep(0.05)
        found = questions.answer(asked)
        searching -= 1
        return found

    questions = Questions(systems(), TASKS["own"], 2)
    texts = [f"input {number}" for number in range(6)]
    alone = [json.loads(json.dumps(questions.answer({"input": text}))) for text in texts]
    with served(questions.about(), answer) as running, ThreadPoolExecutor(len(texts)) as pool:
        bodies = [json.dumps({"input": text}).encode() for text in texts]
        asked = [pool.submit(send, running.server_address[1], "POST", "/answer", body) for body in bodies]
        assert [json.loads(one.result()[2]) for one in asked] == alone
    assert most == 1


def test_only_this_machine_can_reach_it():
    with Server(0) as bound:
        assert bound.server_address[0] == "127.0.0.1"
        assert bound.url == f"http://127.0.0.1:{bound.server_address[1]}/"


def test_a_port_in_use_is_one_sentence():
    with Server(0) as first, pytest.raises(errors.UserError) as raised:
        Server(first.server_address[1])
    assert "Address already in use; give another one, or --serve 0" in str(raised.value)


# The program


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--compare_with a.pt", "--compare_with is for the page; give --serve as well"),
        ("--serve --jsonl", "--jsonl would have no effect with --serve"),
        ("--serve 65536", "--serve must be a port from 0 to 65535, but is 65536"),
        ("--serve -1", "--serve must be a port from 0 to 65535, but is -1"),
        ("--serve --lora_checkpoint a.pt --compare_with a.pt", "is --lora_checkpoint itself; name other adapters"),
        ("--serve 0 --compare_with nowhere.pt", "nowhere.pt does not exist"),
    ],
)
def test_wrong_flags_are_one_sentence(flags, words):
    with pytest.raises(errors.UserError) as raised:
        gpt2_generate.main([*f"--model_card gpt2.mini --init_checkpoint {BASE} --device cpu".split(), *flags.split()])
    assert words in str(raised.value)


def test_the_port_has_a_default():
    assert gpt2_generate.parser().parse_args(["--serve"]).serve == gpt2_generate.PORT
    assert gpt2_generate.parser().parse_args([]).serve is None


def write_adapters(folder: Path) -> list[Path]:
    """Write two adapters of the bundled base, at different random points."""
    paths = [folder / "one.pt", folder / "two.pt"]
    for seed, path in enumerate(paths):
        model = models.base_model(gpt2_generate.config.CARDS["gpt2.mini"], str(BASE), torch.Generator())
        base = checkpoints.Base("gpt2.mini", models.fingerprint(model))
        add_adapters(model, LoraConfig(2, 8.0, init="gaussian_b:0.2"), torch.Generator().manual_seed(seed))
        checkpoints.save_recipe(model, path, base)
    return paths


@contextlib.contextmanager
def program(*flags: object) -> Iterator[tuple[subprocess.Popen, int]]:
    """Run it with the bundled base, on two beams unless flags say otherwise; yield it and its port once it is ready."""
    command = [
        sys.executable,
        ROOT / "src/gpt2_generate.py",
        "--init_checkpoint",
        BASE,
        "--device",
        "cpu",
        "--serve",
        0,
    ]
    running = subprocess.Popen(
        [*map(str, command), *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # also where a shell had it ignored
    )
    try:
        line = running.stdout.readline()
        assert line.startswith("http://127.0.0.1:") and line.endswith("/  (Ctrl-C ends)\n"), running.stderr.read()
        yield running, int(re.search(r":(\d+)/", line)[1])
    finally:
        running.kill()
        running.communicate()


@needs_vocab
@pytest.mark.slow
def test_it_serves_two_adapters_until_ctrl_c(tmp_path):
    """Each text is what the program gives at its prompt for the same flags."""
    first, second = write_adapters(tmp_path)
    search = "--beam 2 --eval_len 8 --alternatives 1".split()
    with program("--lora_checkpoint", first, "--compare_with", second, *search) as (running, port):
        answer = json.loads(send(port, "POST", "/answer", ASK)[2])
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=PATIENCE)
    assert (running.returncode, said) == (130, "\ngpt2_generate.py: interrupted\n")
    assert [system["name"] for system in answer["systems"]] == [str(first), str(second)]
    for system in answer["systems"]:
        given = ["--init_checkpoint", str(BASE), "--lora_checkpoint", system["name"], "--device", "cpu", *search]
        args = gpt2_generate.parser().parse_args(given)
        model_config = gpt2_generate.config.CARDS["gpt2.mini"]
        rules = gpt2_generate.flags.search_rules(args, (50256, args.eos_token_id))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lora_nlg.decoding.generate.END_OF_TEXT_ID", 50256)
            expected = gpt2_generate.load(args, model_config, rules).answers(MR, "here", 2)
        assert [one["text"] for one in system["texts"]] == [one.text for one in expected]
        assert [one["score"] for one in system["texts"]] == pytest.approx([one.score for one in expected])
    assert answer["systems"][0]["texts"][0]["text"] != answer["systems"][1]["texts"][0]["text"]


@needs_vocab
@pytest.mark.slow
def test_ctrl_c_ends_a_search():
    """Fails when it waits for the search's end, or when a thread of it aborts the process."""
    with program("--beam", 50, "--eval_len", 200, "--min_length", 200) as (running, port):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("POST", "/answer", ASK, {"Content-Type": "application/json"})
        time.sleep(2)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=PATIENCE)
        with pytest.raises(OSError):
            connection.getresponse()
    assert (running.returncode, said) == (130, "\ngpt2_generate.py: interrupted\n")


# In a browser

DESKTOP = {"width": 1280, "height": 900}
PHONES = [{"width": 320, "height": 640}, {"width": 390, "height": 844}]
HOSTILE = """<script>document.title = "run"</script><img src=x onerror="document.title = 'run'"> &amp; """ + "long" * 20
ABOUT = {
    "input_name": "MR",
    "example": "name : Blue Spice | Type : coffee shop | area : riverside",
    "systems": ["trained_models/one_with_a_rather_long_name/model.final.pt", "trained_models/two/model.final.pt"],
    "settings": {
        "beam": {"default": 10, "least": 1, "most": 50},
        "length_penalty": {"default": 0.8, "least": -10.0, "most": 10.0},
        "alternatives": {"default": 3, "least": 0, "most": 20},
        "eval_len": {"default": 64, "least": 1, "most": 255},
    },
    "has_slots": True,
}
FIRSTS = ("The Fox is a cheap pub .", "The Fox is a pub near Zizzi .")


def text(words: str, score: float, **told: bool) -> dict:
    return {"text": words, "score": score, "told": told}


class Site:
    """Answers what is typed in the tests, and remembers what was asked."""

    def __init__(self):
        self.asked, self.may_go_on = [], threading.Event()

    def answer(self, asked):
        self.asked.append(asked)
        if asked["input"] == "wait":
            self.may_go_on.wait(60)
        if asked["input"] == "wrong":
            raise errors.UserError("this MR: expected slot : value, found 'wrong'")
        others = [text(HOSTILE, -1.25, name=False, near=False), text("", -2.0, name=False, near=False)]
        firsts = [text(FIRSTS[0], -0.1968, name=True, near=False), text(FIRSTS[1], -0.25, name=True, near=True)]
        names = ABOUT["systems"]
        return {"systems": [{"name": n, "texts": [one, *others]} for n, one in zip(names, firsts, strict=True)]}


@pytest.fixture
def site():
    answers = Site()
    with served(ABOUT, answers.answer) as running:
        answers.url = running.url
        yield answers
        answers.may_go_on.set()


@pytest.fixture
def open_page(browser, site):
    """Return a function that opens the page; what it complains about or asks elsewhere for makes the test fail at the end."""
    contexts, troubles, requests = [], [], []

    def opened(viewport=DESKTOP, **options):
        contexts.append(browser.new_context(viewport=viewport, **options))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(60_000)
        tab.on("console", lambda message: troubles.append(message.text))
        tab.on("pageerror", lambda error: troubles.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(site.url)
        tab.locator("#form").wait_for()
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert [trouble for trouble in troubles if "status of 400" not in trouble] == []  # a sentence of ours came with it
    assert {url.removeprefix(site.url) for url in requests} <= {"", "about", "answer"}


def wait_for(tab, status: str) -> None:
    tab.get_by_role("status").filter(has_text=re.compile(f"^{re.escape(status)}$")).wait_for()


def write(tab, *lines: str) -> None:
    """Type lines, and send them by keyboard."""
    tab.get_by_label("MRs, one a line").fill("\n".join(lines))
    tab.keyboard.press("Control+Enter")


def test_in_a_browser_two_adapters_stand_beside_each_other(open_page, site):
    tab = open_page()
    assert tab.evaluate("document.activeElement.id") == "inputs"
    write(tab, MR)
    wait_for(tab, "1 of 1 done")
    defaults = {name: setting["default"] for name, setting in ABOUT["settings"].items()}
    assert site.asked == [{"input": MR, **defaults}]
    assert tab.locator("article h2").all_inner_texts() == [MR]
    columns = tab.locator(".system")
    assert columns.locator("h3").all_inner_texts() == ABOUT["systems"]
    assert tuple(columns.locator(".text").all_inner_texts()) == FIRSTS
    assert columns.locator(".fact").all_inner_texts() == ["score −0.1968", "score −0.2500"]
    assert columns.nth(0).locator(".slots").inner_text().split("\n") == ["told", "name", "not found", "near"]
    assert columns.nth(1).locator(".slots").inner_text().split("\n") == ["told", "name, near"]
    assert columns.nth(0).locator("mark").all_inner_texts() == ["cheap"]
    assert columns.nth(1).locator("mark").all_inner_texts() == ["near", "Zizzi"]
    boxes = [column.bounding_box() for column in columns.all()]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"]


def test_in_a_browser_what_a_model_says_stays_text(open_page):
    tab = open_page()
    write(tab, HOSTILE)
    wait_for(tab, "1 of 1 done")
    assert tab.locator("article h2").inner_text() == HOSTILE
    others = tab.locator(".system").nth(0).locator(".others li")
    assert others.nth(0).locator("span").all_inner_texts() == ["−1.2500", HOSTILE, "not found: name, near"]
    assert others.nth(1).locator("span").nth(1).inner_text() == "(empty)"
    assert tab.locator("article img, article script").count() == 0
    assert tab.title() == " and ".join(ABOUT["systems"])


def test_in_a_browser_everything_is_done_by_keyboard(open_page, site):
    tab = open_page()
    for name in ("example", "beam"):
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.id") == name
        assert tab.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2
        if name == "example":
            tab.keyboard.press("Enter")
            assert tab.evaluate("document.activeElement.id") == "inputs"
            tab.keyboard.press("Tab")
    tab.keyboard.type("4")
    for _ in range(4):
        tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "send"
    tab.keyboard.press("Space")
    wait_for(tab, "1 of 1 done")
    assert [(one["input"], one["beam"]) for one in site.asked] == [(ABOUT["example"], 4)]
    assert tab.evaluate("document.activeElement.id") == "send"


def test_in_a_browser_a_mistake_gets_its_sentence_and_the_rest_is_answered(open_page, site):
    tab = open_page()
    write(tab, "", "  wrong ", "", "name : A")
    wait_for(tab, "2 of 2 done, 1 without a text")
    assert tab.locator("article p.bad").all_inner_texts() == ["this MR: expected slot : value, found 'wrong'"]
    assert tab.locator("article").count() == 2
    write(tab, "  ", "")
    tab.get_by_label("Beams").fill("99")
    write(tab, MR)
    assert [one["input"] for one in site.asked] == ["wrong", "name : A"]  # neither nothing nor too many beams were sent
    assert tab.evaluate("document.activeElement.id") == "beam"


def test_in_a_browser_work_is_shown_and_can_be_stopped(open_page, site):
    tab = open_page()
    write(tab, "name : A", "wait", "name : B")
    wait_for(tab, "Working on 2 of 3")
    assert tab.locator("article").count() == 1  # what is done is there already
    assert tab.locator("#results").get_attribute("aria-busy") == "true"
    before = tab.locator("#clock").inner_text()
    tab.get_by_text(re.compile(r"^\d+\.\d s$")).and_(tab.get_by_text(before, exact=True)).wait_for(state="detached")
    tab.keyboard.press("Control+Enter")  # does not ask twice
    tab.get_by_role("button", name="Stop").click()
    wait_for(tab, "Stopped: 1 of 3 done")
    site.may_go_on.set()
    assert tab.get_by_role("button", name="Write texts").is_visible()
    write(tab, "name : C")
    wait_for(tab, "1 of 1 done")
    assert [one["input"] for one in site.asked] == ["name : A", "wait", "name : C"]


def test_in_a_browser_a_program_that_has_ended_is_said_to_have(browser):
    with served(ABOUT, echo) as running:
        tab = browser.new_page()
        tab.goto(running.url)
        tab.locator("#form").wait_for()
    write(tab, MR)
    tab.get_by_text("The program does not answer; is it still running?").wait_for()
    tab.close()


@pytest.mark.parametrize("viewport", [DESKTOP, *PHONES], ids=lambda viewport: viewport["width"])
def test_in_a_browser_nothing_scrolls_sideways_and_buttons_suit_a_finger(open_page, viewport):
    tab = open_page(viewport)
    write(tab, HOSTILE, "wrong")
    wait_for(tab, "2 of 2 done, 1 without a text")
    assert tab.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    for control in tab.locator("input, #send").all():
        box = control.bounding_box()
        assert box["height"] >= 44 and box["width"] >= 44


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_text_is_readable(open_page, scheme):
    tab = open_page(color_scheme=scheme)
    write(tab, MR, "wrong")
    wait_for(tab, "2 of 2 done, 1 without a text")
    of = "h1, h2, h3, h4, p, span, label, textarea, input, button, dt, dd, mark"
    colours = """[...document.querySelectorAll('OF')].map((element) => {
        let under = element;
        while (getComputedStyle(under).backgroundColor === 'rgba(0, 0, 0, 0)' && under.parentElement) under = under.parentElement;
        return [getComputedStyle(element).color, getComputedStyle(under).backgroundColor].join();
      })"""
    pairs = {tuple(map(int, re.findall(r"\d+", one))) for one in tab.evaluate(colours.replace("OF", of))}
    assert {len(pair) for pair in pairs} == {6} and len(pairs) > 5  # no transparent ones
    assert [pair for pair in pairs if contrast.contrast(pair[:3], pair[3:]) < contrast.LEAST] == []
    page = tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (contrast.luminance(page) < 0.2) == (scheme == "dark")


def test_in_a_browser_a_screen_reader_finds_names(open_page):
    tab = open_page()
    write(tab, MR)
    wait_for(tab, "1 of 1 done")
    nodes = tab.context.new_cdp_session(tab).send("Accessibility.getFullAXTree")["nodes"]
    shown = [node for node in nodes if not node["ignored"] and node["role"]["value"] != "RootWebArea"]
    focusable = [
        node
        for node in shown
        if any(p["name"] == "focusable" and p["value"]["value"] for p in node.get("properties", []))
    ]
    assert len(focusable) == 7
    assert all(node["name"]["value"] for node in focusable)
    assert [node["role"]["value"] for node in shown].count("status") == 1
