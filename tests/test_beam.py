"""Beam search: hand-written tables, a brute-force search, the golden ids, and independence of the batch."""

import itertools
import json
import math

import pytest
import torch

import gpt2_beam
import toy
from lora_nlg import errors
from lora_nlg.config import BeamConfig
from lora_nlg.decoding import beam
from lora_nlg.decoding.beam import (
    IMPOSSIBLE,
    Beams,
    advance,
    ban_early_end,
    ban_repeated_ngrams,
    beam_search,
    best_candidates,
    can_win,
    largest,
    next_logits,
    penalise_repetition,
    start_beams,
)
from runs import adapters, write_card, write_decoding

GOLDEN = {case["name"]: case for case in toy.golden("beam.json")}
END = 5  # the end token of the 6-token vocabulary
FIRST = torch.tensor([0])  # the rows of one sentence with one beam


def rules(**changes) -> BeamConfig:
    defaults = dict(beam=2, eval_len=4, length_penalty=1.0, no_repeat_ngram_size=0, eos_token_ids=(END,))
    return BeamConfig(**{**defaults, **changes})


def beams(tokens: list[list[list[int]]], scores: list[list[float]], eval_len: int = 4) -> Beams:
    B = len(tokens)
    best = torch.zeros(B, eval_len, dtype=torch.int64)
    return Beams(torch.tensor(tokens), torch.tensor(scores), best, torch.full((B,), IMPOSSIBLE))


def test_repetition_penalty_divides_above_zero_and_multiplies_below():
    logits = torch.tensor([[2.0, -2.0, 3.0, 0.0]])
    out = penalise_repetition(logits, torch.tensor([[0, 1, 0]]), 2.0)  # token 0 twice: penalised once
    assert out.tolist() == [[1.0, -4.0, 3.0, 0.0]]


@pytest.mark.parametrize("overwrite", [False, True])
def test_rules_write_into_logits_that_are_given_away_alone(overwrite):
    config = rules(min_length=4, no_repeat_ngram_size=2, repetition_penalty=2.0)
    before = torch.arange(1.0, 7).unsqueeze(0)
    out = next_logits(logits := before.clone(), torch.tensor([[0, 1, 0]]), config, overwrite)
    assert out.tolist() == [[0.5, IMPOSSIBLE, 3.0, 4.0, 5.0, IMPOSSIBLE]]
    assert torch.equal(logits, out if overwrite else before)


@pytest.mark.parametrize(
    ("V", "k"), [(5, 5), (64 * 12, 3), (64 * 12 + 1, 3), (64 * 13 - 1, 1), (50257, 10), (3000, 20)]
)
@pytest.mark.parametrize("kind", ["all different", "many alike", "few possible", "one is none"])
def test_the_largest_are_those_that_topk_finds(V, k, kind):
    generator = torch.Generator().manual_seed(V + k)
    logits = torch.stack([torch.randperm(V, generator=generator) for _ in range(7)]).float()
    if kind == "many alike":
        logits = torch.div(logits, V / 3, rounding_mode="floor")
    if kind == "few possible":
        logits = logits.masked_fill(logits < V - 2, IMPOSSIBLE)
    if kind == "one is none":
        logits[3, V // 2] = math.nan
    top, places = largest(logits, k)
    theirs, of_theirs = logits.topk(k, dim=-1)
    assert torch.equal(top.nan_to_num(1e30), theirs.nan_to_num(1e30))
    assert torch.equal(logits.gather(-1, places).nan_to_num(1e30), top.nan_to_num(1e30))
    assert all(len(set(row)) == k for row in places.tolist())
    if kind == "all different":
        assert torch.equal(places, of_theirs)


def test_no_end_before_min_length():
    logits = torch.zeros(1, 6)
    assert ban_early_end(logits, 1, rules(min_length=2)).tolist() == [[0, 0, 0, 0, 0, IMPOSSIBLE]]
    assert ban_early_end(logits, 2, rules(min_length=2)).tolist() == [[0] * 6]


@pytest.mark.parametrize(
    ("generated", "n", "banned"),
    [
        ([0, 1, 2, 0, 1], 3, {2}),
        ([0, 1, 2, 0, 1], 4, set()),
        ([3, 3], 2, {3}),
        ([3], 2, set()),
        ([0, 1, 0, 2, 0], 2, {1, 2}),
        ([4, 2], 1, {4, 2}),  # a 1-gram may not occur twice
        ([4, 2], 0, set()),
        ([1, 2, 3, 4, 1, 2, 3], 4, {4}),
    ],
)
def test_ngram_ban(generated, n, banned):
    out = ban_repeated_ngrams(torch.zeros(1, 6), torch.tensor([generated]), n)[0]
    assert {token for token, logit in enumerate(out.tolist()) if logit == IMPOSSIBLE} == banned


def test_ngram_ban_looks_at_each_beam_alone():
    generated = torch.tensor([[0, 1, 0], [1, 1, 2], [2, 2, 2], [3, 4, 3]])
    out = ban_repeated_ngrams(torch.zeros(4, 6), generated, 2)
    assert [set((row == IMPOSSIBLE).nonzero().flatten().tolist()) for row in out] == [{1}, set(), {2}, {4}]


def test_rules_apply_before_the_softmax():
    """What is banned gives its probability to the rest: after banning token 1, tokens 0 and 2 share all of it."""
    logits = torch.log(torch.tensor([[0.2, 0.6, 0.2]]))
    allowed = next_logits(logits, torch.tensor([[0, 1, 0]]), rules(no_repeat_ngram_size=2))
    scores, _, tokens = best_candidates(allowed, FIRST, torch.zeros(1, 1), 2)
    assert scores.exp().tolist()[0] == pytest.approx([0.5, 0.5])
    assert set(tokens[0].tolist()) == {0, 2}


def test_candidates_from_a_table():
    """Two beams at log .5 and log .3; the best three of six continuations are .5·.6, .3·.9, .5·.3."""
    logits = torch.log(torch.tensor([[0.6, 0.3, 0.1], [0.05, 0.05, 0.9]]))
    scores, parents, tokens = best_candidates(logits, torch.arange(2), torch.log(torch.tensor([[0.5, 0.3]])), 3)
    assert scores.exp().tolist()[0] == pytest.approx([0.30, 0.27, 0.15])
    assert parents.tolist() == [[0, 1, 0]]
    assert tokens.tolist() == [[0, 2, 1]]


def test_fewer_candidates_than_beams():
    scores, parents, _ = best_candidates(torch.zeros(1, 3), FIRST, torch.zeros(1, 1), 5)
    assert (scores > IMPOSSIBLE).sum() == 3
    assert parents.max() == 0


def test_a_beam_with_every_token_banned_is_impossible_not_nan():
    scores, *_ = best_candidates(torch.full((1, 4), IMPOSSIBLE), FIRST, torch.zeros(1, 1), 2)
    assert scores.tolist() == [[IMPOSSIBLE, IMPOSSIBLE]]


def test_an_ended_beam_is_kept_as_best_and_goes_no_further():
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.1, 0.05, 0.05, 0.5]]))
    state, parents = advance(logits, FIRST, start_beams(1, rules(), logits), rules(length_penalty=0.8))
    assert state.tokens.tolist() == [[[END], [1]]]
    assert parents.tolist() == [[0, 0]]
    assert state.scores[0, 0] == IMPOSSIBLE
    assert state.scores[0, 1].exp() == pytest.approx(0.2)
    assert state.best_tokens.tolist() == [[END, 0, 0, 0]]
    assert state.best_scores.item() == pytest.approx(math.log(0.5))  # length 1 counts the end token


def test_a_later_end_replaces_the_best_only_if_strictly_better():
    state = beams([[[0], [1]]], [[math.log(0.5), math.log(0.2)]])
    logits, rows = torch.full((2, 6), IMPOSSIBLE), torch.arange(2)
    logits[0, [END, 2]] = 0.0  # 0.5 · 0.5, over length 2
    logits[1, 3] = 0.0
    first, _ = advance(logits, rows, state, rules())
    assert first.best_tokens.tolist() == [[0, END, 0, 0]]
    state.best_scores = first.best_scores.clone()  # exactly as good
    tied, _ = advance(logits, rows, state, rules())
    assert tied.best_tokens.tolist() == [[0, 0, 0, 0]]
    state.best_scores -= 1e-3
    better, _ = advance(logits, rows, state, rules())
    assert better.best_tokens.tolist() == [[0, END, 0, 0]]


def test_after_the_last_step_unfinished_beams_count():
    state = beams([[[0, 1, 2]]], [[-1.0]])
    after, _ = advance(torch.log(torch.tensor([[0.7, 0.1, 0.05, 0.05, 0.05, 0.05]])), FIRST, state, rules())
    assert after.best_tokens.tolist() == [[0, 1, 2, 0]]
    assert after.best_scores.item() == pytest.approx((-1 + math.log(0.7)) / 4)


def brute_force(table: torch.Tensor, config: BeamConfig) -> list[int]:
    """Return the best sequence of all, for log p (V, V) that depend on the last token only; row 0 also starts."""
    best, best_score = [], IMPOSSIBLE
    V = len(table)
    for length in range(1, config.eval_len + 1):
        for sequence in itertools.product(range(V), repeat=length):
            ended = sequence[-1] in config.eos_token_ids
            if any(t in config.eos_token_ids for t in sequence[:-1]) or (not ended and length < config.eval_len):
                continue
            score = sum(table[a, b].item() for a, b in zip((0, *sequence), sequence, strict=False))
            if score / length**config.length_penalty > best_score:
                best, best_score = list(sequence), score / length**config.length_penalty
    return best + [0] * (config.eval_len - len(best))


def table_search(table: torch.Tensor, config: BeamConfig, drop: bool = True) -> tuple[list[int], int]:
    """Return the best hypothesis and the number of rows searched on, for log p (V, V) of the last token; row 0 also starts."""
    state, rows, n_rows = start_beams(1, config, table), FIRST, 0
    logits = table[:1]
    for _ in range(config.eval_len):
        n_rows += len(rows)
        state, _ = advance(logits, rows, state, config)
        alive = can_win(state, state.best_scores, config)
        if not alive.any():
            break
        rows = alive[0].nonzero()[:, 0] if drop else torch.arange(config.beam)
        logits = table[state.tokens[0, rows, -1]]
    return state.best_tokens[0].tolist(), n_rows


def random_table(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(2 * torch.randn(6, 6, generator=generator, dtype=torch.float64), -1)


@pytest.mark.parametrize("length_penalty", [0.0, 0.8, 2.0, -1.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_beam_wide_enough_for_everything_finds_the_best_of_all(seed, length_penalty):
    """With K ≥ V^(eval_len - 1) nothing is pruned, so the search must agree with trying every sequence; stopping early, too.

    Fails if the bound of a live beam is wrong (say, s / G ** p at the current length), or the running score counts twice.
    """
    config = rules(beam=6**3, length_penalty=length_penalty)
    assert table_search(random_table(seed), config)[0] == brute_force(random_table(seed), config)


@pytest.mark.parametrize("length_penalty", [0.0, 0.8, 2.0, -1.0])
@pytest.mark.slow
def test_dropping_beams_that_cannot_win_changes_nothing(length_penalty):
    """In a narrow beam what a dropped beam made room for must not win. Fails if the bound is that of the current length."""
    saved = 0
    for seed in range(100):
        for width in (1, 2, 3, 5):
            config = rules(beam=width, eval_len=8, length_penalty=length_penalty, no_repeat_ngram_size=2)
            table = random_table(seed)
            dropped, n_rows = table_search(table, config)
            whole, n_all = table_search(table, config, drop=False)
            assert dropped == whole
            saved += n_all - n_rows
    assert saved > 0


@pytest.mark.usefixtures("two_threads")
@toy.on_every_device
@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_ids(name, batch_size, device):
    """Fails when prompts see each other's padding, beams are reordered wrongly, or the first step reads another row."""
    model, prompts, config = toy.golden_search(GOLDEN[name])
    model.to(device)
    assert len({len(p) for p in prompts}) > 1  # ragged
    found = []
    for start in range(0, len(prompts), batch_size):
        found += beam_search(model, prompts[start : start + batch_size], config)
    assert found == GOLDEN[name]["predict"]


def test_stopping_early_changes_nothing(monkeypatch):
    model, rows = toy.model(4), []
    config = toy.beam_config(GOLDEN["recipe"]["flags"])
    prompts = [line.context for line in toy.examples(40)]
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda ids, *args, **named: rows.append(len(ids)) or forward(ids, *args, **named)
    )
    early = beam_search(model, prompts, config)
    n_early = sum(rows)
    monkeypatch.setattr(beam, "can_win", lambda state, bar, config: torch.ones_like(state.scores, dtype=torch.bool))
    rows.clear()
    assert beam_search(model, prompts, config) == early
    assert sum(rows) == 40 + 19 * 40 * 10 > n_early  # every beam of every sentence in every step but the first


def test_the_steps_of_a_prompt_are_its_own(monkeypatch):
    """As many as it takes alone, each one forward pass, whichever prompts share the batch."""
    model, calls = toy.model(4), []
    config = toy.beam_config(GOLDEN["recipe"]["flags"])
    prompts = [line.context for line in toy.examples(12)]
    together: list[int] = []
    beam_search(model, prompts, config, steps=together)
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *args, **named: calls.append(1) or forward(*args, **named))
    for prompt, steps in zip(prompts, together, strict=True):
        calls.clear()
        beam_search(model, [prompt], config)
        assert len(calls) == steps
    assert len(set(together)) > 2


@toy.on_every_device
@pytest.mark.parametrize("static_steps", [1, 3, 16])
@pytest.mark.parametrize("name", GOLDEN)
def test_static_shapes_change_nothing(name, static_steps, device, monkeypatch):
    """Fails when a step with static shapes attends to slots that no step has filled, or fills another step's."""
    monkeypatch.setattr(beam, "COMPILED_STEPS", static_steps)
    model, prompts, config = toy.golden_search(GOLDEN[name])
    model.to(device)
    n_slots = []
    attention = beam.F.scaled_dot_product_attention

    def attend(q, k, v, **named):
        n_slots.append(k.shape[2])
        return attention(q, k, v, **named)

    monkeypatch.setattr(beam.F, "scaled_dot_product_attention", attend)
    assert beam_search(model, prompts, config, compiled=True) == GOLDEN[name]["predict"]
    steps = n_slots[model.config.n_layer :: model.config.n_layer]  # without the prompts'
    assert all(len(set(steps[i : i + static_steps])) == 1 for i in range(0, len(steps), static_steps))


@pytest.fixture
def files(tmp_path):
    torch.save({"model_state_dict": adapters(prefix="module.transformer.")}, tmp_path / "recipe.pt")
    flags = write_decoding(tmp_path, toy.examples(24) + toy.examples(24)[5:8])  # three inputs come twice
    return tmp_path, f"{flags} --device cpu --precision fp64 --seq_len 64".split()


def test_golden_ids_through_the_command_line(files, capsys):
    """Fails when a flag of the search does not reach it, --eos_token_id replaces 50256's list, or adapters are not loaded."""
    folder, flags = files
    lora = ["--lora_checkpoint", str(folder / "recipe.pt"), "--lora_dim", "4", "--lora_alpha", "32"]
    search = "--beam 10 --length_penalty 0.8 --eval_len 20 --eos_token_id 162 --eos_token_id 46 --batch_size 5".split()
    assert gpt2_beam.main([*flags, *lora, *search]) == 0
    predictions = [json.loads(line) for line in (folder / "work/beam_prediction.jsonl").read_text().splitlines()]
    golden = GOLDEN["recipe"]["predict"]
    assert predictions == [{"id": i, "predict": ids} for i, ids in enumerate(golden + golden[5:8])]
    assert "27 lines, 24 distinct inputs" in capsys.readouterr().out


def test_a_long_context_keeps_its_last_ids(files, capsys):
    folder, flags = files
    search = "--eval_len 8 --eos_token_id 46".split()
    context = list(range(100, 180))
    outputs = []
    for cut in (context, context[-56:], context[-55:]):
        (folder / "data.jsonl").write_text(json.dumps({"context": cut, "completion": []}) + "\n")
        gpt2_beam.main([*flags, *search])
        outputs.append((folder / "work/beam_prediction.jsonl").read_text())
    assert outputs[0] == outputs[1] != outputs[2]


def test_a_seq_len_beyond_the_positions_is_the_positions(files, capsys):
    folder, flags = files
    write_card(folder, n_positions=40)
    outputs = []
    for seq_len in ("512", "40", "39"):
        gpt2_beam.main([*flags, "--init_checkpoint", "random", "--eval_len", "30", "--seq_len", seq_len])
        said = capsys.readouterr().err
        outputs.append((folder / "work/beam_prediction.jsonl").read_text())
        note = f"warning: --seq_len 512 is more than the 40 positions of {folder}/config.json, so it is 40\n"
        assert said.count(note) == (seq_len == "512")
        assert f"contexts have more than {min(int(seq_len), 40) - 30} ids" in said
    assert outputs[0] == outputs[1] != outputs[2]
    record = json.loads((folder / "work/beam_prediction.run.json").read_text())
    assert record["settings"]["seq_len"] == 39


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            "--lora_dim 4 --init_checkpoint recipe.pt",
            "their file goes into --lora_checkpoint, and the base they were trained on "
            "into --init_checkpoint, which is recipe.pt",
        ),
        ("--lora_checkpoint recipe.pt", "does not say its alpha"),
        ("--lora_checkpoint recipe.pt --lora_dim 8", "rank 4, not 8"),
        ("--lora_checkpoint base.safetensors", "holds no LoRA adapters"),
        ("--init_checkpoint recipe.pt", "holds LoRA adapters"),
        ("--beam 0", "--beam must be from 1 to 1000"),
        ("--eval_len 64", "--eval_len 64 leaves no room"),
        ("--min_length 300", "--min_length must be from 0"),
        ("--eos_token_id 211", "--eos_token_id must be from 0 to 210"),
        ("--repetition_penalty 0", "--repetition_penalty must be greater"),
        ("--batch_size 0", "--batch_size must be at least 1"),
        ("--data nothing.jsonl", "cannot read nothing.jsonl"),
        ("--random_seed 3", "--random_seed would have no effect"),
        ("--length_penalty 1000", "--length_penalty must be from -10 to 10"),
        ("--compile", "--compile records what a GPU does"),
    ],
)
def test_mistakes_get_one_sentence(files, flags, words, monkeypatch, capsys):
    folder, given = files
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["gpt2_beam.py", *given, "--eval_len", "20", *flags.split()])
    assert errors.run(gpt2_beam.main) == 2
    assert words in capsys.readouterr().err
    assert not (folder / "work").exists()
