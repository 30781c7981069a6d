"""Several adapters on one loaded base, one at a time at work."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lora_nlg import methods
from lora_nlg.model.gpt2 import GPT2


class Switch:
    """Puts adapters on a base and takes them off.

    The base's own modules are kept and never written to, so taking adapters off gives back its weights bit for bit.
    """

    def __init__(self, model: GPT2):
        """Take a model without adapters."""
        self.model = model
        # None, too, where there may be something later, such as a prefix
        self.base = [(owner, name, child) for owner in model.modules() for name, child in owner._modules.items()]

    def take_off(self) -> None:
        """Leave the base alone, frozen."""
        for owner, name, child in self.base:
            setattr(owner, name, child)
        self.model.trained_by = None

    @torch.no_grad()
    def put_on(self, config: methods.Config, tensors: Mapping[str, Tensor], merge: bool = False) -> None:
        """Put adapters in place of those that are on: `tensors` under the names of `adapter_tensors`, of its shapes.

        Merged, the model costs what the base costs; not merged, putting on is a matter of the adapters' size alone.
        """
        self.take_off()
        methods.attach(self.model, config)
        for name, parameter in methods.adapter_tensors(self.model).items():
            parameter.copy_(tensors[name])
        if merge:
            methods.merge_adapters(self.model)
