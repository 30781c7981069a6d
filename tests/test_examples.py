"""Reading, cutting, padding, masking and ordering examples."""

import dataclasses
import itertools
import random

import pytest
import torch
from torch.nn import functional as F

import toy
from lora_nlg.data.batches import ItemOrder, collate, prefetch
from lora_nlg.data.examples import Example, make_rows, read_examples, row_length
from lora_nlg.errors import UserError
from lora_nlg.model import attention
from lora_nlg.model.attention import PaddedAttention
from lora_nlg.model.gpt2 import empty_model, init_weights

TWO = [[Example([1, 2, 9], [3, 4, 9])], [Example([5, 9], [6, 9])]]


def test_clm_learns_the_completion_from_the_contexts_last_token_on():
    batch = collate(TWO, seq_len=512, objective="clm")
    assert batch.ids.tolist() == [1, 2, 9, 3, 4, 5, 9, 6]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert (batch.slots.tolist(), batch.lengths, batch.shape) == ([0, 1, 2, 3, 4, 5, 6, 7], (5, 3), (2, 5))
    assert batch.learnt.tolist() == [2, 3, 4, 6, 7]
    assert batch.targets.tolist() == [3, 4, 9, 6, 9]
    assert batch.n_tokens == 8


def test_jlm_learns_every_token_but_the_first():
    batch = collate(TWO, seq_len=512, objective="jlm")
    assert batch.learnt.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert batch.targets.tolist() == [2, 9, 3, 4, 9, 9, 6, 9]


def test_a_long_example_is_cut_on_the_right():
    batch = collate(TWO, seq_len=4, objective="clm")
    assert batch.ids.tolist() == [1, 2, 9, 5, 9, 6]
    assert batch.learnt.tolist() == [2, 4, 5]
    assert batch.targets.tolist() == [3, 6, 9]


def test_an_example_whose_context_fills_everything_teaches_nothing():
    batch = collate([[Example([1, 2, 3, 4], [5])]], seq_len=3, objective="clm")
    assert batch.ids.tolist() == [1, 2, 3]
    assert batch.learnt.tolist() == batch.targets.tolist() == []


def test_every_item_once_an_epoch_and_fillers_from_their_own_generator():
    order = ItemOrder(10, batch_size=4, seed=3)
    fillers = random.Random(911)
    for epoch in (1, 2):
        batches = list(order.epoch(epoch))
        assert [len(batch) for batch in batches] == [4, 4, 4]
        left = [item for batch in batches for item in batch]
        for item in range(10):
            left.remove(item)
        assert sorted(left) == sorted(fillers.randint(0, 9) for _ in range(2))


def test_epochs_and_seeds_differ():
    def first(seed, epoch):
        return list(ItemOrder(40, 4, seed).epoch(epoch))

    assert first(1, 1) == first(1, 1)
    assert first(1, 1) != first(1, 2)
    assert first(1, 1) != first(2, 1)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_an_epoch(world_size):
    orders = [ItemOrder(24, 4, 1, world_size, rank) for rank in range(world_size)]
    items = [item for order in orders for batch in order.epoch(1) for item in batch]
    assert sorted(items) == list(range(24))


def test_without_drop_last_the_rest_is_a_batch():
    order = ItemOrder(10, 4, 1, world_size=5, rank=0, drop_last=False)  # 12 items over 5 ranks: 3 each, with repeats
    assert [len(batch) for batch in order.epoch(0)] == [3]
    assert list(ItemOrder(10, 4, 1, world_size=5, rank=0).epoch(0)) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "data.jsonl:2: not JSON"),
        ('{"context": [1]}', "data.jsonl:2: expected"),
        ('{"context": 1, "completion": [2]}', "data.jsonl:2: expected"),
        ('{"context": [1], "completion": [211]}', "data.jsonl:2: expected token ids from 0 to 210, found 211"),
        ('{"context": [-1], "completion": [2]}', "found -1"),
        ('{"context": [true], "completion": [2]}', "found True"),
        ('{"context": ["1"], "completion": [2]}', "found '1'"),
        ('{"context": [], "completion": [2]}', "data.jsonl:2: the context is empty"),
        ("[1, 2]", "data.jsonl:2: expected"),
        ("", "data.jsonl:2: the line is blank"),
        ("\xff", "data.jsonl:2: not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, words):
    path = tmp_path / "data.jsonl"
    path.write_text('{"context": [1], "completion": [2]}\n' + line + "\n")
    with pytest.raises(UserError, match=r".") as error:
        read_examples(path, 211)
    assert words in str(error.value)


def test_empty_and_missing_files(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nothing\.jsonl"):
        read_examples(tmp_path / "nothing.jsonl", 211)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UserError, match="is empty"):
        read_examples(tmp_path / "empty.jsonl", 211)


def test_padding_does_not_reach_the_loss():
    from lora_nlg.training.losses import masked_loss

    model = toy.model()
    short, long = toy.examples(2)
    together = collate([[short], [long]], 512, "clm")
    apart = [collate([[example]], 512, "clm") for example in (short, long)]
    weights = [len(batch.targets) for batch in apart]
    eps = 1e-4
    expected = sum(masked_loss(model, b) * (w + eps) for b, w in zip(apart, weights, strict=True)) / (
        sum(weights) + eps
    )
    assert torch.allclose(masked_loss(model, together), expected, rtol=1e-12)


def test_smoothing_up_to_a_ten_thousandth_is_none():
    from lora_nlg.training.losses import masked_loss

    model, batch = toy.model(), collate([[example] for example in toy.examples(2)], 512, "clm")
    assert torch.equal(masked_loss(model, batch, 1e-4), masked_loss(model, batch))
    assert not torch.equal(masked_loss(model, batch, 2e-4), masked_loss(model, batch))


def rows_of_shared_contexts():
    """Three inputs with 3, 1 and 2 references, one of which is empty."""
    first, second, third = toy.examples(3)
    shared = [
        Example(example.context, completion)
        for example, completions in (
            (first, [first.completion, [7, 8, 210], [5]]),
            (second, [second.completion]),
            (third, [third.completion, []]),
        )
        for completion in completions
    ]
    return shared, make_rows(shared, share_prompts=True)


def test_one_row_for_all_references_of_an_input_has_the_same_loss_and_gradients():
    """Fails when a reference sees another one, is at other positions, or the first token is predicted for one only."""
    from lora_nlg.training.losses import masked_loss

    model = toy.model(rank=4)
    apart, rows = rows_of_shared_contexts()
    assert [len(row) for row in rows] == [3, 1, 2]
    results = []
    for batch in (collate([[example] for example in apart], 512, "clm"), collate(rows, 512, "clm")):
        loss = masked_loss(model, batch, 0.1)
        loss.backward()
        results.append((batch.n_tokens, loss.item(), model.h[0].attn.c_attn.lora_B.grad.clone()))
        model.zero_grad()
    (n_apart, loss_apart, grad_apart), (n_together, loss_together, grad_together) = results
    assert n_together < n_apart
    assert loss_together == pytest.approx(loss_apart, rel=1e-12)
    assert torch.allclose(grad_together, grad_apart, rtol=1e-10, atol=1e-14)


def test_a_reference_that_shares_its_context_is_cut_as_it_is_alone():
    apart, rows = rows_of_shared_contexts()
    seq_len = len(rows[0][0].context) + 2
    together = collate(rows, seq_len, "clm")
    assert together.targets.tolist() == collate([[example] for example in apart], seq_len, "clm").targets.tolist()
    assert [row_length(row, seq_len) for row in rows[:1]] == [seq_len + 3]  # completions of 2, 2 and 1 tokens
    assert together.shape == (3, seq_len)  # the first row: its context, and one fed token of each longer reference


@pytest.mark.parametrize("share", [False, True])
def test_attention_of_padded_rows_is_that_of_each_row(share):
    """The one is for a GPU, the other for a CPU. Fails when a padding is seen, or tokens are put elsewhere."""
    batch = collate(make_rows(rows_of_shared_contexts()[0], share), 512, "clm")
    assert (batch.branches is not None) == share and len(set(batch.lengths)) > 1
    qkv = torch.randn(batch.n_tokens, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    padded = PaddedAttention(batch.slots, batch.shape, batch.branches)
    results = []
    for attend in (padded, attention.for_batch(batch)):
        given = qkv.clone().requires_grad_()
        y = attend(0, given, 2)
        results.append((y, *torch.autograd.grad(y.square().sum(), given)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_a_batch_that_is_filled_up_has_the_same_loss_and_gradients():
    """Fails when a token that fills up is attended to, or is learnt."""
    from lora_nlg.training.losses import masked_loss

    model = toy.model(rank=4)
    results = []
    batch = collate([[example] for example in toy.examples(5)], 512, "clm")
    for form in (batch, batch.fill_up(16)):
        loss = masked_loss(model, form, 0.1)
        loss.backward()
        results.append((loss.item(), model.h[0].attn.c_attn.lora_B.grad.clone()))
        model.zero_grad()
    assert form.ids.shape == (5, 32) and len(form.targets) == 80
    assert form.n_tokens == batch.n_tokens
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-12)
    assert torch.allclose(results[1][1], results[0][1], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("objective", "n_completion", "length"), [("clm", 20, 0), ("jlm", 34, 0), ("clm", 44, 0), ("clm", 20, 9)]
)
def test_what_fills_up_a_batch_has_positions_that_the_model_has(objective, n_completion, length):
    """At the model's last position, which filling up goes beyond; with a prefix of `length`, too."""
    from lora_nlg.methods import add_adapters
    from lora_nlg.methods.prefix import PrefixConfig
    from lora_nlg.training.losses import masked_loss

    model = empty_model(dataclasses.replace(toy.CONFIG, n_positions=50)).double()
    init_weights(model, torch.Generator().manual_seed(1))
    n_tokens = 50 - length
    if length:
        add_adapters(model, PrefixConfig("prefix_layer", length), torch.Generator().manual_seed(1))
    whole = Example(list(range(n_tokens - n_completion)), list(range(n_completion)))
    batch = collate([[whole], [whole]], n_tokens, objective)
    filled = batch.fill_up(32)
    assert filled.ids.shape[1] > n_tokens
    assert masked_loss(model, filled).item() == pytest.approx(masked_loss(model, batch).item(), rel=1e-12)


def test_a_batch_with_more_to_learn_than_half_of_it_is_made_longer():
    def filled(n_context, n_completion):
        example = Example([210] * n_context, list(range(n_completion)))
        return collate([[example]] * 2, 512, "clm").fill_up(32)

    assert filled(40, 20).ids.shape == (2, 64) and len(filled(40, 20).targets) == 64
    assert filled(1, 40).ids.shape == (2, 96)  # 2 · 40 targets are more than half of 2 · 64


def test_windows_hold_the_same_items_in_batches_of_like_lengths():
    lengths = [random.Random(item).randint(1, 100) for item in range(64)]
    plain, sorted_ = (ItemOrder(64, 4, 3, lengths=given, window=4) for given in (None, lengths))
    for epoch in (1, 2):
        before, after = list(plain.epoch(epoch)), list(sorted_.epoch(epoch))
        for start in range(0, 16, 4):
            window = [sorted(itertools.chain(*batches[start : start + 4])) for batches in (before, after)]
            assert window[0] == window[1]
            spans = sorted([lengths[item] for item in batch] for batch in after[start : start + 4])
            assert all(left[-1] <= right[0] for left, right in itertools.pairwise(spans))
        assert before != after
    assert list(sorted_.epoch(1)) == list(ItemOrder(64, 4, 3, lengths=lengths, window=4).epoch(1))


def test_prefetching_keeps_the_order_and_the_error():
    def numbers():
        yield from range(5)
        raise UserError("line 6")

    got = []
    with pytest.raises(UserError, match="line 6"):
        got.extend(prefetch(numbers()))
    assert list(prefetch(iter(range(5)))) == list(range(5))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_and_its_gradient_are_torchs(smoothing):
    """Fails when an ignored target counts, or the smoothing's share of the gradient is left out."""
    from lora_nlg.training.losses import SummedCrossEntropy

    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 11, dtype=torch.float64, generator=generator, requires_grad=True)
    targets = torch.tensor([0, 10, -100, 4, 4, -100])
    ours = SummedCrossEntropy.apply(logits * 1, targets, smoothing)  # it overwrites what it is given
    theirs = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(3 * loss, logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)
