"""Training: the loop, and all that it takes to go on with it."""

import itertools
import math
import signal
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from lora_nlg import dist
from lora_nlg.config import OptimConfig, TrainConfig
from lora_nlg.data.examples import Batch, Example, ItemOrder, collate, make_rows, prefetch, row_length
from lora_nlg.errors import Stopped, UserError
from lora_nlg.model.gpt2 import GPT2
from lora_nlg.signals import requests
from lora_nlg.training.curve import Curve
from lora_nlg.training.log import Log
from lora_nlg.training.losses import masked_loss
from lora_nlg.training.optim import AdamW, build_optimizer, learning_rate
from lora_nlg.training.saves import Saves

SIGNAL_INTERVAL = 10  # micro-batches between two looks at whether another rank's GPU reports a signal
STATIC_MULTIPLE = 32  # tokens: in epoch 1 E2E's batches of 8 come in three shapes, 96 (4 305 times), 64 (935), 128 (18)


class Split:
    """One encoded file as the batches of this rank."""

    def __init__(self, examples: list[Example], config: TrainConfig, ranks: dist.Ranks, validation: bool = False):
        self.config, self.device, self.validation = config, ranks.device, validation
        self.rows = make_rows(examples, config.share_prompts and not validation)
        # Kept for parity: validation is on the completion, also when training is on the context as well.
        self.objective = "clm" if validation else config.objective
        batch_size = config.valid_batch_size if validation else config.train_batch_size
        lengths = None
        if config.length_window and not validation:
            lengths = [row_length(row, config.seq_len) for row in self.rows]
        self.order = ItemOrder(
            len(self.rows), batch_size, config.random_seed, ranks.world_size, ranks.rank, not validation, lengths,
            config.length_window,
        )  # fmt: skip

    def stream(self, skip: int = 0) -> Iterator[tuple[int, int, list[int], Batch]]:
        """Yield (epoch, number of the batch in it, its items, batch), counted from 1, for max_epoch epochs or without end.

        The first `skip` batches are drawn, so that later ones come out the same, but not made.
        """
        epochs = itertools.count(1) if self.config.max_epoch is None else range(1, self.config.max_epoch + 1)
        numbered = ((epoch, *pair) for epoch in epochs for pair in enumerate(self.order.epoch(epoch), 1))
        for epoch, in_epoch, items in itertools.islice(numbered, skip, None):
            yield epoch, in_epoch, items, self.batch(items)

    def batch(self, items: list[int]) -> Batch:
        """Return the rows `items` as one batch on this rank's device."""
        batch = collate([self.rows[i] for i in items], self.config.seq_len, self.objective)
        if self.config.compile and not self.validation:
            batch = batch.fill_up(STATIC_MULTIPLE)
        return batch.to(self.device)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of `epoch`."""
        return map(self.batch, self.order.epoch(epoch))


@torch.no_grad()
def validation_loss(model: GPT2, valid: Split, ranks: dist.Ranks) -> float:
    """Return the mean over batches, and over ranks, of the unsmoothed batch losses."""
    model.eval()
    losses = []
    batches = valid.batches(epoch=0)
    total = -(-valid.order.n_batches // ranks.world_size)
    for batch in tqdm(batches, "validating", total, unit="batch", leave=False, disable=None if ranks.is_main else True):
        with dist.autocast(ranks.device, valid.config.precision):
            losses.append(masked_loss(model, batch))
    model.train()
    return dist.mean_over_ranks(torch.stack(losses).mean(), ranks.world_size).item()


def train(
    model: GPT2,
    train_split: Split,
    valid: Split,
    optim: OptimConfig,
    saves: Saves,
    ranks: dist.Ranks,
    curve: Curve | None = None,
    state: dict | None = None,
    tensorboard: bool = False,
) -> float:
    """Train `model` for `optim.max_step` micro-batches and return the validation loss at the end.

    Writes what `saves` and `log` describe, and TensorBoard's files if wanted. With `state`, of `Saves.load`, it goes on where
    that was saved; on a CPU every number is then the same as without the interruption. Raises Stopped after a signal, and
    UserError at a loss that is no number, unless `skip_nan` leaves that batch out.
    """
    config, is_cpu = train_split.config, ranks.device.type == "cpu"
    optimizer = build_optimizer(model, optim)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    scaler = torch.amp.GradScaler(ranks.device.type, enabled=config.precision == "fp16")
    done, saved_step, valid_step, valid_loss = 0, None, None, math.nan
    if state is not None:
        done = saved_step = state["step"]
        valid_step, valid_loss = state["valid_step"], state["valid_loss"]
        _restore(state, model, optimizer, scaler, trained, ranks)
    log = Log(saves.work_dir, optim.max_step, ranks.is_main, curve, state and state["log"], done, tensorboard)
    step = done
    items_of: list[tuple[int, list[int]]] = []  # step and items of the losses that were not looked at yet

    def look_at_losses() -> None:
        """Raise UserError if a loss is no number. A GPU would have to be waited for, so there it is done now and then."""
        fetched = torch.stack(log.losses[-len(items_of) :]).tolist() if items_of else []
        for (at, items), loss in zip(items_of, fetched, strict=True):
            if not math.isfinite(loss):
                whole = f"the save of step {saves.last_step} is whole; " if saves.last_step else ""
                raise UserError(
                    f"the loss of step {at} is {loss}, on the items {', '.join(map(str, items))} (counted from 0); {whole}"
                    "go on with --resume and --skip_nan, which leaves such batches out, or start anew with a lower --lr or with --clip"
                )
        items_of.clear()

    def validate() -> None:
        nonlocal valid_step, valid_loss
        with log.paused():
            started = time.perf_counter()
            valid_step, valid_loss = step, validation_loss(model, valid, ranks)
            log.validation(step, valid_loss, time.perf_counter() - started)
            if ranks.is_main:
                saves.add_best(model, step, valid_loss)

    def save() -> None:
        nonlocal saved_step
        look_at_losses()
        if not _are_finite(trained):
            raise UserError(
                f"the weights after step {step} are no numbers and are not saved; use a lower --lr or --clip"
            )
        with log.paused():
            of_ranks = dist.gather_to_main(_of_this_rank(trained, ranks), ranks)
            if ranks.is_main:
                shared = dict(step=step, valid_step=valid_step, valid_loss=valid_loss, log=log.state())
                shared |= dict(optimizer=optimizer.state_dict(), scaler=scaler.state_dict(), ranks=of_ranks)
                saves.add(model, step, shared)
        saved_step = step

    def update(lr: float, items: list[int]) -> Tensor | None:
        """Take one step of the optimiser; return how many ranks were asked to stop, as `average_gradients` does."""
        flags = dist.average_gradients(trained, ranks.world_size, request.number is not None)
        scaler.unscale_(optimizer)
        if optim.clip > 0:
            torch.nn.utils.clip_grad_norm_(trained, optim.clip)
        for group in optimizer.param_groups:
            group["lr"] = lr
        if config.skip_nan and not scaler.is_enabled() and not _are_finite(p.grad for p in trained):
            log.skipped(step, items, "a gradient is no number")
        else:
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad()
        return flags

    model.train()
    loss_of = compiled(masked_loss) if config.compile else masked_loss
    flags, asked = None, False
    with requests() as request:
        steps = range(done + 1, optim.max_step + 1)
        batches = prefetch(train_split.stream(skip=done))
        for step, (epoch, in_epoch, items, batch) in zip(steps, batches, strict=False):
            lr = learning_rate(optim, step - 1)
            with dist.autocast(ranks.device, config.precision):
                loss = loss_of(model, batch, config.label_smooth)
            if config.skip_nan and not torch.isfinite(loss):
                log.skipped(step, items, f"the loss is {loss.item()}")
            else:
                log.add(loss.detach().clone(), batch.n_tokens)  # a CUDA graph's own result is gone at its next step
                items_of.append((step, items))
                if is_cpu:
                    look_at_losses()
                scaler.scale(loss / optim.grad_acc).backward()
            if ranks.world_size == 1:
                asked = request.number is not None
            elif is_cpu or step % SIGNAL_INTERVAL == 0:  # to look at a GPU's number is to wait for it
                asked = flags is not None and flags.item() > 0
            if step % optim.grad_acc == 0:
                flags = update(lr, items)

            if step % config.log_interval == 0:
                look_at_losses()
                log.interval(epoch, step, in_epoch, lr, learning_rate(optim, step))
            if step % config.eval_interval == 0:
                validate()
            stopping = asked and step % optim.grad_acc == 0
            if step % config.save_interval == 0 or stopping:
                save()
            if stopping:
                log.close()
                how = f"stopped and saved at step {step}; the same command with --resume goes on"
                raise Stopped(request.number or signal.SIGTERM, how if ranks.is_main else "")
    if saved_step != step:
        save()
    if valid_step != step:
        validate()
    if ranks.is_main:
        saves.finish(model, step)
    log.close()
    return valid_loss


def compiled(loss_of: Callable) -> Callable:
    """Return `loss_of` compiled for every shape that comes; on a GPU as CUDA graphs, which a small batch would else wait for."""
    torch._dynamo.config.recompile_limit = 64  # the shapes of `Batch.fill_up` are few, but more than torch's 8
    program = torch.compile(loss_of, dynamic=False, mode="reduce-overhead")

    def loss(*inputs) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return program(*inputs)

    return loss


def _are_finite(tensors) -> bool:
    return all(torch.isfinite(tensor).all() for tensor in tensors if tensor is not None)


def _of_this_rank(trained: list[torch.nn.Parameter], ranks: dist.Ranks) -> dict:
    """Return what a save must hold of every rank: its random state and, between two updates, what it has accumulated."""
    return {
        "cpu_rng": torch.get_rng_state(),
        "gpu_rng": torch.cuda.get_rng_state(ranks.device) if ranks.device.type == "cuda" else None,
        "grads": [None if p.grad is None else p.grad.cpu() for p in trained],
    }


def _restore(
    state: dict,
    model: GPT2,
    optimizer: AdamW,
    scaler: torch.amp.GradScaler,
    trained: list[torch.nn.Parameter],
    ranks: dist.Ranks,
) -> None:
    """Undo a save: weights, optimiser, scaler, and this rank's share."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in state["model"].items():
            parameters[name].copy_(tensor)
    optimizer.load_state_dict(state["optimizer"])
    scaler.load_state_dict(state["scaler"])
    own = state["ranks"][ranks.rank]
    torch.set_rng_state(own["cpu_rng"])
    if own["gpu_rng"] is not None and ranks.device.type == "cuda":
        torch.cuda.set_rng_state(own["gpu_rng"], ranks.device)
    for parameter, grad in zip(trained, own["grads"], strict=True):
        parameter.grad = None if grad is None else grad.to(parameter.device)
