"""What a training run will need: disk for its saves, memory for its largest batch. Estimates, in bytes, on the safe side.

Alphabet: B batch, T time, C width, M learnt positions in the batch, V vocabulary, l prefix length.
"""

import argparse
import contextlib
import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from lora_nlg import config, dist, flags, memory, methods
from lora_nlg.data import examples
from lora_nlg.errors import UserError
from lora_nlg.methods.cost import Cost, cost_of
from lora_nlg.model.gpt2 import GPT2

# Activations kept for the backward pass, in numbers of width C a token and layer: inputs of both norms (2), c_attn's output (3),
# attention's (2), the norms' (2), c_fc's before and after GELU (8). Measured peaks are below what this gives.
WIDTHS_A_LAYER = 17
LOGIT_COPIES = 3  # of a compiled step: logits, their log-softmax, their gradient; others overwrite them


def kept_by(model: GPT2, B: int, T: int) -> int:
    """Return how many bytes the blocks of `model`, on meta, keep for the backward pass of B rows of T tokens, beside parameters.

    Nothing is said of any method: what it keeps is seen as it computes, be it W + ΔW of each matrix (FourierFT), each matrix's outputs
    (DoRA), or the l positions of a prefix.
    """
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.empty(B, T, dtype=torch.int64, device="meta"))
    return sum(storage.nbytes() for storage in kept.values())


class Run:
    """The needs of the run that `args`, of gpt2_ft.py, describes."""

    def __init__(self, args: argparse.Namespace, processes: int = 1):
        self.args, self.model = args, config.model_config(args.model_card)
        self.processes = processes  # on this machine

    @functools.cached_property
    def trained(self) -> GPT2:
        """The model that is trained, on meta: shapes alone."""
        model = self._plain()
        methods.attach(model, methods.from_flags(self.args, self.model))
        return model

    def _plain(self) -> GPT2:
        dtype = torch.float64 if flags.chosen_precision(self.args) == "fp64" else torch.float32
        with torch.device("meta"):
            return GPT2(self.model).to(dtype)

    @functools.cached_property
    def cost(self) -> Cost:
        """All parameters, the trained ones, and those that are saved."""
        return cost_of(self.trained)

    @functools.cached_property
    def splits(self) -> list[list[examples.Example]]:
        """The training and validation examples."""
        return [
            examples.read_examples(path, self.model.vocab_size) for path in (self.args.train_data, self.args.valid_data)
        ]

    def data(self) -> str:
        """Read both files."""
        n_train, n_valid = map(len, self.splits)
        return f"{n_train:,} and {n_valid:,} examples, the longest of {self._lengths()[0]} tokens"

    def _lengths(self) -> list[int]:
        rows = examples.make_rows(self.splits[0], self.args.share_prompts)
        return sorted((examples.row_length(row, self.args.seq_len) for row in rows), reverse=True)

    def work_dir(self) -> str:
        """Write a file there. Folders that are made for it do not stay: the run may yet be refused."""
        path = Path(self.args.work_dir)
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                return f"{path} can be written"
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}; choose another --work_dir") from error
        finally:
            for folder in made:
                with contextlib.suppress(OSError):  # another process is at work there
                    folder.rmdir()

    def disk(self) -> str:
        """Compare the room for all saves with the free disk space."""
        trained = self.cost.bytes_on_disk
        save = trained + self.cost.optimizer_bytes
        need = (self.args.keep_last + 1) * save + 5 * trained  # best, final, adapter, and the earlier run's
        need += 2 * self._epochs_kept() * trained  # and an earlier run's
        existing = next(
            p for p in (Path(self.args.work_dir).absolute(), *Path(self.args.work_dir).absolute().parents) if p.exists()
        )
        return memory.compare(
            need,
            shutil.disk_usage(existing).free,
            "free",
            "free some space, lower --keep_last, or pass --no_keep_epochs",
        )

    def n_batches(self) -> int | None:
        """Return how many micro-batches an epoch has over all processes; None where the data have a fault, which `data` says."""
        try:
            n_rows = len(examples.make_rows(self.splits[0], self.args.share_prompts))
            return -(-n_rows // self.args.train_batch_size)
        except (UserError, ZeroDivisionError):
            return None

    def _epochs_kept(self) -> int:
        """Return of how many epochs' ends the weights are kept; 0 where flags or data have a fault, which another check says."""
        n_batches = self.n_batches()
        if self.args.no_keep_epochs or n_batches is None:
            return 0
        with contextlib.suppress(UserError):
            return flags.max_step(self.args, n_batches, self.processes) // max(n_batches // self.processes, 1)
        return 0

    def memory(self) -> str:
        """Compare what the largest batch takes with the memory of every device that this machine's processes take."""
        rows = self._lengths()[: max(self.args.train_batch_size, 1)]  # less than 1 is for another check to refuse
        need = memory.RUNTIME + self.numbers(rows) * self.cost.number_size
        remedy = "use a smaller --train_batch_size, with --grad_acc for the same batch, or --precision bf16"
        return memory.check(need, dist.devices_of(self.args.device, self.processes), remedy)

    def numbers(self, rows: Sequence[int]) -> int:
        """Return how many numbers there are at once while rows of so many tokens, the longest first, are learnt from."""
        B, T = len(rows), rows[0]  # B · T of a compiled step, which pads; less of others
        activations = B * T * self.model.n_layer * WIDTHS_A_LAYER * self.model.n_embd
        # The above is full fine-tuning's: what a method keeps beyond that.
        more = kept_by(self.trained, B, T) - kept_by(self._plain(), B, T)
        logits = sum(rows) * self.model.vocab_size * LOGIT_COPIES
        backward = activations + max(more, 0) // self.cost.number_size + logits
        gradients = roots = self.cost.trained
        averages = 2 * self.cost.trained
        return self.cost.total + gradients + averages + max(backward, roots)  # AdamW takes roots when the rest is gone
