"""What the files of a run call by a short name, as a person reads it."""

from report_page.contents import BASE, SYSTEM

NAMES = {
    "sentBLEU": "BLEU",
    "ROUGE_L": "ROUGE-L",
    BASE: "this run, base alone",
    SYSTEM: "this run",
    "bleu": "BLEU",
    "nist": "NIST",
    "meteor": "METEOR",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr",
    "gpu": "GPU",
    "nist_reference_length": "NIST's reference length",
}
LESS_IS_BETTER = ("TER",)


def called(key: str) -> str:
    """Return what a person calls `key`; itself where that is no other word."""
    return NAMES.get(key, key)
