"""Which validation is the best one so far, and whether it is time to stop."""

import math
from dataclasses import dataclass

IN_WORDS = {"loss": "validation loss", "bleu": "BLEU"}  # what --select decides by


@dataclass
class Best:
    """The best validation so far by `select`, one of config.SELECTS, and how many have come since."""

    select: str = "loss"
    value: float | None = None  # None: there was none
    since: int = 0

    def take(self, value: float) -> bool:
        """Count a validation; return whether it is the best. One that is as good is not, nor is one that is no number."""
        if is_better := self._is_better(value):
            self.value, self.since = value, 0
        else:
            self.since += 1
        return is_better

    def _is_better(self, value: float) -> bool:
        if self.value is None or math.isnan(self.value):
            return self.value is None or not math.isnan(value)
        return value < self.value if self.select == "loss" else value > self.value
