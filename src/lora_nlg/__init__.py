"""LoRA fine-tuning of GPT-2 on E2E NLG: the recipe of Hu et al. 2021 (arXiv:2106.09685)."""

__version__ = "0.1.0"
