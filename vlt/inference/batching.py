"""Maps a function of a batch of clips over any number of video files."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

import numpy as np

from vlt.data.video.clips import DecoderPool, decoders
from vlt.data.video.errors import VideoError
from vlt.inference.prefetch import Clip, clip_request, read_ahead
from vlt.model_io.folder import ModelConfig

BATCH = 4  # videos

T = TypeVar("T")


def map_videos(
    function: Callable[[np.ndarray], Sequence[T]], config: ModelConfig, paths: Sequence[str]
) -> Generator[tuple[str, T | VideoError], None, None]:
    """Yields each path with the function's result for its clip, or why it cannot be read, in order.

    Args:
        function: uint8 [b, t, H, W, 3] -> b results; b is the same in every call, t is smaller for
            videos of which the sampler takes fewer frames.
        config: the model's, which says what frames it takes.
    """
    size = min(BATCH, len(paths))
    requests = (clip_request(config, path) for path in paths)
    with (
        DecoderPool(min(len(paths), decoders(2 * BATCH))) as pool,
        contextlib.closing(read_ahead(pool, requests, size)) as batches,
    ):
        for batch, clips in batches:
            results = map_readable(function, clips, size)
            for request, result in zip(batch, results, strict=True):
                yield request.path, result


def map_readable(
    function: Callable[[np.ndarray], Sequence[T]], clips: Sequence[Clip], size: int
) -> list[T | VideoError]:
    """The function's results for the clips; errors among the clips stay as they are.

    The function is called once for each shape of clips, with the first of that shape repeated to
    fill up `size`, so that one compiled program serves every batch.
    """
    alike: dict[tuple[int, ...], list[np.ndarray]] = {}
    for clip in clips:
        if not isinstance(clip, VideoError):
            alike.setdefault(clip.shape, []).append(clip)
    results = {
        shape: iter(function(np.stack([*found, *found[:1] * (size - len(found))])))
        for shape, found in alike.items()
    }
    return [clip if isinstance(clip, VideoError) else next(results[clip.shape]) for clip in clips]
