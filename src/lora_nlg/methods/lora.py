"""LoRA on GPT-2: W stays as it is, ΔW = scale · B A of rank R is learnt (Hu et al. 2021, section 4.1).

Alphabet: C width, R rank, ΣR the ranks of all targets in one module together, N rows (B · T, or as many tokens as are packed).
"""

import math
from collections.abc import Iterator, Mapping

import loralib
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_nlg.config import ATTENTION_TARGETS, MODULES, LoraConfig
from lora_nlg.model.gpt2 import GPT2, Conv1D, Embedding


class Adapters:
    """What an adapted module has beside its frozen weights: an A and a B for each of its targets.

    lora_A (ΣR, in) holds R rows a target, in the order of the module's outputs. lora_B depends on the ranks of the targets:
        all the same: (n · out, R) for n targets, as loralib packs them, so files can be exchanged
        different:    (out, ΣR), R columns a target
    For gpt2.md with query and value at R = 4, c_attn has (8, 1024) and (2048, 4): 16 384 parameters a layer, 393 216 in 24.
    """

    def adapt(self, n_in: int, n_out: int, config: LoraConfig, targets: tuple[str, ...]) -> None:
        """Make room for the adapters of `targets`, whose matrices are (n_in, n_out) each."""
        self.config, self.targets = config, targets
        self.ranks = [config.rank_of(target) for target in targets]
        shape = (len(targets) * n_out, self.ranks[0]) if len(set(self.ranks)) == 1 else (n_out, sum(self.ranks))
        self.lora_A = nn.Parameter(self.weight.new_empty(sum(self.ranks), n_in))
        self.lora_B = nn.Parameter(self.weight.new_empty(shape))

    @torch.no_grad()
    def start(self, generator: torch.Generator | None) -> None:
        """Draw A, and set B to zero unless the configuration draws it, too."""
        std_A, std_B = self.config.init_std
        if std_A is None:
            bound = math.sqrt(6 / ((1 + 5) * self.lora_A.shape[1]))  # Kaiming-uniform: √(6 / ((1 + a²) fan_in)), a = √5
            self.lora_A.uniform_(-bound, bound, generator=generator)
        else:
            self.lora_A.normal_(0, std_A, generator=generator)
        if std_B:
            self.lora_B.normal_(0, std_B, generator=generator)
        else:
            self.lora_B.zero_()

    def up(self) -> Tensor:
        """Return scale · B (all outputs, ΣR): one matrix, zero where a target's outputs would meet another's A.

        Multiplying by the zeros costs less than putting the targets' own products together, as long as ΣR is far below C.
        """
        return widened(self.lora_B, self.targets, self.ranks, [self.config.scale_of(target) for target in self.targets])

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        """Add ΔW x to y (N, all outputs) in place, x (N, in). The product is taken right to left and never forms ΔW."""
        dropout = self.config.dropout if self.training else 0.0
        if dropout:  # torch's own takes twice as long to draw, and scales x in place of the small product
            x = x * (torch.rand(x.shape, device=x.device) >= dropout)
        down = F.linear(x, self.lora_A) * (1 / (1 - dropout))  # (N, ΣR)
        return y.addmm_(down, self.up().T.to(y.dtype))  # to: autocast leaves calls in place alone


def widened(B: Tensor, targets: tuple[str, ...], ranks: list[int], scales: list[float]) -> Tensor:
    """Return a module's packed B, see `Adapters`, as one matrix (all outputs, ΣR), each target's part times its scale."""
    is_attention = targets[0] in ATTENTION_TARGETS
    parts = B.chunk(len(targets)) if len(set(ranks)) == 1 else B.split(ranks, dim=1)  # (out, R) each
    n_out = parts[0].shape[0]
    wide = B.new_zeros(n_out * (len(ATTENTION_TARGETS) if is_attention else 1), sum(ranks))
    column = 0
    for target, part, R, scale in zip(targets, parts, ranks, scales, strict=True):
        row = n_out * ATTENTION_TARGETS.index(target) if is_attention else 0
        wide[row : row + n_out, column : column + R] = part * scale
        column += R
    return wide


class LoraConv1D(Adapters, Conv1D):
    """A frozen Conv1D with adapters."""

    def __init__(self, base: Conv1D, config: LoraConfig, targets: tuple[str, ...]):
        super().__init__(*base.weight.shape)
        self.weight, self.bias = base.weight, base.bias
        n_in, n_out = base.weight.shape
        self.adapt(n_in, n_out // len(ATTENTION_TARGETS) if targets[0] in ATTENTION_TARGETS else n_out, config, targets)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        rows = x.reshape(-1, x.shape[-1])  # (N, in): a fresh matrix comes out, to which ΔW x can be added in place
        return self.add_to(super().forward(rows), rows).view(*x.shape[:-1], self.weight.shape[1])

    def delta_weight(self) -> Tensor:
        """Return ΔW (in, out)."""
        return (self.up() @ self.lora_A).T

    def merged(self) -> Conv1D:
        """Return a plain Conv1D with W + ΔW."""
        plain = Conv1D(*self.weight.shape)
        plain.weight = nn.Parameter(self.weight + self.delta_weight(), requires_grad=False)
        plain.bias = self.bias
        return plain


class LoraEmbedding(Adapters, Embedding):
    """A frozen embedding with adapters, seen from the output layer: A (R, C) takes the hidden state down, B (V, R) up to the tokens.

    A token's vector is its row of W + scale · B A, and the output layer's weights are the same matrix, as in GPT-2.
    """

    def __init__(self, base: Embedding, config: LoraConfig, targets: tuple[str, ...]):
        super().__init__(*base.weight.shape)
        self.weight = base.weight
        V, C = base.weight.shape
        self.adapt(C, V, config, targets)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (...) to (..., C)."""
        rows = F.embedding(ids, self.lora_B)  # (..., R)
        return super().forward(ids) + F.linear(rows, self.lora_A.T * self.config.scale_of("wte"))

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states (..., C) to (..., V)."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        return self.add_to(super().logits(rows), rows).view(*hidden.shape[:-1], self.weight.shape[0])

    def delta_weight(self) -> Tensor:
        """Return ΔW (V, C)."""
        return self.up() @ self.lora_A

    def merged(self) -> Embedding:
        """Return a plain Embedding with W + ΔW."""
        plain = Embedding(*self.weight.shape)
        plain.weight = nn.Parameter(self.weight + self.delta_weight(), requires_grad=False)
        return plain


def places(model: GPT2) -> Iterator[tuple[int | None, str, nn.Module, str]]:
    """Yield all that can be adapted: its layer (None: the embedding), its name in MODULES, and the owner and attribute it is at."""
    for layer, block in enumerate(model.h):
        for name in MODULES:
            if name != "wte":
                owner, attribute = name.split(".")
                yield layer, name, getattr(block, owner), attribute
    yield None, "wte", model, "wte"


def add_adapters(model: GPT2, config: LoraConfig, generator: torch.Generator | None = None) -> None:
    """Put adapters where `config` says, with their random start, and freeze everything else."""
    for adapted in _attach(model, config):
        adapted.start(generator)


def _attach(model: GPT2, config: LoraConfig) -> list[Adapters]:
    """Put adapters that are not set where `config` says, return them, and freeze everything else."""
    attached = []
    for layer, name, owner, attribute in places(model):
        targets = tuple(target for target in MODULES[name] if target in config.targets)
        if targets and (layer is None or config.layers is None or layer in config.layers):
            base = getattr(owner, attribute)
            adapted = (LoraEmbedding if isinstance(base, Embedding) else LoraConv1D)(base, config, targets)
            setattr(owner, attribute, adapted.train(base.training))  # a model that decodes does not drop out
            attached.append(adapted)
    loralib.mark_only_lora_as_trainable(model)
    return attached


@torch.no_grad()
def merge_adapters(model: GPT2) -> None:
    """Replace every adapted module by a plain one with W + ΔW: the same function at the base model's cost."""
    for _, _, owner, attribute in places(model):
        module = getattr(owner, attribute)
        if isinstance(module, Adapters):
            setattr(owner, attribute, module.merged())


def adapter_tensors(model: GPT2) -> dict[str, Tensor]:
    """Return the adapters' tensors by name (`h.0.attn.c_attn.lora_A`, …)."""
    return loralib.lora_state_dict(model)


def adapter_config(model: GPT2) -> LoraConfig | None:
    """Return the configuration of the model's adapters, None if it has none."""
    return next((module.config for module in model.modules() if isinstance(module, Adapters)), None)


class Switch:
    """Several adapters on one loaded base, one at a time at work.

    The base's own modules are kept and never written to, so taking adapters off gives back its weights bit for bit.
    """

    def __init__(self, model: GPT2):
        """Take a model without adapters."""
        self.model = model
        self.base = [(owner, attribute, getattr(owner, attribute)) for _, _, owner, attribute in places(model)]

    def take_off(self) -> None:
        """Leave the base alone, frozen."""
        for owner, attribute, module in self.base:
            setattr(owner, attribute, module)

    @torch.no_grad()
    def put_on(self, config: LoraConfig, tensors: Mapping[str, Tensor], merge: bool = False) -> None:
        """Put adapters in place of those that are on: `tensors` under the names of `adapter_tensors`, of its shapes.

        Merged, the model costs what the base costs; not merged, putting on is a matter of the adapters' size alone.
        """
        self.take_off()
        _attach(self.model, config)
        for name, parameter in adapter_tensors(self.model).items():
            parameter.copy_(tensors[name])
        if merge:
            merge_adapters(self.model)
