"""Validation inputs decoded while a model trains. Training asks for them by a function: it and decoding know nothing of each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tiktoken
import torch

from lora_nlg import dist
from lora_nlg.config import BLANK_LINE_ID, END_OF_TEXT_ID, GPT2_VOCAB_SIZE, BeamConfig, ModelConfig
from lora_nlg.data.examples import Example, make_rows
from lora_nlg.decoding.beam import NotANumber, beam_search
from lora_nlg.errors import UserError
from lora_nlg.model.gpt2 import GPT2
from lora_nlg.tasks import formatted
from lora_nlg.training.log import Sample, Text

BATCH_SIZE = 32  # inputs decoded together; no effect on the result
HOW = "greedy, sacreBLEU with 13a tokens: not the scorer's BLEU"


@dataclass(frozen=True)
class Sampler:
    """Validation inputs, each with all its references, and how they are decoded."""

    rows: list[list[Example]]  # one a distinct input
    shown: list[int]  # which of them a person gets to see
    rules: BeamConfig
    longest: int  # of an input, in ids: the last ones are kept
    encoding: tiktoken.Encoding  # see bpe.load_encoding
    device: torch.device
    precision: str

    def __call__(self, model: GPT2) -> Sample:
        """Decode the inputs. Nothing is drawn at random, so training goes on as if it had not been done."""
        model.eval()
        outputs = [text for first in range(0, len(self.rows), BATCH_SIZE) for text in self._decoded(model, first)]
        references = [[self._text(example.completion) for example in row] for row in self.rows]
        shown = [Text(self._text(self.rows[i][0].context), outputs[i], references[i]) for i in self.shown]
        return Sample(bleu(outputs, references), HOW, len(self.rows), shown)

    def _decoded(self, model: GPT2, first: int) -> list[str]:
        prompts = [row[0].context[-self.longest :] for row in self.rows[first : first + BATCH_SIZE]]
        try:
            with dist.autocast(self.device, self.precision):
                return [self._text(ids) for ids in beam_search(model, prompts, self.rules)]
        except NotANumber as error:
            raise UserError(
                f"the logits for input {first + error.prompt + 1} of the validation inputs are no numbers, so nothing can be chosen; "
                "use a lower --lr or --clip"
            ) from error

    def _text(self, ids: list[int]) -> str:
        return formatted.text_of(ids, self.encoding, self.rules.eos_token_ids)


def sampler(
    examples: Sequence[Example],
    model: ModelConfig,
    longest: int,
    encoding: tiktoken.Encoding,
    device: torch.device,
    precision: str,
    n_shown: int,
    n_decoded: int = 0,
) -> Callable[[GPT2], Sample]:
    """Return what decodes `n_decoded` of the distinct inputs of `examples` (0: all), spread over the file, and shows `n_shown`.

    An output may have as many tokens as the longest reference, of the `longest` that input and output may have together.
    """
    rows = make_rows(examples, share_prompts=True)
    rows = [rows[i] for i in spread(len(rows), n_decoded or len(rows))]
    eval_len = min(max(1, *(len(example.completion) for row in rows for example in row)), max(1, longest // 2))
    end = tuple(token for token in (END_OF_TEXT_ID, BLANK_LINE_ID) if token < model.vocab_size)
    rules = BeamConfig(beam=1, eval_len=eval_len, eos_token_ids=end)
    return Sampler(rows, spread(len(rows), n_shown), rules, longest - eval_len, encoding, device, precision)


def check_vocabulary(model: ModelConfig, card: str) -> None:
    """Raise UserError if the model may choose a token that GPT-2's vocabulary has no text for."""
    if model.vocab_size > GPT2_VOCAB_SIZE:
        raise UserError(
            f"--model_card {card} has {model.vocab_size} tokens, more than GPT-2's {GPT2_VOCAB_SIZE}, so its outputs are no texts; "
            "leave --eval_texts out"
        )


def spread(n: int, n_chosen: int) -> list[int]:
    """Return `n_chosen` of the numbers below `n`, or all, at even distances, the first among them."""
    n_chosen = min(n, n_chosen)
    return [i * n // n_chosen for i in range(n_chosen)]


def bleu(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return sacreBLEU's corpus score, from 0 to 1, where an output has any number of references."""
    from sacrebleu.metrics.bleu import BLEU

    most = max(map(len, references))
    streams: list = [[of[i] if i < len(of) else None for of in references] for i in range(most)]
    # force: no advice about texts that are tokenised already, as E2E's are
    return BLEU(force=True).corpus_score(outputs, streams).score / 100
