"""Which frames of a video a model sees: the papers' sampling rules, by name.

`sample(name, n, frames, rng=..., fps=...)` returns ascending int64 indices in 0..n-1. Unless a rule
says otherwise it returns `frames` of them; where more are asked for than the n that exist, indices
repeat, as they do in the paper's code.
"""

from collections.abc import Callable

import numpy as np

from vlt.data import errors


def uniform_segments(n: int, frames: int, rng: np.random.Generator, fps: float) -> np.ndarray:
    """One random frame of each of `frames` equal segments (BT-Adapter, training).

    With s = (n - 1) / frames, frame i is a random integer in [round(s i), round(s (i + 1))], both
    ends included.
    """
    edges = _edges(n, frames)
    return rng.integers(edges[:-1], edges[1:], endpoint=True)


def segment_middle(n: int, frames: int, rng: np.random.Generator, fps: float) -> np.ndarray:
    """round(s i) + int(s / 2), s = (n - 1) / frames (BT-Adapter, testing)."""
    return _edges(n, frames)[:-1] + int((n - 1) / frames / 2)


def conversation_middle(n: int, frames: int, rng: np.random.Generator, fps: float) -> np.ndarray:
    """(round(s i) + round(s (i + 1))) // 2, s = (n - 1) / T (BT-Adapter, conversation).

    T = min(n, frames): of a shorter video this rule returns fewer than `frames` indices.
    """
    edges = _edges(n, min(n, frames))
    return (edges[:-1] + edges[1:]) // 2


def linspace(n: int, frames: int, rng: np.random.Generator, fps: float) -> np.ndarray:
    """round(linspace(0, n - 1, frames)), both ends of the video included."""
    return np.round(np.linspace(0, n - 1, frames)).astype(np.int64)


def fps1_linspace(n: int, frames: int, rng: np.random.Generator, fps: float) -> np.ndarray:
    """One frame a second, thinned to `frames` of them by a truncating linspace (TempMe).

    A video of fewer seconds than `frames` gives linspace(0, n - 1, frames), truncated, over all its
    frames.
    """
    # Below one frame every two seconds the published stride would be 0.
    each_second = np.arange(0, n, max(1, round(fps)))
    if len(each_second) < frames:
        return np.linspace(0, n - 1, frames, dtype=np.int64)
    return each_second[np.linspace(0, len(each_second) - 1, frames, dtype=np.int64)]


def segment_centre(n: int, frames: int, rng: np.random.Generator, fps: float) -> np.ndarray:
    """floor((i + 0.5) n / frames): the centre of each of `frames` equal segments."""
    return (2 * np.arange(frames) + 1) * n // (2 * frames)


def random_frames(n: int, frames: int, rng: np.random.Generator, fps: float) -> np.ndarray:
    """Any `frames` frames (Token Mixing, training, and its tests of retrieval and questions)."""
    repeats = _repeats(n, frames)
    return np.sort(rng.choice(n * repeats, frames, replace=False)) // repeats


def published_uniform(n: int, frames: int, rng: np.random.Generator, fps: float) -> np.ndarray:
    """i * int(n / frames): the step is truncated, so up to frames - 1 of the last frames are never
    seen (Token Mixing, tests of captioning, on files of three frames a second).

    `segment_centre` sees the whole video.
    """
    repeats = _repeats(n, frames)
    return np.arange(frames) * (n * repeats // frames) // repeats


SAMPLERS: dict[str, Callable[[int, int, np.random.Generator, float], np.ndarray]] = {
    rule.__name__: rule
    for rule in (
        uniform_segments,
        segment_middle,
        conversation_middle,
        linspace,
        fps1_linspace,
        segment_centre,
        random_frames,
        published_uniform,
    )
}


def sample(
    name: str, n: int, frames: int, *, rng: np.random.Generator, fps: float = 0.0
) -> np.ndarray:
    """Indices of the frames that rule `name` takes from a video: int64 [frames], ascending.

    Args:
      name: a key of `SAMPLERS`.
      n: number of frames in the video.
      frames: number of frames wanted.
      rng: used by the random rules only.
      fps: frames a second; used by `fps1_linspace` only.

    Raises: ValueError for an unknown rule or counts below 1.
    """
    check_sampler(name)
    if n < 1 or frames < 1:
        raise ValueError(f"cannot sample {frames} frames of {n}: both must be at least 1")
    return SAMPLERS[name](n, frames, rng, fps)


def check_sampler(name: str) -> None:
    """Raises ValueError, with the nearest names, unless `name` is a sampling rule."""
    if name not in SAMPLERS:
        raise errors.unknown("sampler", name, SAMPLERS)


def _repeats(n: int, frames: int) -> int:
    """How often each frame of a short video stands, side by side, so that more than `frames` do:
    doubled until then, as in Token Mixing's code."""
    repeats = 1
    while n * repeats <= frames:
        repeats *= 2
    return repeats


def _edges(n: int, segments: int) -> np.ndarray:
    """round(s i) for i = 0..segments, s = (n - 1) / segments: int64 [segments + 1]."""
    return np.round((n - 1) / segments * np.arange(segments + 1)).astype(np.int64)
