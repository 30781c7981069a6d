"""What training a part of a model costs."""

from dataclasses import dataclass

from lora_nlg import methods
from lora_nlg.model.gpt2 import GPT2


@dataclass(frozen=True)
class Cost:
    """What training a part of a model takes."""

    total: int  # parameters
    trained: int
    saved: int  # what a file of it holds: the trained ones and, of PiSSA, what they started as
    number_size: int  # bytes

    @property
    def share(self) -> float:
        """The trained part of all parameters, from 0 to 1."""
        return self.trained / self.total

    @property
    def bytes_on_disk(self) -> int:
        """The size of the numbers in a file of what is trained; the file adds a few kB of names."""
        return self.saved * self.number_size

    @property
    def optimizer_bytes(self) -> int:
        """The memory of Adam's two averages."""
        return 2 * self.trained * self.number_size

    def recorded(self) -> dict[str, float]:
        """Return what run.json says of it."""
        return {
            "trained_parameters": self.trained,
            "share_of_model": self.share,
            "bytes_on_disk": self.bytes_on_disk,
            "optimizer_bytes": self.optimizer_bytes,
        }


def cost_of(model: GPT2) -> Cost:
    """Return what training `model` takes, on which a method was put."""
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    saved = sum(tensor.numel() for tensor in methods.adapter_tensors(model).values())
    return Cost(sum(p.numel() for p in parameters), trained, saved, parameters[0].element_size())
