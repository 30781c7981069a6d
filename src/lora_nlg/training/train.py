"""Training: the loop, and all that it takes to resume it."""

import math
import signal
import time
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from lora_nlg import dist
from lora_nlg.config import NEEDS_TEXTS, FactorConfig, OptimConfig, flat
from lora_nlg.data.batches import Split, prefetch
from lora_nlg.errors import Stopped, UserError
from lora_nlg.model import forms
from lora_nlg.model.gpt2 import GPT2
from lora_nlg.signals import Request, requests
from lora_nlg.training.best import Best
from lora_nlg.training.curve import Curve
from lora_nlg.training.log import Log, Sample, Skipped
from lora_nlg.training.losses import masked_loss
from lora_nlg.training.optim import build_optimizer, learning_rate, precondition
from lora_nlg.training.saves import Saves

# As torch and Triton say it
NO_COMPILER = ("InvalidCxxCompiler", "No working C++ compiler", "Failed to find C compiler")
SIGNAL_INTERVAL = 10  # micro-batches between two looks at whether another rank's GPU reports a signal


def train(
    model: GPT2,
    train_split: Split,
    valid: Split,
    optim: OptimConfig,
    saves: Saves,
    ranks: dist.Ranks,
    curve: Curve | None = None,
    state: dict | None = None,
    trackers: Sequence[str] = (),
    factors: FactorConfig = FactorConfig(),  # noqa: B008  (frozen)
    sample_of: Callable[[GPT2], Sample] | None = None,
) -> float:
    """Train `model` for `optim.max_step` micro-batches and return the validation loss at the end.

    Writes what `saves` and `log` describe, and sends the curves to `trackers`, of config.TRACKERS. `sample_of` decodes validation
    inputs, on the main rank alone; it comes from above, for training knows no decoding. With `state`, of `Saves.load`, it resumes
    where that was saved; on a CPU every number is then the same as without the interruption. Raises Stopped after a signal, and
    UserError at a loss that is no number, unless `skip_nan` leaves that batch out.
    """
    config, done = train_split.config, state["step"] if state else 0
    if config.select == "bleu" and sample_of is None:
        raise UserError(NEEDS_TEXTS)
    loss_of = compiled(masked_loss) if config.compile else masked_loss
    model.train()
    with requests() as request:
        log = Log(saves.work_dir, optim.max_step, ranks.is_main, curve, state and state["log"], done)
        dist.on_main(lambda: log.track(trackers, flat(saves.listed["settings"])), ranks)
        run = Run(model, valid, optim, saves, log, ranks, request, state, factors, sample_of)
        steps, batches = range(done + 1, optim.max_step + 1), prefetch(train_split.stream(skip=done))
        for step, (epoch, in_epoch, items, batch) in zip(steps, batches, strict=False):
            if run.is_asked_to_end():  # here, so that a run that is resumed at its end takes no step more
                break
            run.step = step
            lr = learning_rate(optim, step - 1)
            with dist.autocast(ranks.device, config.precision):
                loss = loss_of(model, batch, config.label_smooth)
            if run.counts(loss, items, batch.n_tokens):
                run.scaler.scale(loss / optim.grad_acc).backward()
            stopping = run.is_asked_to_stop()
            if step % optim.grad_acc == 0:
                run.update(lr, items)

            if step % config.log_interval == 0:
                run.look_at_losses()
                run.report_skipped()
                log.interval(epoch, step, in_epoch, lr, learning_rate(optim, step))
            if step % config.eval_interval == 0:
                run.validate()
            ends_epoch = in_epoch == train_split.batches_an_epoch  # Kept for parity: the recipe saves there as well
            if step % config.save_interval == 0 or ends_epoch or stopping:
                run.save(ends_epoch)
            if stopping:
                run.stop()
    return run.finish()


class Run:
    """What a training run carries from step to step, and what it does now and then."""

    def __init__(
        self,
        model: GPT2,
        valid: Split,
        optim: OptimConfig,
        saves: Saves,
        log: Log,
        ranks: dist.Ranks,
        request: Request,
        state: dict | None,
        factors: FactorConfig,
        sample_of: Callable[[GPT2], Sample] | None,
    ):
        self.model, self.valid, self.optim, self.factors = model, valid, optim, factors
        self.saves, self.log, self.ranks, self.request, self.sample_of = saves, log, ranks, request, sample_of
        self.config, self.is_cpu = valid.config, ranks.device.type == "cpu"
        self.optimizer = build_optimizer(model, optim, factors)
        self.trained: list[torch.nn.Parameter] = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self.config.precision == "fp16")
        self.scaler.scale(torch.zeros((), device=ranks.device))  # which makes it: a rank may leave out its first batch
        self.step = 0  # the last micro-batch that was begun, counted from 1
        self.saved_step: int | None = None
        self.valid_step: int | None = None
        self.valid_loss = math.nan
        self.best = Best(self.config.select)
        self.ends_early = False  # after --early_stop validations without a better one
        self.stops_asked: Tensor | None = None  # on how many ranks, as of the last update
        self.not_looked_at: list[tuple[int, list[int]]] = []  # step and items of the newest losses
        self.n_counted = 0  # micro-batches since the last update that were not left out
        self.skipped: list[Skipped] = []  # by this rank, and not reported yet
        if state is not None:
            self._resume(state)
        if self.config.compile:
            # CUDA graphs give gradients in memory of their own, which is gone at the next step (pytorch issues 169545, 96693):
            # into these they are added up.
            for parameter in self.trained:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

    def _resume(self, state: dict) -> None:
        """Undo a save: weights, optimiser, scaler, and this rank's share."""
        self.step = self.saved_step = state["step"]
        self.valid_step, self.valid_loss = state["valid_step"], state["valid_loss"]
        listed = self.saves.listed["best"]  # known on the main rank, which alone saves
        of_earlier_version = {"value": listed["valid_loss"] if listed else None, "since": 0}
        self.best = Best(self.config.select, **state.get("best", of_earlier_version))
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in state["model"].items():
                parameters[name].copy_(tensor)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        own = state["ranks"][self.ranks.rank]
        torch.set_rng_state(own["cpu_rng"])
        if "valid_fillers" in own:  # not in earlier saves
            version, numbers, gauss = own["valid_fillers"]
            self.valid.order.fillers.setstate((version, tuple(numbers), gauss))
        if own["gpu_rng"] is not None and self.ranks.device.type == "cuda":
            torch.cuda.set_rng_state(own["gpu_rng"], self.ranks.device)
        forms.decide(own.get("products", {}))  # not in earlier saves
        self.n_counted = own.get("n_counted", sum(grad is not None for grad in own["grads"]))  # not in earlier saves
        for parameter, grad in zip(self.trained, own["grads"], strict=True):
            parameter.grad = None if grad is None else grad.to(parameter.device)

    def counts(self, loss: Tensor, items: list[int], n_tokens: int) -> bool:
        """Log the loss of a micro-batch; return False if `skip_nan` leaves it out, which is logged in its place."""
        if self.config.skip_nan and not torch.isfinite(loss):
            self.skip(items, f"the loss is {loss.item()}")
            self.log.bar.update()
            return False
        self.n_counted += 1
        self.log.add(loss.detach().clone(), n_tokens)  # a CUDA graph's own result is gone at its next step
        self.not_looked_at.append((self.step, items))
        if self.is_cpu and self.ranks.world_size == 1:
            self.look_at_losses()
        return True

    def skip(self, items: list[int], reason: str) -> None:
        """Log that the micro-batch `items` is left out: the main rank's at once, another's when the ranks next meet to report."""
        skipped = Skipped(self.step, items, reason, self.ranks.rank)
        if self.ranks.is_main:
            self.log.skipped(skipped)
        else:
            self.skipped.append(skipped)

    def report_skipped(self) -> None:
        """Log what other ranks have left out; called on every rank."""
        if self.config.skip_nan and self.ranks.world_size > 1:
            for of_rank in dist.gather_to_main(self.skipped, self.ranks) or []:
                for skipped in of_rank:
                    self.log.skipped(skipped)
            self.skipped = []

    def look_at_losses(self) -> None:
        """Raise UserError if a rank's loss is no number; called on every rank.

        A GPU would have to be waited for, so there it is done now and then; several ranks on a CPU meet for it at an update.
        """
        of_ranks = dist.gather_to_main(self._first_that_is_no_number(), self.ranks)
        dist.on_main(lambda: self._refuse_losses(of_ranks or []), self.ranks)
        self.not_looked_at.clear()

    def _first_that_is_no_number(self) -> tuple[int, list[int], float] | None:
        """Return step, items and loss of the first of this rank's newest losses that is no number."""
        newest = self.log.losses[-len(self.not_looked_at) :] if self.not_looked_at else []
        losses = torch.stack(newest).tolist() if newest else []
        found = ((*at, loss) for at, loss in zip(self.not_looked_at, losses, strict=True) if not math.isfinite(loss))
        return next(found, None)

    def _is_to_be_looked_at(self) -> bool:
        """Return whether this rank, one of several on a CPU, has a loss that is no number, for which all have to meet."""
        if not self.is_cpu or self.ranks.world_size == 1:
            return False
        if self._first_that_is_no_number() is not None:
            return True
        self.not_looked_at.clear()  # the next update has fewer to look at
        return False

    def _refuse_losses(self, of_ranks: list[tuple[int, list[int], float] | None]) -> None:
        """Raise UserError for the first of these that is one, and say how to go on: the main rank knows what was saved."""
        found = sorted(filter(None, of_ranks))
        if found:
            step, items, loss = found[0]  # from then on the others' weights are no numbers, too
            last, go_on = self.saves.last_step, "start anew with --skip_nan, which leaves such batches out, with"
            if last:
                go_on = (
                    f"the save of step {last} is whole; go on with --resume and --skip_nan, which leaves such batches out, or start "
                    "anew with"
                )
            raise UserError(
                f"the loss of step {step} is {loss}, on the items {', '.join(map(str, items))} (counted from 0); {go_on} a lower "
                "--lr or with --clip"
            )

    def is_asked_to_stop(self) -> bool:
        """Return whether a signal came, to any rank, and the run is where it can stop: between two updates' micro-batches."""
        if self.step % self.optim.grad_acc != 0:
            return False
        if self.ranks.world_size == 1:
            return self.request.number is not None
        # To look at a GPU's number is to wait for it.
        look = self.is_cpu or self.step % SIGNAL_INTERVAL < self.optim.grad_acc
        return look and self.stops_asked is not None and self.stops_asked.item() > 0

    def update(self, lr: float, items: list[int]) -> None:
        """Take one step of the optimiser, with the gradients' mean over the ranks."""
        counted, self.n_counted = self.n_counted, 0
        if self.config.skip_nan and dist.sum_over_ranks(counted, self.ranks) == 0:
            return  # every rank has left out all of it: there is nothing to learn from
        told = dist.average_gradients(
            self.trained, self.ranks.world_size, (self.request.number is not None, self._is_to_be_looked_at())
        )
        if told is not None:
            self.stops_asked, n_no_numbers = told
            if self.is_cpu and n_no_numbers > 0:
                self.look_at_losses()
        self.scaler.unscale_(self.optimizer)
        if self.factors.precondition:
            precondition(self.model)
        if self.optim.clip > 0:
            torch.nn.utils.clip_grad_norm_(self.trained, self.optim.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1)
        if self.config.skip_nan and not self.scaler.is_enabled() and not are_finite(p.grad for p in self.trained):
            self.skip(items, "a gradient is no number")
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=not self.config.compile)

    def validate(self) -> None:
        """Take the validation loss and, if wanted, decode a sample; keep the weights if this is the best validation so far."""
        with self.log.paused():
            self.log.validating(self.step, n_batches_a_rank(self.valid, self.ranks))
            started = time.perf_counter()
            self.valid_step, self.valid_loss = self.step, validation_loss(self.model, self.valid, self.ranks)
            seconds = time.perf_counter() - started
            self.log.validation(self.step, self.valid_loss, seconds, self.config.label_smooth)
            bleu = self.decode_sample()
            value = self.valid_loss if bleu is None or self.config.select == "loss" else bleu
            is_best = self.best.take(dist.from_main(value, self.ranks))
            if is_best and self.ranks.is_main and are_finite(self.trained):  # no others are kept, see `save`
                self.log.saving(self.step)
                self.log.saved(self.step, self.saves.add_best(self.model, self.step, self.valid_loss, bleu))

    def decode_sample(self) -> float | None:
        """Decode validation inputs on the main rank, for which the others wait, and return their BLEU; None if that is not wanted."""
        if self.sample_of is None:
            return None
        self.log.say(f"decoding | step {self.step:7d} | validation inputs")
        started, sample_of = time.perf_counter(), self.sample_of
        sample = dist.on_main(lambda: sample_of(self.model), self.ranks)
        self.model.train()
        self.log.texts(self.step, sample, time.perf_counter() - started)
        return sample.bleu

    def is_asked_to_end(self) -> bool:
        """Return whether --early_stop validations have come since the best one."""
        self.ends_early = 0 < self.config.early_stop <= self.best.since
        return self.ends_early

    def save(self, ends_epoch: bool = False) -> None:
        """Save all that it takes to resume. Raises UserError if the weights are no numbers."""
        self.look_at_losses()
        if not are_finite(self.trained):
            raise UserError(
                f"the weights after step {self.step} are no numbers and are not saved; use a lower --lr or --clip"
            )
        with self.log.paused():
            self.log.saving(self.step)
            of_ranks = dist.gather_to_main(self._of_this_rank(), self.ranks)
            if self.ranks.is_main:
                shared = dict(
                    step=self.step, valid_step=self.valid_step, valid_loss=self.valid_loss, log=self.log.state(),
                    best={"value": self.best.value, "since": self.best.since},
                    optimizer=self.optimizer.state_dict(), scaler=self.scaler.state_dict(), ranks=of_ranks,
                )  # fmt: skip
                self.log.saved(self.step, self.saves.add(self.model, self.step, shared, ends_epoch))
        self.saved_step = self.step

    def _of_this_rank(self) -> dict:
        """Return what a save must hold of every rank: its random state and, between two updates, what it has accumulated."""
        device = self.ranks.device
        return {
            "cpu_rng": torch.get_rng_state(),
            "gpu_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "valid_fillers": self.valid.order.fillers.getstate(),  # drawn from at each validation
            "grads": [None if p.grad is None else p.grad.cpu() for p in self.trained],
            "n_counted": self.n_counted,
            "products": dict(forms.chosen),
        }

    def stop(self) -> None:
        """End with Stopped after a signal, once the step is saved."""
        self.report_skipped()
        self.log.close()
        how = f"stopped and saved at step {self.step}; the same command with --resume goes on"
        raise Stopped(self.request.number or signal.SIGTERM, how if self.ranks.is_main else "")

    def finish(self) -> float:
        """Save and validate at the end, unless that was just done, and return the validation loss."""
        self.report_skipped()
        if self.saved_step != self.step:
            self.save()
        if self.valid_step != self.step:
            self.validate()
        if self.ends_early:  # said after the last save, whose log ends before it
            self.log.early_stop(self.step, self.best)
        self.log.saving(self.step)
        if self.ranks.is_main:
            self.saves.finish(self.model, self.step)
        self.log.close()
        return self.valid_loss


def n_batches_a_rank(valid: Split, ranks: dist.Ranks) -> int:
    """Return how many batches a validation has for each rank."""
    return -(-valid.order.n_batches // ranks.world_size)


@torch.no_grad()
def validation_loss(model: GPT2, valid: Split, ranks: dist.Ranks) -> float:
    """Return the mean over batches, and over ranks, of the unsmoothed batch losses."""
    model.eval()
    losses = []
    batches = valid.batches(epoch=0)
    total = n_batches_a_rank(valid, ranks)
    for batch in tqdm(batches, "validating", total, unit="batch", leave=False, disable=None if ranks.is_main else True):
        with dist.autocast(ranks.device, valid.config.precision):
            losses.append(masked_loss(model, batch))
    model.train()
    return dist.mean_over_ranks(torch.stack(losses).mean(), ranks.world_size).item()


def compiled(loss_of: Callable) -> Callable:
    """Return `loss_of` compiled for every shape that comes; on a GPU as CUDA graphs, which a small batch would else wait for."""
    torch._dynamo.config.recompile_limit = 64  # the shapes of `Batch.fill_up` are few, but more than torch's 8
    program = torch.compile(loss_of, dynamic=False, mode="reduce-overhead")
    from torch._inductor.exc import InductorError  # which takes a second, needed for --compile alone

    def loss(*inputs) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        try:
            return program(*inputs)
        except InductorError as error:
            if not any(said in str(error) for said in NO_COMPILER):
                raise
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"--compile failed: {reason}; it needs a C++ compiler (Debian: apt install g++), or leave it out"
            ) from error

    return loss


def are_finite(tensors: Iterable[Tensor | None]) -> bool:
    """Return whether all numbers of all tensors are finite; None has none."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors if tensor is not None)
