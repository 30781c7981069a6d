"""Weights and token ids by closed formula, so that a golden number never depends on a random generator.

Everything in this folder's JSON files was measured with these inputs. Copying this file into the
project's tests is fine.

Alphabet: V vocabulary, C n_embd, L n_layer, R LoRA rank, N examples.
"""

import zlib

import numpy as np

TOY = dict(vocab_size=211, n_positions=1024, n_embd=32, n_layer=2, n_head=4)


def uniform(name: str, *shape: int) -> np.ndarray:
    """Return `shape` float64 numbers in [-1, 1): splitmix64 of (element index, crc32 of `name`)."""
    with np.errstate(over="ignore"):
        x = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x += np.uint64(zlib.crc32(name.encode())) * np.uint64(0xD1B54A32D192ED03)
        x ^= x >> np.uint64(30)
        x *= np.uint64(0xBF58476D1CE4E5B9)
        x ^= x >> np.uint64(27)
        x *= np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return ((x >> np.uint64(11)).astype(np.float64) / 2.0**53 * 2.0 - 1.0).reshape(shape)


def base_weights(config: dict = TOY) -> dict[str, np.ndarray]:
    """Return a GPT-2 state dict in the Hugging Face key layout without prefix (`h.0.attn.c_attn.weight`,
    (in, out) for the Conv1D weights), float64."""
    V, P, C, L = (config[k] for k in ("vocab_size", "n_positions", "n_embd", "n_layer"))
    w = {"wte.weight": 0.6 * uniform("wte.weight", V, C), "wpe.weight": 0.3 * uniform("wpe.weight", P, C)}
    for i in range(L):
        for ln in ("ln_1", "ln_2"):
            w[f"h.{i}.{ln}.weight"] = 1.0 + 0.1 * uniform(f"h.{i}.{ln}.weight", C)
            w[f"h.{i}.{ln}.bias"] = 0.1 * uniform(f"h.{i}.{ln}.bias", C)
        for lin, n_in, n_out in (
            ("attn.c_attn", C, 3 * C),
            ("attn.c_proj", C, C),
            ("mlp.c_fc", C, 4 * C),
            ("mlp.c_proj", 4 * C, C),
        ):
            w[f"h.{i}.{lin}.weight"] = 0.35 * uniform(f"h.{i}.{lin}.weight", n_in, n_out)
            w[f"h.{i}.{lin}.bias"] = 0.1 * uniform(f"h.{i}.{lin}.bias", n_out)
    w["ln_f.weight"] = 1.0 + 0.1 * uniform("ln_f.weight", C)
    w["ln_f.bias"] = 0.1 * uniform("ln_f.bias", C)
    return w


def lora_weights(config: dict = TOY, rank: int = 4, b_is_zero: bool = True) -> dict[str, np.ndarray]:
    """Return the loralib MergedLinear tensors for (q, v): `h.i.attn.c_attn.lora_A` (2R, C), `.lora_B` (2C, R)."""
    C = config["n_embd"]
    out = {}
    for i in range(config["n_layer"]):
        key = f"h.{i}.attn.c_attn."
        out[key + "lora_A"] = 0.2 * uniform(key + "lora_A", 2 * rank, C)
        out[key + "lora_B"] = (0.0 if b_is_zero else 0.2) * uniform(key + "lora_B", 2 * C, rank)
    return out


def examples(n: int, config: dict = TOY) -> list[dict[str, list[int]]]:
    """Return n {"context": ids, "completion": ids}: 4-12 context ids closed by V-1, 3-10 completion ids closed by V-1."""
    V = config["vocab_size"]
    lengths = uniform("lengths", n, 2)
    rows = []
    for i, (a, b) in enumerate(lengths):
        n_ctx, n_cmp = 4 + int((a + 1) / 2 * 9), 3 + int((b + 1) / 2 * 8)
        ids = ((uniform(f"ids{i}", n_ctx + n_cmp) + 1) / 2 * (V - 1)).astype(int).tolist()
        rows.append({"context": ids[:n_ctx] + [V - 1], "completion": ids[n_ctx:] + [V - 1]})
    return rows
