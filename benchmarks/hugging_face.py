"""GPT-2 of transformers, plain and with PEFT's adapters, and CTranslate2's copy of it, to be measured against."""

import os
import tempfile
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is looked up by name

LAYER_NORM_EPS = 1e-5


def gpt2(shape, weights: dict | None = None):
    """Return transformers' GPT-2 in float32 without dropout, with `weights` under the project's names, else random ones."""
    import transformers

    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    sizes = {name: getattr(shape, name) for name in ("n_embd", "n_layer", "n_head", "n_positions", "vocab_size")}
    config = transformers.GPT2Config(
        **sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, layer_norm_epsilon=LAYER_NORM_EPS, use_cache=False
    )
    model = transformers.GPT2LMHeadModel(config)
    if weights is not None:
        model.transformer.load_state_dict(weights)
    return model


def with_adapters(model, lora):
    """Return the model with PEFT's LoRA on c_attn: one A for query, key and value together, where the recipe has one each."""
    import peft

    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=["c_attn"], fan_in_fan_out=True,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    return peft.get_peft_model(model, config)


def padded_batch(examples) -> dict:
    """Return input_ids, attention_mask and labels, (B, T) each, padded to the longest; -100 where nothing is learnt."""
    import torch

    T = max(len(e.context) + len(e.completion) for e in examples)
    ids, mask, labels = (torch.full((len(examples), T), fill) for fill in (0, 0, -100))
    for row, e in enumerate(examples):
        length = len(e.context) + len(e.completion)
        ids[row, :length] = torch.tensor(e.context + e.completion)
        mask[row, :length] = 1
        labels[row, len(e.context) : length] = torch.tensor(e.completion)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def generate(model, prompts: list[list[int]], config) -> list[list[int]]:
    """Return the best hypothesis for each prompt, padded on the left as transformers wants it.

    `config` is the project's BeamConfig. The n-gram ban counts the prompt as well, and end tokens are banned after the softmax.
    """
    import torch

    T = max(map(len, prompts))
    ids = torch.tensor([[0] * (T - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (T - len(p)) + [1] * len(p) for p in prompts])
    end = list(config.eos_token_ids) or None
    output = model.generate(
        input_ids=ids, attention_mask=mask, num_beams=config.beam, do_sample=False, max_new_tokens=config.eval_len,
        min_new_tokens=config.min_length or None, length_penalty=config.length_penalty, use_cache=True, pad_token_id=0,
        no_repeat_ngram_size=config.no_repeat_ngram_size, eos_token_id=end,
    )  # fmt: skip
    return output[:, T:].tolist()


def total_log_p(model, prompts: list[list[int]], outputs: list[list[int]]) -> list[float]:
    """Return each output's log p after its prompt: one judge for the outputs of all systems."""
    import torch

    totals = []
    with torch.inference_mode():
        for prompt, output in zip(prompts, outputs, strict=True):
            logits = model(torch.tensor([prompt + output])).logits[0, len(prompt) - 1 : -1]
            log_p = torch.log_softmax(logits, dim=-1)
            totals.append(log_p.gather(1, torch.tensor(output).unsqueeze(1)).sum().item())
    return totals


class Ctranslate2:
    """CTranslate2, computing in float32 or int8, with a transformers model's weights. Its tokens are the ids, written as numbers."""

    def __init__(self, model, threads: int, compute_type: str = "float32"):
        import ctranslate2
        from ctranslate2.converters.transformers import GPT2Loader

        self.vocab_size = model.config.vocab_size
        loader = GPT2Loader()
        spec = loader.get_model_spec(model)
        loader.set_vocabulary(spec, [str(token) for token in range(self.vocab_size)])
        last = str(self.vocab_size - 1)
        spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = last, last, last
        with tempfile.TemporaryDirectory() as folder:
            spec.validate()
            spec.save(folder)
            self.generator = ctranslate2.Generator(
                folder, device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=threads
            )

    def generate(self, prompts: list[list[int]], config) -> list[list[int]]:
        """Return the best hypothesis for each prompt; the last id of the vocabulary is the end token, as in GPT-2."""
        results = self.generator.generate_batch(
            [[str(token) for token in prompt] for prompt in prompts], beam_size=config.beam, max_length=config.eval_len,
            min_length=config.min_length, length_penalty=config.length_penalty, include_prompt_in_result=False,
            no_repeat_ngram_size=config.no_repeat_ngram_size,
            # min_length alone does not do: of prompts of different lengths a longer one may end at once
            suppress_sequences=[[str(self.vocab_size - 1)]] if config.min_length == config.eval_len else None,
        )  # fmt: skip
        return [result.sequences_ids[0] for result in results]
