"""The five scores of E2E NLG: BLEU, NIST, METEOR, ROUGE-L and CIDEr. Start at `scores.score`."""

METRICS = ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")
__version__ = "0.1.0"  # the project's; part of every result's signature
