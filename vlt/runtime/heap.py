"""The C library's heap, set up for programs that XLA runs on a CPU."""

import ctypes
import os
import sys
from importlib.util import find_spec

# Names and values of mallopt's parameters in glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> None:
    """Makes glibc keep the memory that a step frees for the next step, where only CPUs compute.

    XLA allocates a step's buffers anew for every step, in threads whose heaps give large blocks
    back to the system at once; their pages then come back one by one, zeroed (benchmarks/RESULTS.md
    has what that costs). One heap for all threads keeps up to 2 GiB. It must be set before JAX
    starts its threads, and before it is known what JAX finds: nothing is done where it may find an
    accelerator, on whose hosts many threads decode videos, nor with another C library.
    """
    if not sys.platform.startswith("linux") or _accelerators_possible():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _accelerators_possible() -> bool:
    """Whether JAX has a plugin for one, and was not told to use CPUs alone."""
    plugins = any(find_spec(name) for name in ("jax_plugins", "libtpu"))
    return plugins and os.environ.get("JAX_PLATFORMS") != "cpu"
