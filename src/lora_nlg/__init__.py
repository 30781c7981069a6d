"""LoRA fine-tuning of GPT-2 on E2E NLG: the recipe of Hu et al. 2021 (arXiv:2106.09685).

    import lora_nlg

    model = lora_nlg.load("pretrained_checkpoints/gpt2.mini", "trained_models/mini/model.final.pt")
    print(model.generate("name : The Tall Jar | Type : pub")[0].text)

`load` and what it returns are in lora_nlg.api; torch is imported at the first use.
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("load", "Model"):
        from lora_nlg import api

        return getattr(api, name)
    raise AttributeError(f"module 'lora_nlg' has no attribute {name!r}")
