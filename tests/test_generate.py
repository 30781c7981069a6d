"""Texts for typed and piped inputs: the search's n best, the answers, and the program's three ways of being used."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import gpt2_beam
import gpt2_decode
import gpt2_encode
import gpt2_generate
import runs
import toy
from lora_nlg import errors
from lora_nlg.config import CARDS, BeamConfig
from lora_nlg.decoding.beam import IMPOSSIBLE, Endings, advance, beam_search, can_win, start_beams
from lora_nlg.decoding.generate import Answer
from lora_nlg.methods import add_adapters, merge_adapters
from lora_nlg.methods.placement import LoraConfig
from lora_nlg.storage import checkpoints, models

ROOT = Path(__file__).resolve().parents[1]
BASE = ["--model_card", "gpt2.mini", "--init_checkpoint", str(ROOT / "pretrained_checkpoints/gpt2.mini")]
MODEL = [*BASE, "--vocab", str(ROOT / "vocab"), "--device", "cpu"]
MR = "name : The Quiet Fox | Type : pub | area : riverside"
OTHER = "name : The Tall Jar | food : Thai"
RULES = BeamConfig(beam=10, eval_len=20, length_penalty=0.8, no_repeat_ngram_size=4, eos_token_ids=(162, 46))

needs_vocab = pytest.mark.skipif(
    not (ROOT / "vocab/encoder.json").is_file(), reason="no vocabulary: bash scripts/00_setup.sh"
)


def every_ending(table: torch.Tensor, config: BeamConfig) -> list[tuple[float, list[int]]]:
    """Return (score, ids) of all sequences that end, best first, for log p (V, V) that depend on the last token only."""
    found, live = [], [([0], 0.0)]
    for length in range(1, config.eval_len + 1):
        grown = [([*ids, t], score + table[ids[-1], t].item()) for ids, score in live for t in range(len(table))]
        ends = [length == config.eval_len or ids[-1] in config.eos_token_ids for ids, _ in grown]
        found += [
            (s / length**config.length_penalty, ids[1:]) for (ids, s), end in zip(grown, ends, strict=True) if end
        ]
        live = [pair for pair, end in zip(grown, ends, strict=True) if not end]
    return sorted(found, reverse=True)


@pytest.mark.parametrize("n", [1, 5, 60])
@pytest.mark.parametrize("length_penalty", [0.0, 0.8, -1.0])
def test_endings_of_a_beam_wide_enough_for_everything_are_the_best_of_all(n, length_penalty):
    """Fails if the search stops before the n-th is decided, or an ending is lost, counted twice or not normalised."""
    logits = 2 * torch.randn(4, 4, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    logits[:, 3] += 4  # an early end is likely, so the best is decided long before the n-th
    table = torch.log_softmax(logits, -1)
    config = BeamConfig(4**3, 4, length_penalty=length_penalty, no_repeat_ngram_size=0, eos_token_ids=(3,))
    state, rows, logits = start_beams(1, config, table), torch.tensor([0]), table[:1]
    endings, sentence = Endings(n), torch.tensor([0])
    endings.start(state)
    for _ in range(config.eval_len):
        state, _ = advance(logits, rows, state, config)
        endings.add(state, sentence)
        rows = can_win(state, endings.scores[:, -1], config)[0].nonzero()[:, 0]
        if len(rows) == 0:
            break
        logits = table[state.tokens[0, rows, -1]]
    expected = every_ending(table, config)
    assert endings.scores[0].tolist() == pytest.approx([score for score, _ in expected[:n]])
    score_of = {(*ids, *[0] * (4 - len(ids))): score for score, ids in expected}
    tokens = [tuple(ids) for ids in endings.tokens[0].tolist()]
    # Some scores are equal, so the order is not compared.
    assert [score_of[ids] for ids in tokens] == pytest.approx(endings.scores[0].tolist())
    assert len(set(tokens)) == n


def test_fewer_endings_than_asked_for_are_impossible():
    table, row = torch.zeros(1, 3), torch.tensor([0])
    config = BeamConfig(beam=2, eval_len=1, no_repeat_ngram_size=0, eos_token_ids=(2,))
    endings = Endings(4)
    endings.start(start_beams(1, config, table))
    endings.add(advance(table, row, start_beams(1, config, table), config)[0], row)
    assert [score > IMPOSSIBLE for score in endings.scores[0].tolist()] == [True, True, False, False]


@pytest.fixture(scope="module")
def model():
    """The toy with merged adapters, and prompts of several lengths for it."""
    toy_model = toy.model(4)
    merge_adapters(toy_model)
    return toy_model, [line.context for line in toy.examples(6)]


@pytest.mark.parametrize("n", [1, 10])
def test_asking_for_endings_changes_no_result(model, n):
    toy_model, prompts = model
    endings = Endings(n)
    plain = beam_search(toy_model, prompts, RULES)
    assert beam_search(toy_model, prompts, RULES, endings) == plain
    assert endings.tokens[:, 0].tolist() == plain
    scores = endings.scores
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    assert len({tuple(ids) for ids in endings.tokens[0].tolist()}) == n


def test_endings_do_not_depend_on_the_batch(model):
    """Fails if a row of the shrunken batch is taken for another sentence."""
    toy_model, prompts = model
    together, alone = Endings(5), Endings(5)
    beam_search(toy_model, prompts, RULES, together)
    for i, prompt in enumerate(prompts):
        beam_search(toy_model, [prompt], RULES, alone)
        assert together.tokens[i].tolist() == alone.tokens[0].tolist()
        assert together.scores[i].tolist() == pytest.approx(alone.scores[0].tolist())


@pytest.fixture(scope="module")
def bundled():
    """The bundled base, loaded once for all tests."""
    flags = gpt2_generate.parser().parse_args(MODEL)
    return gpt2_generate.load(flags, CARDS["gpt2.mini"], BeamConfig(eval_len=64))


@needs_vocab
def test_hypotheses_with_the_same_text_are_one_answer(bundled, monkeypatch):
    """Two end tokens make two hypotheses of a text; impossible ones, which fill up the endings, are none."""
    encode = bundled.encoding.encode_ordinary
    hypotheses = [[*encode(" A pub ."), 628], [*encode(" A pub ."), 50256], [*encode(" A bar ."), 50256], [0] * 4]

    def beam_search(model, prompts, rules, endings):
        endings.tokens = torch.tensor([hypotheses])
        endings.scores = torch.tensor([[-0.25, -0.5, -0.75, IMPOSSIBLE]])

    monkeypatch.setattr("lora_nlg.decoding.generate.beam_search", beam_search)
    assert bundled.answers(MR, "here", 4) == [Answer("A pub .", -0.25), Answer("A bar .", -0.75)]


class Typed(io.StringIO):
    """A terminal at which `text` is typed, with Ctrl-D at its end."""

    def isatty(self):
        return True


@pytest.fixture
def loaded(bundled, monkeypatch):
    """Give the program the loaded base."""
    monkeypatch.setattr(gpt2_generate, "load", lambda args, model_config, rules: replace(bundled, rules=rules))


@pytest.fixture
def ask(monkeypatch, capsys):
    """Return a function that runs the program on piped bytes and returns its exit code, stdout and stderr."""

    def ask(piped: str | bytes, *flags: str) -> tuple[int, str, str]:
        data = piped if isinstance(piped, bytes) else piped.encode()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        monkeypatch.setattr("sys.argv", ["gpt2_generate.py", *MODEL, *flags])
        capsys.readouterr()
        code = errors.run(gpt2_generate.main)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ask


@needs_vocab
@pytest.mark.slow
def test_json_lines_have_the_text_of_the_pipeline_and_falling_scores(ask, tmp_path):
    """The text is what encoding, beam search and decoding give for the same input."""
    formatted = tmp_path / "formatted.jsonl"
    formatted.write_text("".join(json.dumps({"context": mr, "completion": "x"}) + "\n" for mr in (MR, OTHER)))
    gpt2_encode.main(
        f"--input {formatted} --output {tmp_path}/x.jsonl --vocab {ROOT}/vocab --add_bos --add_eos".split()
    )
    search = "--beam 4 --length_penalty 0.8 --eval_len 12 --eos_token_id 628 --seq_len 200 --device cpu"
    gpt2_beam.main([*BASE, *f"--data {tmp_path}/x.jsonl --work_dir {tmp_path} {search}".split()])
    decode = f"--vocab {ROOT}/vocab --sample_file {tmp_path}/beam_prediction.jsonl --input_file {formatted}"
    gpt2_decode.main(f"{decode} --output_ref_file {tmp_path}/ref --output_pred_file {tmp_path}/pred".split())

    code, out, _ = ask(
        f'{{"mr": "{MR}"}}\n{{"context": "{OTHER}", "completion": "x"}}', *"--jsonl --beam 4 --eval_len 12".split()
    )
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [answer["text"] for answer in answers] == (tmp_path / "pred").read_text().splitlines()
    assert [answer["mr"] for answer in answers] == [MR, OTHER]
    for answer in answers:
        assert list(answer) == ["mr", "text", "score", "alternatives"]
        texts = [answer["text"], *(other["text"] for other in answer["alternatives"])]
        scores = [answer["score"], *(other["score"] for other in answer["alternatives"])]
        assert len(set(texts)) == len(texts) > 1
        assert scores == sorted(scores, reverse=True)


@needs_vocab
@pytest.mark.slow
def test_piped_lines_show_scores_and_texts_or_the_text_alone(ask, loaded):
    code, out, _ = ask(f"{MR}\r\n{OTHER}\n", *"--alternatives 2 --beam 4 --eval_len 12".split())
    first, second, rest = out.split("\n\n")
    assert code == 0
    assert rest == ""
    lines = [*first.splitlines(), *second.splitlines()]
    assert len(lines) <= 6
    assert all(float(line.split("  ")[0]) < 0 for line in lines)
    alone = ask(f"\ufeff{MR}\n{OTHER}", *"--alternatives 0 --beam 4 --eval_len 12".split())
    assert alone[1].splitlines() == [block.splitlines()[0].strip().split("  ", 1)[1] for block in (first, second)]


@needs_vocab
@pytest.mark.parametrize(
    ("piped", "flags", "words"),
    [
        (
            f"{OTHER}\nThe Mill is a pub\n",
            "",
            "standard input:2: expected slot : value, with | between slots, found 'The Mill",
        ),
        (f"{OTHER}\n\n{MR}\n", "", "standard input:2: the line is blank"),
        (f"{OTHER}\n".encode() + b"name : \xff\n", "", "standard input:2: not UTF-8"),
        (
            f"{OTHER}\nname : {'very ' * 250}long\n",
            "",
            "standard input:2: 254 tokens are too many, the model takes 248",
        ),
        (f'{{"mr": "{OTHER}"}}\nname : A\n', "--jsonl", "standard input:2: not JSON"),
        (
            f'{{"mr": "{OTHER}"}}\n[1]\n',
            "--jsonl",
            'standard input:2: expected a JSON object with the MR, a string, under "mr"',
        ),
        (f'{{"mr": "{OTHER}"}}\n{{"mr": 1}}\n', "--jsonl", "standard input:2: expected a JSON object"),
        (
            f'{{"mr": "{OTHER}"}}\n{{"mr": "{MR}", "context": "{MR}"}}\n',
            "--jsonl",
            "standard input:2: expected a JSON object",
        ),
        (f'{{"mr": "{OTHER}"}}\n{{"mr": "A"}}\n', "--jsonl", "standard input:2: expected slot : value"),
        (
            f'{{"mr": "{OTHER}"}}\n{{"context": "name : \\ud83d"}}\n',
            "--jsonl",
            "standard input:2: the text holds one half of a surrogate pair",
        ),
    ],
)
def test_a_line_that_is_no_mr_is_refused_by_its_number(ask, loaded, piped, flags, words):
    code, out, err = ask(piped, *"--alternatives 0 --beam 1 --eval_len 8".split(), *flags.split())
    assert code == 2
    assert len(out.splitlines()) == 1  # the line before it is answered
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--lora_dim 4", "--lora_checkpoint"),
        ("--alternatives -1", "--alternatives must be 0 or more"),
        ("--alternatives 1000000000000", "--alternatives must be no more than 999, but is 1000000000000"),
        ("--eos_token_id 50257", "--eos_token_id must be from 0 to 50256"),
        ("--eval_len 256", "--eval_len 256 leaves no room for the input"),
        ("--beam 0", "--beam must be from 1 to 1000"),
        ("--vocab nowhere", "nowhere/encoder.json does not exist"),
    ],
)
def test_wrong_flags_get_one_sentence(ask, flags, words):
    code, out, err = ask(MR, *flags.split())
    assert (code, out) == (2, "")
    assert words in err


def test_a_model_without_gpt2s_vocabulary_is_refused(ask, tmp_path):
    runs.write_card(tmp_path)
    code, _, err = ask(MR, "--model_card", str(tmp_path / "config.json"))
    assert code == 2
    assert "take a model with GPT-2's vocabulary" in err


@needs_vocab
def test_at_the_prompt_a_mistake_gets_another_try_and_ctrl_d_ends(loaded, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", Typed(f"The Mill is a pub\n\n{OTHER}\n"))
    assert gpt2_generate.main([*MODEL, *"--alternatives 1 --beam 4 --eval_len 12".split()]) == 0
    captured = capsys.readouterr()
    assert captured.err == "this MR: expected slot : value, with | between slots, found 'The Mill is a pub'\n"
    assert captured.out.count(gpt2_generate.PROMPT) == 4
    assert captured.out.count("\n -") == 1  # one answer, and its alternative below
    assert captured.out.endswith(f"{gpt2_generate.PROMPT}\n")


# Which model, from wherever it is called


@pytest.fixture
def adapters(tmp_path, monkeypatch):
    """Adapters of the bundled base in a folder that is the current one; the base's own file has no config.json beside it."""
    monkeypatch.chdir(tmp_path)
    model = models.base_model(CARDS["gpt2.mini"], BASE[3], torch.Generator())
    add_adapters(model, LoraConfig(2, 4.0), torch.Generator().manual_seed(0))
    checkpoints.save_recipe(model, "mine.pt", checkpoints.Base("gpt2.mini", models.fingerprint(model)))
    Path("alone.safetensors").write_bytes(Path(BASE[3], "compact.safetensors").read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("given", "card"),
    [
        (f"--init_checkpoint {BASE[3]}", f"{BASE[3]}/config.json"),
        (f"--init_checkpoint {BASE[3]}/compact.safetensors", f"{BASE[3]}/config.json"),
        (f"--init_checkpoint {BASE[3]} --lora_checkpoint mine.pt", f"{BASE[3]}/config.json"),
        ("--init_checkpoint alone.safetensors --lora_checkpoint mine.pt", "gpt2.mini"),
        ("--init_checkpoint alone.safetensors", "gpt2.md"),
        ("--init_checkpoint random", "gpt2.md"),
        ("--lora_checkpoint mine.pt", "gpt2.mini"),
        ("", "gpt2.md"),
    ],
)
def test_the_card_is_what_base_or_adapters_say(adapters, given, card):
    assert gpt2_generate.card_of(gpt2_generate.parser().parse_args(given.split())) == card


@pytest.mark.parametrize("named", ["x" * 5000, "\0", "gpt2.huge", ""])
def test_a_card_that_nobody_knows_is_none(tmp_path, named):
    """A file of somebody else's may say anything. Fails when a name that is too long for the disk is looked for with a traceback."""
    assert checkpoints.Checkpoint(tmp_path, {}, base=checkpoints.Base(named, "")).card is None


@needs_vocab
def test_a_card_that_is_given_wins_and_a_contradiction_is_an_error(ask, adapters):
    code, _, err = ask(MR, "--model_card", "gpt2.sm")
    assert code == 2
    assert "config.json says n_embd 256 (--model_card: 768)" in err


@needs_vocab
@pytest.mark.slow
def test_it_runs_from_any_folder(adapters):
    """Own paths are seen from there; the vocabulary is the project's. Fails when either is seen from the other."""
    command = [sys.executable, ROOT / "src/gpt2_generate.py", "--alternatives", "0", "--beam", "1", "--eval_len", "4"]
    given = "--init_checkpoint alone.safetensors --lora_checkpoint mine.pt --device cpu".split()
    done = subprocess.run([*command, *given], cwd=adapters, input=MR, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


def test_help_answers_without_torch():
    command = [sys.executable, "-X", "importtime", "src/gpt2_generate.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "alternatives" in done.stdout
    assert " torch" not in done.stderr
