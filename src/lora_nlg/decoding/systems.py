"""One base with each of several adapters in turn, so that their texts for an input stand beside each other."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from lora_nlg.config import BeamConfig
from lora_nlg.decoding.generate import Answer, Generator
from lora_nlg.methods import Config
from lora_nlg.methods.switch import Switch


@dataclass
class Systems:
    """What can be asked, by name. Not for several threads at a time: they share the base."""

    generator: Generator
    switch: Switch  # of the generator's model
    adapters: Mapping[str, tuple[Config, Mapping[str, Tensor]] | None]  # None: the base alone
    at_work: str | None = None

    def answers(self, text: str, where: str, n: int, rules: BeamConfig) -> dict[str, list[Answer]]:
        """Return what `Generator.answers` gives with each of the adapters, all by the same rules."""
        asked = replace(self.generator, rules=rules)
        found = {}
        for name in self.adapters:
            self._put_on(name)
            found[name] = asked.answers(text, where, n)
        return found

    def _put_on(self, name: str) -> None:
        if name == self.at_work:
            return
        self.at_work, adapters = None, self.adapters[name]
        if adapters is None:
            self.switch.take_off()
        else:
            self.switch.put_on(*adapters, merge=True)
        self.generator.model.eval()
        self.at_work = name
