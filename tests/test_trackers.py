"""The curves in Weights & Biases and MLflow, by stand-ins for their clients; TensorBoard's own files are read in test_train.py."""

import sys
from functools import partial
from types import ModuleType, SimpleNamespace

import pytest

import gpt2_ft
import preflight
from lora_nlg import config
from lora_nlg.errors import UserError
from lora_nlg.training import trackers
from runs import differences, results, write_training
from test_resume import FLAGS, PowerCut, cut_at

pytestmark = pytest.mark.slow  # whole trainings

NAMES = ("wandb", "mlflow")


class Client:
    """What wandb and mlflow have in common here: every call is kept, and one of them may fail."""

    def __init__(self, name: str):
        self.name, self.calls, self.broken = name, [], None

    def take(self, call: str, /, *values, **named):
        if call == self.broken:
            raise RuntimeError("no network\nand more lines")
        self.calls.append((call, values, named))

    def called(self, name: str) -> list[tuple]:
        return [(values, named) for call, values, named in self.calls if call == name]

    def points(self) -> list[tuple[int, str, float]]:
        name = "log" if self.name == "wandb" else "log_metrics"
        return [(named["step"], key, x) for (values,), named in self.called(name) for key, x in values.items()]

    def module(self) -> ModuleType:
        module = ModuleType(self.name)
        names = (
            ["init"] if self.name == "wandb" else "set_tracking_uri start_run log_params log_metrics end_run".split()
        )
        for name in names:
            setattr(module, name, partial(self.answer, name))
        return module

    def answer(self, call: str, /, *values, **named):
        self.take(call, *values, **named)
        if call == "start_run":
            return SimpleNamespace(info=SimpleNamespace(run_id=named.get("run_id") or "run 1"))
        if call == "init":
            of_run = {name: partial(self.take, name) for name in ("log", "finish")}
            return SimpleNamespace(id=named.get("id") or "run 1", **of_run)
        return None


@pytest.fixture
def clients(monkeypatch):
    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_DIR", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    found = {name: Client(name) for name in NAMES}
    for name, client in found.items():
        monkeypatch.setitem(sys.modules, name, client.module())
    return found


@pytest.fixture
def flags(tmp_path):
    return [*write_training(tmp_path).split(), *FLAGS]


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_gets_the_logs_figures(name, clients, flags, tmp_path, capsys):
    gpt2_ft.main([*flags, "--tracker", name])
    lines, _ = results(tmp_path / "work")
    points = clients[name].points()
    for curve, expected in (
        ("loss/training", [(line["step"], line["avg_loss"]) for line in lines if "loss" in line]),
        ("lr", [(line["step"], line["lr"]) for line in lines if "loss" in line]),
        ("loss/validation", [(line["eval"]["step"], line["eval"]["valid_loss"]) for line in lines if "eval" in line]),
    ):
        assert [(step, value) for step, key, value in points if key == curve] == expected
    [other] = [clients[other] for other in NAMES if other != name]
    assert other.calls == []


def test_weights_and_biases_by_its_own_client(clients, flags, tmp_path, capsys):
    gpt2_ft.main([*flags, "--tracker", "wandb"])
    [((), given)] = clients["wandb"].called("init")
    assert given["config"]["optim.lr"] == 0.01 and given["config"]["lora.rank"] == 4
    del given["config"]
    assert given == {"project": "lora_nlg", "name": "work", "dir": f"{tmp_path}/work"}
    assert clients["wandb"].calls[-1] == ("finish", (), {})


def test_its_variables_come_before_our_names(clients, flags, monkeypatch, capsys):
    """An argument of wandb.init would win against them."""
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_DIR", "/elsewhere")
    gpt2_ft.main([*flags, "--tracker", "wandb"])
    [((), given)] = clients["wandb"].called("init")
    assert set(given) == {"name", "config"}


@pytest.mark.parametrize("server", [None, "http://localhost:5000"])
def test_mlflow_by_its_own_client(server, clients, flags, tmp_path, monkeypatch, capsys):
    """Without a server in a file of the work dir: nothing needs a network. Fails when the user's server is not taken."""
    if server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    gpt2_ft.main([*flags, "--tracker", "mlflow"])
    places = [values for values, _ in clients["mlflow"].called("set_tracking_uri")]
    assert places == ([] if server else [(f"sqlite:///{tmp_path}/work/mlflow.db",)])
    assert clients["mlflow"].called("start_run") == [((), {"run_name": "work"})]
    [((params,), _)] = clients["mlflow"].called("log_params")
    assert params["optim.lr"] == 0.01
    assert clients["mlflow"].calls[-1] == ("end_run", (), {})


def test_several_at_once_and_the_older_name(clients, flags, tmp_path, capsys):
    gpt2_ft.main([*flags, "--tensorboard", *"--tracker mlflow --tracker tensorboard --tracker wandb".split()])
    assert len(list((tmp_path / "work/tensorboard").iterdir())) == 1
    assert clients["mlflow"].points() == clients["wandb"].points() != []


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_goes_on_in_the_same_one(name, clients, flags, tmp_path, monkeypatch, capsys):
    """Fails when the id is not in a save. The training itself stays what it is without a tracker."""
    gpt2_ft.main([*flags, "--work_dir", str(tmp_path / "whole")])
    with monkeypatch.context() as cut:
        cut_at(cut, 8)
        with pytest.raises(PowerCut):
            gpt2_ft.main([*flags, "--tracker", name])
    assert gpt2_ft.main([*flags, "--tracker", name, "--resume"]) == 0
    _, (_, again) = clients[name].called("init" if name == "wandb" else "start_run")
    if name == "wandb":
        assert (again["id"], again["resume"]) == ("run 1", "allow")
    else:
        assert again == {"run_id": "run 1"}
        assert len(clients[name].called("log_params")) == 1
    assert {step for step, *_ in clients[name].points()} == {3, 5, 6, 9, 10, 12, 14}
    assert differences(results(tmp_path / "work"), results(tmp_path / "whole")) == []


def test_a_tracker_can_be_left_out_and_taken_up_again(clients, flags, monkeypatch, capsys):
    """Fails when a save of a run without it forgets the id."""
    for step, more in ((5, ["--tracker", "wandb"]), (5, []), (5, ["--tracker", "wandb"])):
        with monkeypatch.context() as cut:
            cut_at(cut, step)
            with pytest.raises(PowerCut):
                gpt2_ft.main([*flags, *more, "--resume", "auto"])
    assert [named.get("id") for _, named in clients["wandb"].called("init")] == [None, "run 1"]


# What goes wrong


@pytest.mark.parametrize("name", config.TRACKERS)
def test_one_that_is_not_installed_is_one_sentence_before_anything(name, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, trackers.MODULES[name], None)
    says = rf"--tracker {name} needs the package {name}; install it with: \.venv/bin/pip install {name}"
    with pytest.raises(UserError, match=says):
        gpt2_ft.main([*flags, "--tracker", name])
    with pytest.raises(UserError, match=says):
        preflight.Training(gpt2_ft.parser().parse_args([*flags, "--tracker", name])).flags()
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(("name", "call"), [("wandb", "init"), ("mlflow", "start_run")])
def test_one_that_does_not_start_is_one_sentence(name, call, clients, flags):
    clients[name].broken = call
    with pytest.raises(UserError) as error:
        gpt2_ft.main([*flags, "--tracker", name])
    assert str(error.value).startswith(f"--tracker {name} does not start (no network); log in, let it work offline")


@pytest.mark.parametrize(
    ("name", "call"), [("wandb", "log"), ("wandb", "finish"), ("mlflow", "log_metrics"), ("mlflow", "end_run")]
)
def test_one_that_fails_later_does_not_end_the_training(name, call, clients, flags, tmp_path, capsys):
    gpt2_ft.main([*flags, "--work_dir", str(tmp_path / "whole")])
    clients[name].broken = call
    assert gpt2_ft.main([*flags, "--tracker", name]) == 0
    said = f"warning: {name} takes nothing more of this run (no network); the training goes on without it, and log.jsonl has"
    assert capsys.readouterr().err.count(said) == 1
    assert differences(results(tmp_path / "work"), results(tmp_path / "whole")) == []


def test_no_client_is_imported_that_is_not_asked_for(flags, monkeypatch, capsys):
    for module in trackers.MODULES.values():
        monkeypatch.setitem(sys.modules, module, None)
    assert gpt2_ft.main(flags) == 0
    assert set(trackers.MODULES) == set(config.TRACKERS)
