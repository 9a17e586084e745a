"""Keep memory that was freed."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES = 2**30


def keep_freed_memory() -> None:
    """Let glibc keep large blocks that are freed instead of giving them back to the kernel each time.

    Otherwise every training step, and every picture that is decoded, maps and zeroes its memory anew. Changes nothing where
    the C library is another one.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
