"""What a beam search remembers: slots that no beam descends from are dropped, and nothing else is."""

from dataclasses import replace

import pytest
import torch

import toy
from lora_nlg.decoding import beam, cache
from lora_nlg.methods import add_adapters
from lora_nlg.methods.prefix import PrefixConfig

GOLDEN = {case["name"]: case for case in toy.golden("beam.json")}
NEVER = 1000  # steps: more than any search here takes


class Watched(cache.Cache):
    """A cache that notes, at every step, how many slots of a sentence are read and how many of the generated ones live."""

    made: list["Watched"]

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.read, self.living = [], []
        Watched.made.append(self)

    def reorder(self, parents, n_steps):
        super().reorder(parents, n_steps)
        self.read.append(self.end - self.start)
        self.living.append(int(self.mask[:, :, self.start :].any(dim=1).sum(dim=1).max()))


@pytest.fixture
def watch(monkeypatch):
    """Return a function that searches and returns the ids and the cache."""
    monkeypatch.setattr(beam, "Cache", Watched)
    Watched.made = []

    def search(model, prompts, config, drop_every=cache.DROP_EVERY, **named):
        monkeypatch.setattr(cache, "DROP_EVERY", drop_every)
        return beam.beam_search(model, prompts, config, **named), Watched.made[-1]

    return search


def long_search(**changes):
    """Return a golden search's model and prompts, and rules by which no text ends early."""
    model, prompts, config = toy.golden_search(GOLDEN["recipe"])
    return model, prompts[:3], replace(config, **{"eval_len": 48, "min_length": 48, **changes})


@toy.on_every_device
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("drop_every", [1, 3])
@pytest.mark.parametrize("name", GOLDEN)
def test_dropping_dead_slots_changes_nothing(name, drop_every, compiled, device, watch, monkeypatch):
    """Fails when a slot is dropped that a beam descends from, slots change places, or a sentence takes another's order."""
    monkeypatch.setattr(beam, "COMPILED_STEPS", 4)
    monkeypatch.setattr(cache, "MOVE", 0)  # however few are dead
    model, prompts, config = toy.golden_search(GOLDEN[name])
    found, _ = watch(model.to(device), prompts, config, drop_every, compiled=compiled)
    assert found == GOLDEN[name]["predict"]


@pytest.mark.parametrize("beam_size", [1, 2, 10])
def test_long_searches_read_few_dead_slots_and_find_the_same(beam_size, watch):
    """Fails when dead slots stay, and with one beam when slots are moved though all of them live."""
    model, prompts, config = long_search(beam=beam_size)
    whole, kept = watch(model, prompts, config, NEVER)
    found, dropped = watch(model, prompts, config)
    assert found == whole and dropped.living == kept.living and len(kept.read) == 47
    assert kept.read == [beam_size * (step + 1) for step in range(47)]
    if beam_size == 1:
        assert dropped.read == kept.read
    if beam_size == 10:
        assert sum(dropped.read) < sum(kept.read) / 2
        dead_at_most = [beam_size * cache.DROP_EVERY + 2 * living for living in dropped.living]
        assert all(read <= most for read, most in zip(dropped.read, dead_at_most, strict=True))


def test_memory_does_not_grow_with_beams_times_length(watch):
    """Fails when slots are made for every token of every beam: 10 for each step more."""
    sizes = {}
    for eval_len in (24, 48):
        _, made = watch(*long_search(eval_len=eval_len, min_length=eval_len))
        sizes[eval_len] = made.keys[0].shape[2]
        assert all(layer.shape == made.keys[0].shape for layer in (*made.keys, *made.values))
    assert sizes[48] - sizes[24] == 48 - 24
    assert sizes[48] < (made.start + cache.most_slots(made.start, 10, 48)) / 2


def test_a_cache_grows_where_beams_have_no_ancestors_in_common(watch, monkeypatch):
    """Fails when the slots of a step lie beyond the memory, or what is there already is lost."""
    model, prompts, config = long_search()
    whole, _ = watch(model, prompts, config)
    monkeypatch.setattr(cache, "first_slots", lambda start, beam, eval_len: start + 1)
    found, made = watch(model, prompts, config)
    assert found == whole
    assert made.mask.shape[2] == made.keys[0].shape[2] > made.start + 1


def test_a_prefix_is_kept(watch, monkeypatch):
    """Its slots are all beams', before the prompt's. Fails when slots are counted from the prompt's end without it."""
    monkeypatch.setattr(cache, "MOVE", 0)
    model = toy.model().eval()
    add_adapters(model, PrefixConfig("prefix_kv", 3), torch.Generator().manual_seed(1))
    _, prompts, config = long_search(eval_len=20, min_length=0)
    assert watch(model, prompts, config, 1)[0] == watch(model, prompts, config, NEVER)[0]
