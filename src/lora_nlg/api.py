"""The package from Python: load a base with any adapters, generate from a text, train on pairs, save.

Every mistake is a lora_nlg.errors.UserError of one sentence.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tiktoken
import torch

from lora_nlg import config, dist, kinds, locks, methods
from lora_nlg.config import BLANK_LINE_ID, END_OF_TEXT_ID, GPT2_VOCAB_SIZE, BeamConfig, OptimConfig, TrainConfig
from lora_nlg.data import bpe
from lora_nlg.data.batches import Split
from lora_nlg.data.examples import Example
from lora_nlg.decoding.generate import Answer, Generator
from lora_nlg.errors import Stopped, UserError
from lora_nlg.flags import E2E_SEARCH
from lora_nlg.methods.placement import LoraConfig
from lora_nlg.methods.switch import Switch
from lora_nlg.model.gpt2 import GPT2
from lora_nlg.storage import checkpoints, hub, models
from lora_nlg.tasks import formatted
from lora_nlg.training.saves import Saves, check_folder
from lora_nlg.training.train import are_finite, train

E2E_RULES = BeamConfig(**vars(E2E_SEARCH), eos_token_ids=(END_OF_TEXT_ID, BLANK_LINE_ID))
# The public recipe's settings, but for the number of steps
PAPER_LORA = LoraConfig(4, 32, dropout=0.1)
PAPER_OPTIM = OptimConfig(2e-4, 1000, correct_bias=True, beta2=0.999, warmup_step=100)
PAPER_TRAINING = TrainConfig(label_smooth=0.1)
PATH = str | os.PathLike


def load(
    base: str | Path,
    adapters: str | Path | None = None,
    *,
    card: str | None = None,
    vocab: str | Path = "vocab",
    device: str = "auto",
    precision: str = "fp32",
) -> "Model":
    """Return a base with adapters merged into it, ready to generate and to be trained.

    `base` is a file or folder of weights, or a Hub id; `adapters` whatever --lora_checkpoint takes. The shape of the model is
    what `card` says (gpt2.sm, …), else config.json in the base's folder, else the adapters' file. `vocab` is the folder with GPT-2's
    vocabulary.
    """
    kinds.check("base", base, PATH)
    kinds.check("adapters", adapters, PATH | None)
    kinds.check("card", card, PATH | None)
    kinds.check("vocab", vocab, PATH)
    kinds.check("device", device, str)
    config.require(precision in config.PRECISIONS, "precision", f"one of {', '.join(config.PRECISIONS)}", precision)
    card = card or str(hub.config_beside(base) or "") or (checkpoints.read(adapters).card if adapters else None)
    if card is None:
        raise UserError(f"{base} has no config.json; pass the shape of the model as card, e.g. gpt2.md")
    shape = config.model_config(card)
    ranks = dist.start(device, rank=0, world_size=1, local_rank=0)
    encoding = bpe.load_encoding(vocab)
    network = models.merged_model(shape, str(base), adapters, precision=precision)
    published = "" if adapters else hub.published(base)  # merged into it they make other weights of it
    return Model(network.to(ranks.device).eval(), encoding, ranks, precision, hub.called(base, card), published)


@dataclass(frozen=True)
class Model:
    """A GPT-2 with its vocabulary, on a device."""

    network: GPT2
    encoding: tiktoken.Encoding
    ranks: dist.Ranks
    precision: str
    card: str  # the base's name on the Hub, else that of its shape, for what is saved
    published: str = ""  # the base's name on the Hub, if it is one

    def generate(self, text: str, n: int = 1, rules: BeamConfig = E2E_RULES) -> list[Answer]:
        """Return up to `n` texts for the input `text`, each with its score, best first; any input will do."""
        kinds.check("text", text, str)
        kinds.check("n", n, int)
        kinds.check("rules", rules, BeamConfig)
        if not 1 <= n <= config.MOST_BEAMS:
            raise UserError(f"n must be from 1 to {config.MOST_BEAMS}, but is {n}")
        size = self.network.config.vocab_size
        known = all(type(token) is int and 0 <= token < size for token in rules.eos_token_ids)
        config.require(known, "eos_token_id", f"of the vocabulary, from 0 to {size - 1}", rules.eos_token_ids)
        formatted.check_characters(text, "the input")
        formatted.check_vocabulary(size, "the model")
        answerer = Generator(
            self.network.eval(), self.encoding, rules, self.ranks.device, self.precision, lambda text, where: None
        )
        return answerer.answers(text, "the input", n)

    def train(
        self,
        pairs: Sequence[tuple[str, str]],
        valid_pairs: Sequence[tuple[str, str]],
        work_dir: str | Path,
        lora: LoraConfig = PAPER_LORA,
        optim: OptimConfig = PAPER_OPTIM,
        settings: TrainConfig = PAPER_TRAINING,
    ) -> float:
        """Train on (input, reference) `pairs` with new adapters, and return the validation loss in nats a token.

        `optim.max_step` micro-batches are taken. The work dir gets what gpt2_ft.py writes: model.final.pt, log.jsonl and so on.
        """
        self._check_training(work_dir, lora, optim, settings)
        pairs, valid_pairs = texts_of(pairs, "pairs"), texts_of(valid_pairs, "valid_pairs")
        longest = self.network.config.n_positions - methods.positions_before(lora)
        settings = replace(settings, seq_len=min(settings.seq_len, longest))
        train_split = Split(self._encoded(pairs), settings, self.ranks)
        valid_split = Split(self._encoded(valid_pairs), settings, self.ranks, validation=True)
        on = self.network.trained_by
        if on is not None and not methods.is_merged(on):
            raise UserError(
                f"the model has {methods.called(on.method)} on it, which cannot become a part of a base; load the base alone"
            )
        with locks.held(locks.of_folder(Path(work_dir))):
            check_is_free(Path(work_dir))
            methods.merge_adapters(self.network)  # of an earlier training, which are part of this one's base
            before = Before(self.network, lora)
            try:
                saves = self._begin(Path(work_dir), lora, settings)
                torch.manual_seed(settings.random_seed)  # of dropout
                return train(self.network, train_split, valid_split, optim, saves, self.ranks)
            except Stopped:  # and saved: what is trained so far is on the model, as in the work dir
                raise
            except BaseException:  # what is half put on, or no number, would answer, and could be saved
                before.restore()
                self.network.to(self.ranks.device)
                raise

    def _check_training(self, work_dir: object, lora: object, optim: object, settings: TrainConfig) -> None:
        """Raise UserError for arguments of `train` that are none, or that this model cannot follow."""
        kinds.check("work_dir", work_dir, PATH)
        methods.check(lora, self.network.config)
        if getattr(lora, "seed", 0) is None:  # as of a file of PEFT's that holds what the seed would draw
            raise UserError("the seed must be a whole number, but is None, which only a file can make up for")
        for name, value, kind in (("optim", optim, OptimConfig), ("settings", settings, TrainConfig)):
            kinds.check(name, value, kind)
        dtype = self.network.wte.weight.dtype
        if (settings.precision == "fp64") != (dtype == torch.float64):
            computes = "fp64" if dtype == torch.float64 else "fp32"
            raise UserError(
                f"the settings' precision {settings.precision} would have no effect: the model computes in {computes}; give "
                f"TrainConfig precision={computes!r}, or load the model with precision={settings.precision!r}"
            )

    def _begin(self, work_dir: Path, lora: LoraConfig, settings: TrainConfig) -> Saves:
        """Put new adapters on, and make the work dir ready for their training."""
        base = self._base()
        saves = Saves(work_dir, None, settings.keep_last, base, settings.keep_epochs)
        saves.start_anew()
        methods.add_adapters(self.network, lora, torch.Generator().manual_seed(settings.random_seed))
        self.network.trained_on = base
        self.network.to(self.ranks.device)
        return saves

    def _base(self) -> checkpoints.Base:
        """Return what the model is, nothing being put on it."""
        published = self.published if self.network.trained_on is None else ""  # an earlier training is a part of it
        return checkpoints.Base(self.card, models.fingerprint(self.network.cpu()), published)

    def _encoded(self, pairs: Sequence[tuple[str, str]]) -> list[Example]:
        if self.network.config.vocab_size < GPT2_VOCAB_SIZE:  # a larger one is padded
            formatted.check_vocabulary(self.network.config.vocab_size, "the model")
        return [Example(*bpe.encode_pair(self.encoding, text, reference)) for text, reference in pairs]

    def save(self, path: str | Path) -> None:
        """Write the adapters of the last training as safetensors."""
        kinds.check("path", path, PATH)
        trained, base = methods.adapter_config(self.network), self.network.trained_on
        if trained is None or base is None:
            raise UserError(f"nothing to write to {path}: no adapters were trained since the model was loaded")
        tensors = methods.adapter_tensors(self.network)
        if not are_finite(tensors.values()):
            raise UserError(
                f"nothing is written to {path}: the adapters hold values that are no numbers; train again, with a lower lr"
            )
        checkpoints.save_adapters(tensors, path, trained, base)
        self.network.to(self.ranks.device)


class Before:
    """What a model without adapters was before a training with `lora`, to which it goes back when that fails."""

    def __init__(self, network: GPT2, lora: LoraConfig):
        self.alone, self.network, self.trained_on = Switch(network), network, network.trained_on
        # Full fine-tuning alone writes to the base's own weights
        written = network.parameters() if lora.method == methods.PLAIN else ()
        self.weights = [(parameter, parameter.detach().cpu().clone()) for parameter in written]

    @torch.no_grad()
    def restore(self) -> None:
        """Leave the model as it was."""
        self.alone.take_off()
        self.network.trained_on = self.trained_on
        for parameter, weights in self.weights:
            parameter.copy_(weights)


def texts_of(pairs: Iterable, name: str) -> list[tuple[str, str]]:
    """Return the (input, reference) pairs of the argument `name` as a list. Raises UserError, naming the first that is none."""
    if not isinstance(pairs, Iterable):
        raise UserError(f"{name} must be (input, reference) pairs, but is {pairs!r:.60}")
    texts = []
    for number, pair in enumerate(pairs, 1):
        where = f"pair {number} of {name}"
        in_order = isinstance(pair, Iterable) and not isinstance(pair, str | dict | set)
        both = tuple(pair) if in_order else ()  # also of a row of an array
        if len(both) != 2 or not all(isinstance(text, str) for text in both):
            raise UserError(f"{where} must be two texts, an input and its reference, but is {pair!r:.60}")
        for text in both:
            formatted.check_characters(text, where)
        texts.append((both[0], both[1]))
    return texts


def check_is_free(work_dir: Path) -> None:
    """Raise UserError if a training in `work_dir` would delete an unfinished run, or checkpoints of another program."""
    check_folder(work_dir)
    saves = Saves(work_dir)
    if saves.read() and not saves.finished:
        raise UserError(
            f"{work_dir} holds a run saved at step {saves.last_step} that is not finished; use another work_dir, or delete this one"
        )
