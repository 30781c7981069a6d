"""The tables of placements: their cells and figures, what is said to carry over, and the script that makes the runs."""

import json
import re

import pytest

import placement_table
from metrics import files
from metrics.errors import UserError
from placement_table import BEGIN, END
from test_sweep import Checkout, of_webnlg, write_run

CELLS = dict.fromkeys(line.cell for line in placement_table.published())


def write_runs(folder, losses: dict | None = None, seeds=(1, 2, 3), spread: float = 0.01, **of_runs) -> list[str]:
    """Write a run of every cell for each seed, with validation losses `spread` apart around 1, or what `losses` has of a cell."""
    made = []
    for rank, targets in CELLS:
        middle = (losses or {}).get((rank, targets), 1.0)
        for i, seed in enumerate(seeds):
            work_dir = folder / f"r{rank}_{targets}_seed{seed}"
            loss = middle + (i - (len(seeds) - 1) / 2) * spread
            made.append(write_run(work_dir, seed, rank / 100 + i / 1000, rank, targets, valid_loss=loss, **of_runs))
            record = json.loads((work_dir / "run.json").read_text())
            record["trained_parameters"] = 2048 * rank * len(targets.split(","))
            (work_dir / "run.json").write_text(json.dumps(record))
    return made


def rows(shown: str) -> list[list[str]]:
    """Return the cells of all lines of tables."""
    return [line.strip("| ").split(" | ") for line in shown.splitlines() if line.startswith("| ")]


def test_the_papers_cells():
    """19: seven placements of one budget, and five ranks of three placements, three of them the same."""
    assert len(CELLS) == 19
    table_5 = [line for line in placement_table.published() if line.table == 5]
    assert {rank * len(targets.split(",")) for rank, targets in (line.cell for line in table_5)} == {8}
    assert [line.cell[1] for line in table_5] == ["q", "k", "v", "o", "q,k", "q,v", "q,k,v,o"]
    of_6 = {line.cell: line.accuracy for line in placement_table.published() if line.table == 6}
    assert [of_6[rank, "q,v"]["WikiSQL"] for rank in (1, 2, 4, 8, 64)] == [73.4, 73.3, 73.7, 73.8, 73.5]
    assert [of_6[rank, "q,v"]["MultiNLI"] for rank in (1, 2, 4, 8, 64)] == [91.3, 91.4, 91.3, 91.6, 91.4]


def test_table_5_is_one_budget_on_different_matrices(tmp_path, capsys):
    losses = {(8, "k"): 1.25, (2, "q,k,v,o"): 0.5}
    assert placement_table.main(write_runs(tmp_path, losses)) == 0
    table = rows(capsys.readouterr().out.split("As Table 6")[0])
    heads = ["q, r = 8", "k, r = 8", "v, r = 8", "o, r = 8", "q,k, r = 4", "q,v, r = 4", "q,k,v,o, r = 2"]
    assert table[0][-7:] == heads
    assert table[2] == ["parameters", *["16 384"] * 7]
    one = "1.0000 ± 0.0100"
    assert table[3] == ["validation loss", one, "1.2500 ± 0.0100", *[one] * 4, "0.5000 ± 0.0100"]
    assert table[4][0] == "BLEU"
    assert table[4][-3:] == ["0.0410 ± 0.0010", "0.0410 ± 0.0010", "0.0210 ± 0.0010"]
    assert table[5] == ["GPT-3, WikiSQL, % (± 0.5)", "70.4", "70.0", "73.0", "73.2", "71.4", "73.7", "73.7"]
    assert table[6] == ["GPT-3, MultiNLI, % (± 0.1)", "91.0", "90.8", "91.0", "91.3", "91.3", "91.3", "91.7"]
    assert len(table) == 7


def test_placements_of_another_task_have_its_first_score(tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    runs = write_runs(tmp_path / "runs", seeds=(1,))
    assert placement_table.main([*runs, *of_webnlg(tmp_path, *runs)]) == 0
    shown = capsys.readouterr().out
    assert "scored on 9 inputs" in shown
    assert rows(shown)[4] == ["BLEU", *["0.5500"] * 7]


def test_table_6_is_ranks_by_matrices(tmp_path, capsys):
    losses = {(64, "q,v"): 2.0, (1, "q,k,v,o"): 3.0}
    placement_table.main(write_runs(tmp_path, losses))
    table = rows(capsys.readouterr().out.split("As Table 6")[1])
    assert table[0][-5:] == ["r = 1", "r = 2", "r = 4", "r = 8", "r = 64"]
    one = "1.0000 ± 0.0100"
    assert table[2:5] == [
        ["validation loss, q", *[one] * 5],
        ["validation loss, q,v", *[one] * 4, "2.0000 ± 0.0100"],
        ["validation loss, q,k,v,o", "3.0000 ± 0.0100", *[one] * 4],
    ]
    assert table[6][0] == "BLEU, q,v"
    assert [cell.split()[0] for cell in table[6][1:]] == ["0.0110", "0.0210", "0.0410", "0.0810", "0.6410"]
    assert table[8] == ["GPT-3, WikiSQL, % (± 0.5), q", "68.8", "69.6", "70.5", "70.4", "70.0"]
    assert table[13] == ["GPT-3, MultiNLI, % (± 0.1), q,k,v,o", "91.2", "91.7", "91.7", "91.5", "91.4"]
    assert len(table) == 14


def test_what_the_runs_are_is_said(tmp_path, capsys):
    def change(training, decoding):
        training["optim"].update(max_step=50)
        training["train"].update(train_batch_size=16)

    placement_table.main(write_runs(tmp_path, change=change, segments=72))
    assert capsys.readouterr().out.startswith(
        "24 layers of width 1024 trained for 50 steps of 16 examples with alpha 32, scored on 72 inputs, decoded with 10 "
        "beams; seeds 1, 2, 3: mean ± sample standard deviation."
    )


@pytest.mark.parametrize(
    ("losses", "carried", "not_carried"),
    [
        ({(8, "q"): 1.1}, "q and v than, all four, rank 1", ""),  # all three
        ({}, "rank 1", "q and v than, all four"),  # no difference is no gain
        ({(8, "q"): 1.1, (1, "q,v"): 1.1}, "q and v than, all four", "rank 1"),
        ({(8, "q"): 1.1, (1, "q,v"): 0.9}, "q and v than, all four, rank 1", ""),  # better is as good, too
        ({(8, "q"): 1.016}, "rank 1", "q and v than, all four"),  # 2 standard errors: 2 · √(2 · 0.01² / 3) = 0.0163
        ({(8, "q"): 1.017}, "q and v than, all four, rank 1", ""),
    ],
)
def test_what_carries_over_is_by_the_loss_and_its_spread(tmp_path, capsys, losses, carried, not_carried):
    placement_table.main(write_runs(tmp_path, losses))
    (sentence,) = re.findall(r"By the validation loss, .*;", capsys.readouterr().out)
    does, does_not = (
        re.search(r"it carries over (.*?);", sentence),
        re.search(r"it does not carry over (.*?);", sentence),
    )
    for found, expected in ((does, carried), (does_not, not_carried)):
        names = [name for name in ("q and v than", "all four", "rank 1") if found and name in found[1]]
        assert ", ".join(names) == expected


def test_one_seed_has_no_spread_and_allows_no_statement(tmp_path, capsys):
    placement_table.main(write_runs(tmp_path, seeds=(7,)))
    shown = capsys.readouterr().out
    assert "±" not in re.sub(r"\(± 0\.\d\)", "", shown)
    assert "With one seed nothing can be said" in shown and "By the validation loss" not in shown


def test_a_cell_without_runs_is_named(tmp_path):
    runs = [run for run in write_runs(tmp_path) if "r8_o_" not in run]
    with pytest.raises(UserError, match=r"no run with rank 8 on o; bash scripts/placement\.sh makes it"):
        placement_table.main(runs)


def test_other_placements_are_left_out(tmp_path, capsys):
    runs = write_runs(tmp_path)
    placement_table.main(runs)
    expected = capsys.readouterr().out
    placement_table.main([write_run(tmp_path / "other", rank=3, targets="q", valid_loss=9.0), *runs])
    assert capsys.readouterr().out == expected


def test_two_length_penalties_are_refused(tmp_path):
    runs = write_runs(tmp_path)
    runs.append(write_run(tmp_path / "other", seed=1, rank=8, targets="q", penalty=0.9))
    with pytest.raises(UserError, match=r"length penalties 0\.8 and 0\.9"):
        placement_table.main(runs)


def test_the_tables_replace_what_is_between_the_marks_and_nothing_else(tmp_path, capsys):
    document, output = tmp_path / "doc.md", tmp_path / "placement.md"
    document.write_text(f"before\n{BEGIN}old\n{END}after\n")
    runs = write_runs(tmp_path)
    for _ in range(2):
        placement_table.main([*runs, "--doc", str(document), "--output", str(output)])
        shown = output.read_text()
        assert document.read_text() == f"before\n{BEGIN}{shown}{END}after\n"
    assert capsys.readouterr().out == 2 * shown


@pytest.mark.parametrize("text", ["nothing\n", f"{END}{BEGIN}", BEGIN])
def test_a_document_without_the_marks_is_left_as_it_is(tmp_path, text):
    document = tmp_path / "doc.md"
    document.write_text(text)
    with pytest.raises(UserError, match=r"doc\.md lacks the lines"):
        files.put_between(str(document), BEGIN, END, "new")
    assert document.read_text() == text


def test_the_document_of_this_project_has_the_marks():
    text = (placement_table.PAPER.parents[1] / "docs/lora.md").read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)


# scripts/placement.sh, with the steps that test_sweep.py has


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def place(checkout, *arguments: str, **environment: str):
    """Run the script as test_sweep's checkout does."""
    (checkout.folder / "eval").mkdir(exist_ok=True)
    (checkout.folder / "eval/published_placement.tsv").write_text(placement_table.PAPER.read_text())
    return checkout.run(*arguments, script="placement.sh", **environment)


@pytest.mark.slow
def test_every_cell_is_trained_once_and_not_again(checkout):
    assert place(checkout, "--seeds", "5", "--lr", "1").returncode == 0
    prefix = "03_train.sh --preset mini_short --work_dir trained_models/placement/"
    trained = [call.removeprefix(prefix) for call in checkout.calls if call.startswith(prefix)]
    assert sorted(trained) == sorted(
        f"r{rank}_{targets}_seed5 --lora_dim {rank} --lora_targets {targets} --random_seed 5 --lr 1"
        for rank, targets in CELLS
    )
    assert place(checkout, "--seeds", "5", "--lr", "1").returncode == 0
    assert not any("03_train.sh" in call or "04_beam.sh" in call for call in checkout.calls)


def with_sweeps_that_note(checkout):
    """Let the sweep do nothing but note its arguments and leave a run."""
    (checkout.folder / "scripts/sweep.sh").write_text(
        'echo "sweep.sh $*" >>"$CALLS"\nmkdir -p trained_models/placement/r1_q_seed1/lp0.8\n'
    )
    return checkout


def test_three_seeds_and_the_document_are_the_default(checkout):
    assert place(with_sweeps_that_note(checkout)).returncode == 0
    sweeps = [call for call in checkout.calls if call.startswith("sweep.sh")]
    assert [call.split()[2] for call in sweeps] == ["1", "2", "4", "8", "64"]
    assert all(
        call.endswith("--preset mini_short --work_dir trained_models/placement --seeds 110 111 112") for call in sweeps
    )
    run = "trained_models/placement/r1_q_seed1/lp0.8"
    written = "--data data/mini/test_formatted.jsonl --output trained_models/placement/placement.md --doc docs/lora.md"
    assert checkout.calls[-1] == f"python eval/placement_table.py {run} {written}"


def test_with_flags_the_document_is_left_alone(checkout):
    assert place(with_sweeps_that_note(checkout), "--max_step", "9").returncode == 0
    assert "--max_step 9" in checkout.calls[0]
    assert "--doc" not in checkout.calls[-1]


def test_other_nodes_make_no_table(checkout):
    assert place(with_sweeps_that_note(checkout), NNODES="2", NODE_RANK="1").returncode == 0
    assert all(call.startswith("sweep.sh") for call in checkout.calls)


def test_a_failed_sweep_ends_it(checkout):
    (checkout.folder / "scripts/sweep.sh").write_text('echo "sweep.sh $*" >>"$CALLS"\nexit 2\n')
    assert place(checkout).returncode == 2
    assert len(checkout.calls) == 1


@pytest.mark.parametrize("flag", ["--ranks", "--targets", "--length_penalties"])
def test_what_the_tables_say_is_refused_before_any_run(checkout, flag):
    done = place(checkout, flag, "1")
    assert (done.returncode, checkout.calls) == (2, [])
    assert done.stderr == f"placement.sh: error: {flag} is what the tables say; bash scripts/sweep.sh takes others\n"
