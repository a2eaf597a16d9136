"""Position embeddings: fixed ones, and learned ones interpolated for other images and videos as
torch does it."""

import math

import numpy as np

_A = -0.75  # torch's cubic; Pillow's and jax.image's is -0.5


def sinusoid(count: int, width: int) -> np.ndarray:
    """The table of Vaswani et al. (arXiv:1706.03762, section 3.5), float32 [count, width].

    Computed in float64: even columns are sines, odd ones cosines of position / 10000^(2 i / width).
    """
    rate = 10000.0 ** (-2 * (np.arange(width) // 2) / width)
    angle = np.arange(count)[:, None] * rate
    table = np.where(np.arange(width) % 2, np.cos(angle), np.sin(angle))
    return table.astype(np.float32)


def sinusoid_halves(count: int, width: int) -> np.ndarray:
    """The table in tensor2tensor's layout, float32 [count, width].

    Sines in the first half of the columns, cosines in the second, both of position times rates that
    fall from 1 to 1 / 10000, in float32: a float64 table differs by 2e-6.
    """
    half = width // 2
    steps = np.arange(half, dtype=np.float32) * np.float32(-math.log(10000.0) / max(half - 1, 1))
    angle = np.arange(count, dtype=np.float32)[:, None] * np.exp(steps)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def resize_temporal(table: np.ndarray, frames: int) -> np.ndarray:
    """[t, d] -> [frames, d]: interpolates linearly to more rows, or keeps the first ones.

    As torch.nn.functional.interpolate(mode="linear", align_corners=False).
    """
    old = len(table)
    if frames <= old:
        return table[:frames]
    return (bilinear(old, frames) @ table.astype(np.float64)).astype(table.dtype)


def resize_positions(
    table: np.ndarray, side: int, cls: int = 1, kind: str = "bicubic"
) -> np.ndarray:
    """[cls + s * s, d] -> [cls + side * side, d]; the class token's row is kept.

    As torch.nn.functional.interpolate(mode=kind, align_corners=False), without antialiasing. kind:
    `bicubic` or `bilinear`; `triangle` is the latter with antialiasing, as in jax.image.
    """
    old = math.isqrt(len(table) - cls)
    if side == old:
        return table
    weights = {"bicubic": _bicubic, "bilinear": bilinear, "triangle": _triangle}[kind](old, side)
    grid = table[cls:].reshape(old, old, -1).astype(np.float64)
    grid = np.einsum("iy,jx,yxd->ijd", weights, weights, grid, optimize=True)
    return np.concatenate([table[:cls], grid.reshape(side * side, -1).astype(table.dtype)])


def resize_rows(table: np.ndarray, count: int) -> np.ndarray:
    """[n, d] -> [count, d], as jax.image.resize(method="bilinear"), which antialiases."""
    return (_triangle(len(table), count) @ table.astype(np.float64)).astype(table.dtype)


def _triangle(old: int, new: int) -> np.ndarray:
    """[new, old]: weights of old samples in new ones, 0 beyond one step of the coarser grid."""
    at = (np.arange(new) + 0.5) * old / new - 0.5
    weights = np.maximum(1 - np.abs(at[:, None] - np.arange(old)) / max(old / new, 1), 0)
    return weights / weights.sum(1, keepdims=True)


def bilinear(old: int, new: int) -> np.ndarray:
    """[new, old]: weight of each old sample in each new one; samples outside repeat the edge."""
    at = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
    return np.maximum(1 - np.abs(at[:, None] - np.arange(old)), 0)


def _bicubic(old: int, new: int) -> np.ndarray:
    """[new, old]: weight of each old sample in each new one; samples outside repeat the edge.

    Rounded to float32 where torch rounds; otherwise results differ from torch's by 5e-6.
    """
    at = _fused(np.arange(new) + 0.5, float(np.float32(old) / np.float32(new)), -0.5)
    first = np.floor(at).astype(int)
    after = (at - first).astype(np.float32)
    before = 1 - after
    taps = (_far(after + 1), _near(after), _near(before), _far(before + 1))
    weights = np.zeros((new, old))
    for offset, tap in enumerate(taps, start=-1):
        np.add.at(weights, (np.arange(new), np.clip(first + offset, 0, old - 1)), tap)
    return weights


def _near(x: np.ndarray) -> np.ndarray:
    """The cubic kernel of Keys at distances of up to 1."""
    return _fused(_fused(x, _A + 2, -_A - 3) * x, x, 1)


def _far(x: np.ndarray) -> np.ndarray:
    """The same kernel at distances of 1 to 2."""
    return _fused(_fused(_fused(x, _A, -5 * _A), x, 8 * _A), x, -4 * _A)


def _fused(a: np.ndarray, b: np.ndarray | float, c: float) -> np.ndarray:
    """a * b + c, rounded once to float32, as processors' fused instructions do."""
    return (a.astype(np.float64) * b + c).astype(np.float32)
