"""Clocks and the matmul rate."""

import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlt.command_line.bench import ROUNDS

MATMUL_REPEATS = 10


def seconds(function: Callable[[], Any]) -> float:
    """Seconds of one call, until its results are ready on the device."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def peak_gb() -> float:
    """Peak resident memory of this process, in GB."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


def turns(*functions: Callable[[], Any], rounds: int = ROUNDS) -> np.ndarray:
    """Seconds [rounds, functions] of functions called in turn, after one warm-up call of each."""
    for function in functions:
        jax.block_until_ready(function())
    return np.array([[seconds(function) for function in functions] for _ in range(rounds)])


def ratio(times: np.ndarray, slow: int, fast: int) -> float:
    """How many times as fast one function is: the median over rounds, whose noise hits both."""
    return float(np.median(times[:, slow] / times[:, fast]))


def matmul_rate(tokens: int, width: int) -> float:
    """Best float32 operations a second of [n, d] x [d, 4d], [n, 4d] x [4d, d] and 2048 cubed."""
    shapes = ((tokens, width, 4 * width), (tokens, 4 * width, width), (2048, 2048, 2048))
    rates = []
    for m, k, n in shapes:
        a, b = (jax.random.normal(jax.random.key(0), shape) for shape in ((m, k), (k, n)))
        multiply = jax.jit(jnp.matmul)
        jax.block_until_ready(multiply(a, b))
        times = [seconds(lambda: multiply(a, b)) for _ in range(MATMUL_REPEATS)]  # noqa: B023
        rates.append(2 * m * k * n / statistics.median(times))
    return max(rates)
