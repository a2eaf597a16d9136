"""What the C library does with memory that threads free."""

import platform

import pytest
from helpers import run_python

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has it")

FAULTS = """
    import ctypes, resource, sys, threading
    {before}
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]

    def step():
        block = libc.malloc(100 << 20)
        libc.memset(block, 1, 100 << 20)
        libc.free(block)

    def steps():
        step()
        start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):
            step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)

    thread = threading.Thread(target=steps)
    thread.start()
    thread.join()
"""
KEPT = "from vlt.runtime.heap import keep_freed_memory; keep_freed_memory()"


def faults(before: str) -> int:
    """Pages that a thread is given anew when it allocates 400 MB after having freed 100."""
    return int(run_python(FAULTS.format(before=before)))


def test_steps_reuse_the_memory_of_the_step_before():
    assert faults("") > 150  # of 2 MiB each, or of 4 KiB
    assert faults(KEPT) < 50


def test_nothing_is_done_where_jax_may_find_an_accelerator():
    found = "import importlib.util as util; util.find_spec = lambda name: name == 'libtpu'"
    assert faults(f"{found}; import os; os.environ.pop('JAX_PLATFORMS', None); {KEPT}") > 150
    assert faults(f"{found}; import os; os.environ['JAX_PLATFORMS'] = 'cpu'; {KEPT}") < 50
