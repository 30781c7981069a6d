"""What stands on top of the page: the verdict in words, and what was trained on what."""

from collections.abc import Sequence

import run_dir
from report_page.contents import BASE, Contents
from report_page.figures import score, whole
from report_page.words import called


def verdict(run: Contents) -> str:
    """Return "BLEU .868 (95 % interval .841 to .893), base alone .116; 2 slot errors in 348 slots asked for." of any run."""
    metric = run.task.scores[0]
    scores = {run_dir.output_file(one): one["scores"][metric] for one in run.record.systems}
    said = f"{called(metric)} {score(run.record.system['scores'][metric])}"
    if bounds := run.record.system.get("intervals"):
        said += f" (95 % interval {' to '.join(map(score, bounds[metric]))})"
    if BASE in scores:
        said += f", base alone {score(scores[BASE])}"
    if run.slots is not None:
        errors = sum(run.slots[kind] for kind in ("missing", "wrong", "invented"))
        said += (
            f"; {whole(errors)} slot error{'' if errors == 1 else 's'} in {whole(run.slots['slots'])} slots asked for"
        )
    return f"{said}."


def facts(run: Contents) -> list[tuple[str, str]]:
    """Return what was trained on what, as names and values; settings that the record lacks are left out."""
    settings = run.record.training.get("settings", {})
    model, train = (settings.get(name) or {} for name in ("model", "train"))
    found = []
    if model:
        found.append(("Model", f"GPT-2 of {model['n_layer']} layers × {model['n_embd']}"))
    found.append(method(run.record))
    if "trained_parameters" in run.record.training:
        found.append(("Trained", f"{whole(run.record.training['trained_parameters'])} parameters"))
    if run.last_step and "train_batch_size" in train:
        processes = settings.get("world_size", 1)
        batch = f"{train['train_batch_size']}{f' × {processes}' if processes > 1 else ''}"
        found.append(("Training", f"{whole(run.last_step)} steps of {batch}"))
    found += _scored_on(run.record.signature)
    gpu = run.record.training.get("versions", {}).get("gpu", "none")
    found.append(("Machine", settings.get("device", "unknown") if gpu == "none" else gpu))
    return found


def shared_facts(runs: Sequence[Contents]) -> list[tuple[str, str]]:
    """Return the facts that are those of all runs, and where their inputs are from."""
    first, *others = [facts(run) for run in runs]
    shared = [fact for fact in first if all(fact in one for one in others)]
    return [*shared, ("Inputs", str(runs[0].data))]


def method(record: run_dir.Run) -> tuple[str, str]:
    """Return what was trained, as a name and a value."""
    if run_dir.method_of(record) == "full":
        return "Adapters", "none: every parameter is trained"
    return "Adapters" if run_dir.method_of(record) == "lora" else "Method", named(record)


def named(record: run_dir.Run) -> str:
    """Return what was trained in two or three words: LoRA, r = 4, α = 32."""
    trained, rank, alpha = run_dir.method_of(record), run_dir.rank_of(record), record.setting("lora", "alpha")
    size = f", r = {rank}" if rank else ""
    return run_dir.called(trained) + size + (f", α = {alpha:g}" if trained == "lora" and alpha is not None else "")


def _scored_on(signature: dict) -> list[tuple[str, str]]:
    """Return what the scores are of, and by which protocol where there are several."""
    found = []
    references = signature.get("references")
    segments = signature.get("segments")
    inputs = signature.get("inputs") if segments is None else segments
    if references is not None and segments is not None and "protocol" not in signature:
        found.append(("Scored on", f"{whole(segments)} inputs, {whole(references)} references"))
    elif references is not None and inputs is not None:  # the scorer of triples counts so
        found.append(("Scored on", f"{whole(inputs)} inputs, up to {references} references of each"))
    if "protocol" in signature:
        found.append(("By the protocol", signature["protocol"]))
    return found
