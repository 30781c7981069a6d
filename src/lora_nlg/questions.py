"""What the page asks, and what it is answered: the values of JSON objects in and out."""

from dataclasses import dataclass, replace
from typing import Any, cast

from lora_nlg.data.lines import one_line
from lora_nlg.decoding.generate import Answer
from lora_nlg.decoding.systems import Systems
from lora_nlg.errors import UserError
from lora_nlg.tasks import Task

MOST_BEAMS, MOST_ALTERNATIVES = 50, 20  # for a person who waits and reads
PENALTY = 10.0  # the length penalty that BeamConfig takes, to both sides


@dataclass(frozen=True)
class Setting:
    """A number that the page lets people choose."""

    default: int | float  # what the flags say, which is never out of bounds
    least: int | float
    most: int | float

    def read(self, name: str, value: Any) -> int | float:
        """Return `value` if it is such a number. Raises UserError."""
        kinds, kind = ((int,), "a whole number") if isinstance(self.least, int) else ((int, float), "a number")
        if type(value) not in kinds or not self.least <= value <= self.most:
            raise UserError(f"{name} must be {kind} from {self.least} to {self.most}, but is {repr(value)[:40]}")
        return value


class Questions:
    """Reads what is asked, asks the systems, and says which slots their texts tell."""

    def __init__(self, systems: Systems, task: Task, n_alternatives: int):
        self.systems, self.task, self.rules = systems, task, systems.generator.rules
        longest = systems.generator.model.config.n_positions - 1
        self.settings = {
            "beam": Setting(self.rules.beam, 1, max(MOST_BEAMS, self.rules.beam)),
            "length_penalty": Setting(self.rules.length_penalty, -PENALTY, PENALTY),
            "alternatives": Setting(n_alternatives, 0, max(MOST_ALTERNATIVES, n_alternatives)),
            "eval_len": Setting(self.rules.eval_len, 1, max(longest, self.rules.eval_len)),
        }

    def about(self) -> dict[str, object]:
        """Return what the page needs to know before anything is asked."""
        return {
            "input_name": self.task.input_name,
            "example": self.task.example,
            "systems": list(self.systems.adapters),
            "settings": {name: vars(setting) for name, setting in self.settings.items()},
            "has_slots": self.task.told is not None,
        }

    def answer(self, asked: Any) -> dict[str, object]:
        """Return the texts of every system for {"input": text}, which may have settings as well. Raises UserError."""
        if not isinstance(asked, dict) or not isinstance(asked.get("input"), str):
            raise UserError('expected a JSON object with the input, a string, under "input"')
        unknown = next((name for name in asked if name != "input" and name not in self.settings), None)
        if unknown is not None:
            raise UserError(f"{unknown[:40]!r} is no setting; expected any of {', '.join(self.settings)}")
        text = one_line(asked["input"]).strip()
        if not text:
            raise UserError(f"the {self.task.input_name} is empty; type one, such as {self.task.example}")
        chosen = {name: of.read(name, asked.get(name, of.default)) for name, of in self.settings.items()}
        n = int(chosen.pop("alternatives")) + 1
        rules = replace(self.rules, **cast(dict[str, Any], chosen))
        found = self.systems.answers(text, f"this {self.task.input_name}", n, rules)
        shown = [{"name": name, "texts": [self._shown(text, one) for one in few]} for name, few in found.items()]
        return {"input": text, "systems": shown}

    def _shown(self, text: str, answer: Answer) -> dict[str, object]:
        told = self.task.told(text, answer.text) if self.task.told else None
        return {"text": answer.text, "score": answer.score, "told": told}
