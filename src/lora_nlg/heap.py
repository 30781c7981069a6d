"""How this process gets memory from the system: in large pages, and once, where every step asks for the same again."""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's names in malloc.h
MOST = 2**31 - 1


def keep_freed_memory() -> None:
    """Let freed tensors' memory serve later ones, in place of going back to the system and coming again as empty pages.

    To be called before torch is imported. Only glibc has what it takes; elsewhere nothing happens.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks for pages of 2 MB, where the system gives them
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, MOST)
