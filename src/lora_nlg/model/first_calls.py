"""MKL's vector functions, each called once before anything runs in parallel.

MKL chooses the kernel of a vector function at its first call in a process. When several threads make that call at once, one of them
may get the least accurate kernel there is (pytorch issue 188792; MKL 2024.2, which is in torch 2.13's wheels): on an Intel Xeon with
AVX-512 the first `exp` of 29 in 2 000 processes was wrong by up to 1e-8 of itself in one thread's part. A later call is always
right, and so is a first one by a single thread. torch splits 2 048 numbers or more among its threads, so one number is one thread's.

Child processes import this as well. The scores are numpy's, whose kernels are chosen when it is imported.
"""

import torch

# All that torch's CPU library takes from MKL's vector functions (its symbols vms… and vmd…), named as torch names them.
FUNCTIONS = "acos asin atan cos erf erfc erfinv exp log log10 log2 sin sqrt tan tanh trunc".split()
DTYPES = (torch.float32, torch.float64)


def make() -> None:
    """Call every one of FUNCTIONS on one number of each of DTYPES, which takes about a millisecond in all."""
    for dtype in DTYPES:
        number = torch.full((1,), 0.5, dtype=dtype)
        for name in FUNCTIONS:
            getattr(torch, name)(number)
