"""Embedding rows that no file has to hold: signs drawn from a seed, the same on every machine.

Two such rows of width C have a product of 0 ± √C of their entries' squares, one with itself has C: distinct for every token.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor


def drawn_rows(n_rows: int, width: int, seed: int, entry: float) -> Tensor:
    """Return (n_rows, width) of `entry` and -`entry`, float32: the bits of SHAKE-256 of the seed, row by row."""
    n_bytes = (n_rows * width + 7) // 8
    digest = hashlib.shake_256(seed.to_bytes(8, "big")).digest(n_bytes)
    bits = np.unpackbits(np.frombuffer(digest, np.uint8))[: n_rows * width]
    signs = torch.from_numpy(bits.astype(np.float32)).mul_(2).sub_(1)
    return signs.mul_(entry).view(n_rows, width)
