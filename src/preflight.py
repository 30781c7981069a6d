"""Check, before hours of training, what it and the steps after it will need: flags, data, base, vocabulary, Java, disk, memory.

Takes the flags of gpt2_ft.py, and after -- those of gpt2_beam.py for the decoding that is to follow, if one is. --world_size is the
number of processes on this machine. What the training would refuse is refused here. Prints one line a check, leaves nothing behind,
and exits with 2 if any of them fails.
"""

import argparse
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

import gpt2_beam
import gpt2_ft
from lora_nlg import config, errors, flags, methods

ROOT = Path(__file__).resolve().parents[1]
SCORER = ROOT / "eval/e2e/measure_scores.py"
ANY_BATCHES = 10**9  # in place of the number of batches where the data cannot be read: no other flag is refused for it


def of_training() -> argparse.ArgumentParser:
    """Return the flags of gpt2_ft.py, with a help that is of this program."""
    p = gpt2_ft.parser()
    p.description = __doc__
    p.usage = "%(prog)s [flags of gpt2_ft.py, below] [-- flags of gpt2_beam.py]"
    return p


def java() -> str:
    """Run the scorer's two Java programs."""
    done = subprocess.run([sys.executable, str(SCORER), "--check_java"], capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip()
        raise errors.UserError(said.partition(": error: ")[2] or said)
    return done.stdout.strip()


def vocabulary(args: argparse.Namespace) -> str:
    """Check GPT-2's vocabulary, which the text step needs, and --eval_texts."""
    from lora_nlg import samples
    from lora_nlg.data import bpe

    bpe.check_files(ROOT / "vocab")
    if args.eval_texts:
        bpe.check_files(Path(args.vocab))
        samples.check_vocabulary(config.model_config(args.model_card), args.model_card)
    return "GPT-2's, by its sha256"


def decoding(args: argparse.Namespace, processes: int, n_before: int) -> str:
    """Compare what the decoding's largest batch takes with the memory of every device that its processes take."""
    from lora_nlg import dist, memory
    from lora_nlg.decoding import needs

    gpt2_beam.check_lengths(args, config.model_config(args.model_card))
    need = gpt2_beam.needed_memory(args, gpt2_beam.read_contexts(args)[1], processes, n_before)
    return memory.check(need, dist.devices_of(args.device, processes), f"{needs.REMEDY}, in the preset's DECODE")


class Training:
    """What the training of `args` does before its first step, done here by one process on the CPU."""

    def __init__(self, args: argparse.Namespace):
        from lora_nlg.training import needs

        self.args, self.model = args, config.model_config(args.model_card)
        self.processes = max(args.world_size, 1)
        self.needs = needs.Run(args, self.processes)

    def ranks(self):
        """Return the first of the run's processes. NNODES is what scripts/03_train.sh goes by."""
        import torch

        from lora_nlg import dist

        nodes = os.environ.get("NNODES", "1")
        return dist.Ranks(0, self.processes * (int(nodes) if nodes.isdecimal() else 1), torch.device("cpu"))

    def flags(self) -> str:
        """Read all flags as the training does. Raises UserError for any that it refuses."""
        from lora_nlg import rendezvous
        from lora_nlg.training import curve

        gpt2_ft.refuse_ignored(self.args)
        gpt2_ft.train_config(self.args)
        gpt2_ft.factors_of(self.args)
        described = methods.from_flags(self.args, self.model)
        optim = self.optim()
        if self.args.compare_curve:
            curve.read(self.args.compare_curve, self.args.log_interval)
        gpt2_ft.trackers_of(self.args)
        if self.ranks().world_size == 1:  # several are started by a launcher, which sets what this reads
            rendezvous.place(self.args.rank, self.args.world_size, self.args.local_rank)
        return f"{optim.max_step:,} steps, {methods.method(described.method).summary(described)}"

    def optim(self) -> config.OptimConfig:
        """Return the settings of the optimiser, whose schedule goes by the number of batches."""
        return gpt2_ft.optim_config(self.args, self.needs.n_batches() or ANY_BATCHES, self.ranks().world_size)

    def data(self) -> str:
        """Read both files, and make batches of them for every process."""
        found = self.needs.data()
        train_examples, valid_examples = self.needs.splits
        gpt2_ft.make_splits(self.args, gpt2_ft.train_config(self.args), train_examples, valid_examples, self.ranks())
        return found

    @functools.cached_property
    def start(self) -> tuple:
        """The method's configuration and the base, once the model is made as training starts with it."""
        method_config = methods.from_flags(self.args, self.model)
        gpt2_ft.train_config(self.args)  # checks the seed, which torch would not take
        adapters, method_config = gpt2_ft.read_start(self.args, method_config)
        return method_config, gpt2_ft.make_model(self.args, self.model, method_config, adapters, self.ranks())[1]

    def base(self) -> str:
        """Make the model."""
        assert self.start
        return " and ".join(filter(None, (self.args.init_checkpoint, self.args.lora_checkpoint)))

    def work_dir(self) -> str:
        """Look whether results can be written there, and what an earlier run has left."""
        found = self.needs.work_dir()
        gpt2_ft.check_place(self.args)
        gpt2_ft.check_starts(self.args)
        return f"{found}{self.resumed()}"

    def resumed(self) -> str:
        """Return what the training will do with an earlier run's saves. Raises UserError if it refuses them."""
        from lora_nlg.training.saves import MANIFEST, Saves

        if self.args.resume in (None, "auto", "never") and not (Path(self.args.work_dir) / MANIFEST).is_file():
            return ""
        try:
            method_config, base = self.start
            settings = dict(model=self.model, optim=self.optim(), train=gpt2_ft.train_config(self.args))
        except errors.UserError:  # which another check has said
            return ""
        run = gpt2_ft.make_record(self.args, [], self.ranks(), base, method_config, **settings)
        saves = Saves(Path(self.args.work_dir), gpt2_ft.what_decides_the_result(run.fields["settings"]), base=base)
        state = gpt2_ft.earlier_state(self.args.resume, saves)
        if state is None:
            return ""
        return f"; it goes on from step {state['step']:,}" if state else "; it holds this run, finished"


def prefix_of(args: argparse.Namespace) -> int:
    """Return the positions that what is trained takes from the sequences; 0 where the flags are wrong, which a check says."""
    try:
        return methods.positions_before(methods.from_flags(args, config.model_config(args.model_card)))
    except errors.UserError:
        return 0


def checks(args: argparse.Namespace, of_decoding: argparse.Namespace | None) -> dict[str, Callable[[], str]]:
    """Return the checks by name: each says what it found, or raises UserError."""
    steps = (args, of_decoding) if of_decoding is not None else (args,)
    n_before = prefix_of(args)
    for fitted in {flags.fit_seq_len(one, config.model_config(one.model_card), n_before): None for one in steps}:
        if fitted:
            print(fitted, file=sys.stderr)
    training = Training(args)
    found: dict[str, Callable[[], str]] = {
        "flags": training.flags,
        "data": training.data,
        "base": training.base,
        "vocabulary": functools.partial(vocabulary, args),
        "java": java,
        "work dir": training.work_dir,
        "disk": training.needs.disk,
        "memory": training.needs.memory,
    }
    if of_decoding is not None:
        found["decoding"] = lambda: decoding(of_decoding, training.processes, n_before)
    return found


def _split(argv: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Return what is before the first --, that itself, and what is after it."""
    at = argv.index("--") if "--" in argv else len(argv)
    return argv[:at], argv[at : at + 1], argv[at + 1 :]


def main(argv: list[str] | None = None) -> int:
    """Run all checks, also after one has failed."""
    before, separator, of_beam = _split(sys.argv[1:] if argv is None else argv)
    args = of_training().parse_args(before)
    failed: dict[str, str] = {}  # what was said, by the check that said it first
    for name, check in checks(args, gpt2_beam.parser().parse_args(of_beam) if separator else None).items():
        try:
            print(f"{name:<10} ok  {errors.visible(check())}", flush=True)
        except errors.UserError as error:
            failed[name] = str(error)
            print(f"{name:<10} NO  {errors.visible(str(error))}", flush=True)
    if len(failed) == 1:
        raise errors.UserError(next(iter(failed.values())))
    if failed:
        name, said = next(iter(failed.items()))
        raise errors.UserError(f"{len(failed)} of the checks above failed, the first is {name}: {said}")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
