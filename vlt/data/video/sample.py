"""Which frames of a video a model sees: the papers' sampling rules, by name.

A rule gives ascending int64 indices in 0..n-1, `frames` of them unless it says otherwise; where
more are asked for than the n that exist, indices repeat, as in the paper's code. `sample` gives the
indices of one clip of a video or of several.
"""

from collections.abc import Callable

import numpy as np

from vlt.data.video import errors


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

    T = min(n, frames): for a shorter video this rule returns fewer than `frames` indices.
    """
    edges = _edges(n, min(n, frames))
    return (edges[:-1] + edges[1:]) // 2


def linspace(n: int, frames: int, rng: np.random.Generator, fps: float) -> np.ndarray:
    """round(linspace(0, n - 1, frames)), both ends of the video included."""
    return np.round(np.linspace(0, n - 1, frames)).astype(np.int64)


def linspace_floor(n: int, frames: int, rng: np.random.Generator, fps: float) -> np.ndarray:
    """floor(i (n - 1) / (frames - 1)), both ends of the video included (PE-Core, retrieval)."""
    return np.arange(frames) * (n - 1) // max(frames - 1, 1)


def linspace_open(n: int, frames: int, rng: np.random.Generator, fps: float) -> np.ndarray:
    """floor(linspace(0, n, frames)), its end left out: the start of each segment (VideoPrism)."""
    return np.linspace(0, n, frames, endpoint=False).astype(np.int64)


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
    """`frames` random frames (Token Mixing: training, and testing of retrieval and questions)."""
    repeats = _repeats(n, frames)
    return np.sort(rng.choice(n * repeats, frames, replace=False)) // repeats


def published_uniform(n: int, frames: int, rng: np.random.Generator, fps: float) -> np.ndarray:
    """i * int(n / frames): the step is truncated, so up to frames - 1 of the last frames are never
    seen (Token Mixing, tests of captioning, on files of three frames a second).

    `segment_centre` sees the whole video.
    """
    repeats = _repeats(n, frames)
    return np.arange(frames) * (n * repeats // frames) // repeats


def random_segments(n: int, frames: int, rng: np.random.Generator, fps: float) -> np.ndarray:
    """One random frame of each of `frames` segments of n // frames frames (ViFi-CLIP's training,
    which MSTA follows; its tests take `segment_centre`).

    The frames left over at the end are never seen. A video with fewer frames than wanted gives
    round(i n / frames), at most its last frame, where the published rule starts over.
    """
    length = n // frames
    if length:
        return np.arange(frames) * length + rng.integers(length, size=frames)
    return np.minimum(np.round(np.arange(frames) * n / frames).astype(np.int64), n - 1)


def viclip_middle(n: int, frames: int, rng: np.random.Generator, fps: float) -> np.ndarray:
    """The middle, (a + b) // 2, of each interval a..b of frames, b included (ViCLIP, testing).

    Intervals begin at floor(i n / frames). A video with fewer frames gives each of them, then
    repeats its last.
    """
    edges = _interval_edges(n, frames)
    return _fill((edges[:-1] + edges[1:] - 1) // 2, frames)


def viclip_random(n: int, frames: int, rng: np.random.Generator, fps: float) -> np.ndarray:
    """One random frame of each interval of `viclip_middle`, never its last (ViCLIP, training).

    If an interval holds only one frame: random frames of the whole video, each at most once, the
    last repeated where the video has too few.
    """
    edges = _interval_edges(n, frames)
    low, last = edges[:-1], edges[1:] - 1
    if (low < last).all():
        return rng.integers(low, last)
    return _fill(np.sort(rng.permutation(n)[: len(low)]), frames)


SAMPLERS: dict[str, Callable[[int, int, np.random.Generator, float], np.ndarray]] = {
    rule.__name__: rule
    for rule in (
        uniform_segments,
        segment_middle,
        conversation_middle,
        linspace,
        linspace_floor,
        linspace_open,
        fps1_linspace,
        segment_centre,
        random_frames,
        published_uniform,
        random_segments,
        viclip_middle,
        viclip_random,
    )
}
RANDOM_SAMPLERS = {"uniform_segments", "random_frames", "random_segments", "viclip_random"}


def sample(
    name: str,
    n: int,
    frames: int,
    *,
    rng: np.random.Generator,
    fps: float = 0.0,
    clips: int = 1,
) -> np.ndarray:
    """Indices of the frames that rule `name` takes from a video: int64 [clips * frames].

    Clips follow one another, each ascending. A random rule draws each clip separately. With any
    other rule, the frames for all clips together are dealt out in turn, so that each clip spans the
    video.

    Args:
      name: a key of `SAMPLERS`.
      n: number of frames in the video.
      frames: number of frames wanted for a clip.
      rng: used by the random rules only.
      fps: frames a second; used by `fps1_linspace` only.
      clips: number of clips.

    Raises: ValueError for an unknown rule or counts below 1.
    """
    check_sampler(name)
    if n < 1 or frames < 1 or clips < 1:
        raise ValueError(f"cannot sample {clips} x {frames} frames of {n}: all must be >= 1")
    if name in RANDOM_SAMPLERS:
        return np.concatenate([SAMPLERS[name](n, frames, rng, fps) for _ in range(clips)])
    every = SAMPLERS[name](n, clips * frames, rng, fps)
    return np.concatenate([every[clip::clips] for clip in range(clips)])


def check_sampler(name: str) -> None:
    """Raises ValueError, with the nearest names, unless `name` is a sampling rule."""
    if name not in SAMPLERS:
        raise errors.unknown("sampler", name, SAMPLERS)


def _repeats(n: int, frames: int) -> int:
    """How often each frame of a short video is repeated in place, for more than `frames` in all:
    doubled until then, as in Token Mixing's code."""
    repeats = 1
    while n * repeats <= frames:
        repeats *= 2
    return repeats


def _edges(n: int, segments: int) -> np.ndarray:
    """round(s i) for i = 0..segments, s = (n - 1) / segments: int64 [segments + 1]."""
    return np.round((n - 1) / segments * np.arange(segments + 1)).astype(np.int64)


def _interval_edges(n: int, frames: int) -> np.ndarray:
    """floor(i n / k) for i = 0..k, of k = min(n, frames) intervals: int64 [k + 1]."""
    return np.linspace(0, n, min(n, frames) + 1).astype(np.int64)


def _fill(indices: np.ndarray, frames: int) -> np.ndarray:
    """Repeats the last index until there are `frames` indices."""
    return np.pad(indices, (0, frames - len(indices)), mode="edge")
