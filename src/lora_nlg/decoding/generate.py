"""Text for one input at a time, with what else the search found."""

from collections.abc import Callable
from dataclasses import dataclass

import tiktoken
import torch

from lora_nlg import dist
from lora_nlg.config import END_OF_TEXT_ID, BeamConfig
from lora_nlg.decoding.beam import IMPOSSIBLE, Endings, NotANumber, beam_search
from lora_nlg.errors import UserError
from lora_nlg.model.gpt2 import GPT2
from lora_nlg.tasks import TASKS, formatted


@dataclass(frozen=True)
class Answer:
    """A text and its score: log p of its tokens, the end token included, divided by their number ** length_penalty."""

    text: str
    score: float


@dataclass(frozen=True)
class Generator:
    """A model ready to be asked."""

    model: GPT2
    encoding: tiktoken.Encoding  # see bpe.load_encoding
    rules: BeamConfig
    device: torch.device
    precision: str
    check_input: Callable[[str, str], object] = TASKS["e2e"].check_input

    def answers(self, text: str, where: str, n: int) -> list[Answer]:
        """Return the texts of the `n` best hypotheses that ended in the search for the input `text`, best first.

        The first is what gpt2_beam.py and gpt2_decode.py make of it. Of hypotheses that differ in their end token alone the best
        stands for all, so there may be fewer. Raises UserError, with `where`, for what is no input of the task or is too long.
        """
        formatted.check_characters(text, where)
        self.check_input(text, where)
        prompt = [*self.encoding.encode_ordinary(text), END_OF_TEXT_ID]
        longest = self.model.config.n_positions - self.model.n_before - self.rules.eval_len
        if longest < 1:
            raise UserError(
                f"--eval_len {self.rules.eval_len} and the prefix's {self.model.n_before} positions leave no room for the input in "
                f"the model's {self.model.config.n_positions}; lower --eval_len"
            )
        if len(prompt) > longest:
            raise UserError(f"{where}: {len(prompt)} tokens are too many, the model takes {longest}; shorten the input")
        endings = Endings(n)
        try:
            with dist.autocast(self.device, self.precision):
                beam_search(self.model, [prompt], self.rules, endings)
        except NotANumber as error:
            raise UserError(
                f"{where}: the logits are no numbers, so nothing can be chosen; check the weights, or use --precision fp32"
            ) from error
        found: dict[str, float] = {}
        for ids, score in zip(endings.tokens[0].tolist(), endings.scores[0].tolist(), strict=True):
            if score > IMPOSSIBLE:
                found.setdefault(self.text(ids), score)
        return [Answer(text, score) for text, score in found.items()]

    def text(self, ids: list[int]) -> str:
        """Return the text of a hypothesis, cut like a prediction's."""
        return formatted.text_of(ids, self.encoding, self.rules.eos_token_ids)
