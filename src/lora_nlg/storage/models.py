"""Models filled from checkpoints: a base, adapters put on it, both merged.

A tensor that is missing, left over or of another shape is an error that names it: no model is ever filled up silently.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lora_nlg import dist, methods
from lora_nlg.config import ModelConfig, check_said
from lora_nlg.errors import UserError
from lora_nlg.methods import pissa
from lora_nlg.methods.placement import Given
from lora_nlg.methods.places import places
from lora_nlg.methods.switch import Switch
from lora_nlg.model.gpt2 import GPT2, empty_model, init_weights
from lora_nlg.storage.checkpoints import AS_THE_FILE_SAYS, BASE_FILES, Checkpoint, read


def base_model(
    config: ModelConfig,
    source: str | None,
    generator: torch.Generator,
    precision: str = "fp32",
    adapters: Checkpoint | None = None,
) -> GPT2:
    """Return a GPT-2 without adapters, filled from `source`: a file, a folder, or the word random for a random start.

    Without a `source` the base comes out of `adapters`, if that is a whole checkpoint.
    """
    try:
        model = empty_model(config, torch.float64 if precision == "fp64" else torch.float32)
    except (RuntimeError, TypeError, OverflowError) as error:  # of sizes that no memory has, or that no tensor can have
        raise UserError(f"a model of {config} does not fit into memory; check --model_card") from error
    if source == "random":
        init_weights(model, generator)
        return model
    base = _base_of(adapters) if source is None else read(source)
    if source is not None and base.method != methods.PLAIN:
        rest = "leave --init_checkpoint out" if base.base_tensors() else "pass the base as --init_checkpoint"
        raise UserError(f"{base.path} holds {methods.called(base.method)}; pass it as --lora_checkpoint, and {rest}")
    settings = base.path.with_name("config.json")
    if base.path.name in BASE_FILES and settings.exists():
        check_said(settings, config)
    _fill(model, base.base_tensors(), base.path, wanted=dict(model.named_parameters()))
    if precision in dist.AUTOCAST:
        for name, parameter in model.named_parameters():
            _check_range(parameter, parameter, f"{base.path}: {name}", precision)
    return model


def _base_of(adapters: Checkpoint | None) -> Checkpoint:
    """Return the checkpoint that a base is in if no other is given: the adapters' own, if that is a whole one."""
    if adapters is None:
        needs = "pass GPT-2's weights"
    elif adapters.base_tensors():
        return adapters
    else:
        needs = f"{adapters.path} holds adapters only; pass the base they were trained on"
    raise UserError(f"--init_checkpoint is missing: {needs}, or the word random for a random start")


def put_adapters(
    model: GPT2,
    adapters: Checkpoint,
    given: Given = AS_THE_FILE_SAYS,
    weights: str | None = None,
    precision: str = "fp32",
) -> methods.Config:
    """Put adapters from a file on a plain model, on the CPU, and return their configuration, checked against the flags.

    `weights` is the model's fingerprint, for a caller that has it. Raises UserError for adapters that do not fit, of another base,
    or that are out of the range of `precision` once they are merged.
    """
    config = adapters.adapter_config(given)
    if adapters.base and weights is None:
        weights = fingerprint(model)  # now: some methods put copies of its weights into its place
    methods.attach(model, config)
    load_adapters(model, adapters, weights, precision)
    return config


def merged_model(
    config: ModelConfig,
    source: str | None,
    adapters_path: str | Path | None,
    given: Given = AS_THE_FILE_SAYS,
    precision: str = "fp32",
) -> GPT2:
    """Return a GPT-2 for decoding, on the CPU: a base, with the adapters of a file merged into it if one is given.

    What cannot be merged, such as a prefix, is left on it: `trained_by` says so.
    """
    adapters = read(adapters_path) if adapters_path else None
    model = base_model(config, source, torch.Generator().manual_seed(0), precision, adapters)
    if adapters:
        put_adapters(model, adapters, given, precision=precision)
        methods.merge_adapters(model)
    return model


def tried(
    model: GPT2, several: Sequence[Checkpoint], given: Given, weights: str, precision: str
) -> tuple[Switch, list[tuple[methods.Config, dict[str, Tensor]]]]:
    """Return a switch for a plain model, and of each adapters what it puts on: all were on once, before any of the work.

    `weights` is the model's fingerprint. Raises UserError as `put_adapters` does.
    """
    switch, on = Switch(model), []
    for adapters in several:
        config = put_adapters(model, adapters, given, weights, precision)
        on.append((config, {name: tensor.detach().clone() for name, tensor in methods.adapter_tensors(model).items()}))
        switch.take_off()
    return switch, on


def fingerprint(model: GPT2) -> str:
    """Return the sha256 of the base's weights, adapters left out: the same whatever file they came from. On the CPU."""
    return digest(methods.of_base(dict(model.named_parameters())))


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of tensors on the CPU, as float32."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"{name} {tuple(tensor.shape)}\n".encode())
        sha256.update(tensor.detach().float().contiguous().numpy().data)
    return sha256.hexdigest()


def load_adapters(model: GPT2, adapters: Checkpoint, weights: str | None = None, precision: str = "fp32") -> None:
    """Fill the adapters of `model`, on the CPU, from an adapter file or a whole checkpoint; raise UserError on another base's.

    `weights` is the fingerprint of the model without them, for a caller that has it: of GPT-2 Medium it takes seconds.
    """
    wanted, tensors = methods.adapter_tensors(model), adapters.adapters()
    if adapters.is_peft and model.trained_by.method == "pissa":
        computed = pissa.start_of_whole_modules(model)
        wanted = {name: tensor for name, tensor in wanted.items() if name not in computed}
    _fill(model, tensors, adapters.path, wanted)
    _check_named(model, adapters)
    if adapters.base and (given := weights or fingerprint(model)) != adapters.base.sha256:
        raise UserError(
            f"{adapters.path} was trained on another base ({adapters.base.card}, weights {adapters.base.sha256[:12]}…) than the one "
            f"given (weights {given[:12]}…); pass that base as --init_checkpoint"
        )
    parameters = dict(model.named_parameters())
    other = [
        name
        for name, t in adapters.base_tensors().items()
        if name not in parameters or not torch.equal(parameters[name], t.to(parameters[name]))
    ]
    if other:
        raise UserError(
            f"{adapters.path} is a whole checkpoint with another base than the one given ({other[0]} differs); leave "
            "--init_checkpoint out"
        )
    for name, module in model.named_modules():
        if hasattr(module, "merged"):  # such as LoRA's, whose ΔW can be out of range where A, B and W are not
            merged = dict(module.merged().named_parameters())
            for part, made in merged.items():
                _check_range(getattr(module, part), made, f"{adapters.path}, merged into {name}", precision)


def _check_named(model: GPT2, adapters: Checkpoint) -> None:
    """Raise UserError where PEFT's settings name a layer of `model` of which the file holds nothing."""
    if adapters.is_named is None:
        return
    held = {tuple(name.split(".")[:2]) for name in adapters.tensors}
    for layer, name, _, _ in places(model):
        module = f"h.{layer}.{name}"
        if layer is not None and ("h", str(layer)) not in held and adapters.is_named(module):
            raise UserError(
                f"{adapters.path} holds no adapters of {module}, which its adapter_config.json names; save it again"
            )


def _check_range(given: Tensor, made: Tensor, where: str, precision: str) -> None:
    """Raise UserError when numbers become none in `made`, which is made of the weights `given`, as `precision` computes with it."""
    computed = made.detach().to(dist.AUTOCAST.get(precision, made.dtype))
    if (torch.isfinite(given) & ~torch.isfinite(computed)).any():
        exact = computed.dtype == made.dtype
        largest = "" if exact else f" of up to {made.detach().abs().max():g}"
        remedy = "" if exact else ", or pass --precision fp32 or fp64"
        raise UserError(f"{where} has values{largest} that are no numbers in {computed.dtype}; check the file{remedy}")


@torch.no_grad()
def _fill(model: GPT2, tensors: dict[str, Tensor], path: str | Path, wanted: dict[str, Tensor]) -> None:
    complaints = [f"{name} is not a part of this model" for name in tensors if name not in wanted]
    complaints += [f"{name} is missing" for name in wanted if name not in tensors]
    complaints += [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(parameter.shape)}"
        for name, parameter in wanted.items()
        if name in tensors and tensors[name].shape != parameter.shape
    ]
    fitting = [name for name in wanted if name in tensors and tensors[name].shape == wanted[name].shape]
    complaints += [
        f"{name} is {tensors[name].dtype}, not floating point"
        for name in fitting
        if not tensors[name].is_floating_point()
    ]
    complaints += [
        f"{name} has values that are no numbers in {wanted[name].dtype}"
        for name in fitting
        if not torch.isfinite(tensors[name].to(wanted[name].dtype)).all()
    ]
    if complaints:
        more = f"; and {len(complaints) - 8} more" if len(complaints) > 8 else ""
        raise UserError(
            f"{path} does not fit the model (check --model_card and --lora_dim): {'; '.join(complaints[:8])}{more}"
        )
    parameters = dict(model.named_parameters())
    for name in wanted:
        parameters[name].copy_(tensors[name])
