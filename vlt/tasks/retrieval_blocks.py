"""Retrieval metrics (vlt/tasks/retrieval_metrics.py) of more scores than a machine holds at once.

A block of scores is computed, compared with the true scores of its rows and columns, and discarded;
only two counts for each text and each video are kept. Ranks are those of the whole matrix, ties
included.
"""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from vlt.runtime.processes import is_single_process
from vlt.tasks.retrieval_metrics import TIES, checked_truth, summary_of_counts

BLOCK = (2048, 4096)  # texts and videos whose scores are in memory at once: 32 MB
AT_ONCE = 2  # blocks on a host: while one core counts in one, another is multiplied
ROWS = 255  # rows of a block that are counted together, as many as a byte can count


def retrieval_metrics_of_embeddings(
    texts: np.ndarray,
    videos: np.ndarray,
    video_of_text: np.ndarray,
    ties: str = "against",
    block: tuple[int, int] = BLOCK,
) -> dict[str, float]:
    """`retrieval_metrics` of `texts @ videos.T`, in blocks, on this process's first device.

    Several processes, which must all hold the same arrays, share the blocks.

    Args:
      texts, videos: float32 [n, e] and [v, e].
      video_of_text: int [n]. ties: as there. block: numbers of texts and videos in one block.

    Raises:
      ValueError: NaNs, shapes that disagree, a video without a text, or an unknown rule for ties.
    """
    if ties not in TIES:
        raise ValueError(f"unknown ties: {ties!r}; choose from {', '.join(TIES)}")
    texts, videos = (np.asarray(x, np.float32) for x in (texts, videos))
    truth = checked_truth(np.asarray(video_of_text), (len(texts), len(videos)))
    for name, rows in (("text", texts), ("video", videos)):
        if np.isnan(rows).any():
            raise ValueError(f"{name} {np.flatnonzero(np.isnan(rows).any(1))[0]} is NaN")
    order = np.argsort(truth, kind="stable")  # so that few blocks hold true pairs
    texts, truth = texts[order], truth[order]
    own = _scores_of_pairs(texts, videos, truth, block)
    best = np.full(len(videos), -np.inf, np.float32)
    np.maximum.at(best, truth, own)
    counts = _counted(texts, videos, truth, own, best, block, above=ties == "published")
    return {
        **summary_of_counts("t2v", counts["above_row"], counts["least_row"], ties),
        **summary_of_counts("v2t", counts["above_column"], counts["least_column"], ties),
    }


def _scores_of_pairs(
    texts: np.ndarray, videos: np.ndarray, truth: np.ndarray, block: tuple[int, int]
) -> np.ndarray:
    """Score of each text with its video, float32 [n], from the same products as all other scores,
    so that a video's copy scores exactly as it does. truth: ascending."""
    product = np.matmul if _on_host() else jax.jit(_product)
    found = np.empty(len(texts), np.float32)
    for rows, columns in _blocks(texts, videos, block):
        if truth[rows.start] < columns.stop and truth[rows.stop - 1] >= columns.start:
            place = truth[rows] - columns.start
            inside = np.flatnonzero((place >= 0) & (place < columns.stop - columns.start))
            scores = np.asarray(product(texts[rows], videos[columns].T))
            found[rows][inside] = scores[inside, place[inside]]
    return found


def _product(text: Any, video: Any) -> jax.Array:
    return jnp.matmul(text, video, precision="highest")


def _on_host() -> bool:
    return jax.devices()[0].platform == "cpu"


def _blocks(
    texts: np.ndarray, videos: np.ndarray, block: tuple[int, int]
) -> Iterator[tuple[slice, slice]]:
    return itertools.product(_slices(len(texts), block[0]), _slices(len(videos), block[1]))


def _counted(
    texts: np.ndarray,
    videos: np.ndarray,
    truth: np.ndarray,
    own: np.ndarray,
    best: np.ndarray,
    block: tuple[int, int],
    above: bool,
) -> dict[str, np.ndarray]:
    """How many wrong candidates of each text (row) and video (column) score at least as high as its
    best true one, and, where `above` is set, how many higher."""
    compared = _compared_on_host if _on_host() else jax.jit(_compared, static_argnums=5)
    counts = {
        f"{name}_{side}": np.zeros(len(rows), np.int64)
        for side, rows in (("row", texts), ("column", videos))
        for name in ("above", "least")
    }

    def count(rows: slice, columns: slice) -> tuple[slice, slice, dict[str, np.ndarray]]:
        place = truth[rows] - columns.start
        wide = columns.stop - columns.start
        place = np.where((place >= 0) & (place < wide), place, wide)
        found = compared(texts[rows], videos[columns], own[rows], best[columns], place, above)
        return rows, columns, {key: np.asarray(value) for key, value in found.items()}

    blocks = _blocks(texts, videos, block)
    mine = itertools.islice(blocks, jax.process_index(), None, jax.process_count())
    with ThreadPoolExecutor(AT_ONCE if _on_host() else 1) as threads:
        for rows, columns, found in threads.map(lambda each: count(*each), mine):
            for key, value in found.items():
                counts[key][rows if key.endswith("row") else columns] += value
    return counts if is_single_process() else _summed(counts)


def _compared(
    text: Any, video: Any, own: Any, best: Any, place: Any, above: bool
) -> dict[str, jax.Array]:
    """Counts of one block. place: column of each true pair, past the last if outside the block."""
    scores = _product(text, video.T)
    scores = scores.at[jnp.arange(len(text)), place].set(-jnp.inf, mode="drop")
    found = {
        "least_row": jnp.sum(scores >= own[:, None], 1, dtype=jnp.int32),
        "least_column": jnp.sum(scores >= best, 0, dtype=jnp.int32),
    }
    if above:
        found["above_row"] = jnp.sum(scores > own[:, None], 1, dtype=jnp.int32)
        found["above_column"] = jnp.sum(scores > best, 0, dtype=jnp.int32)
    return found


def _compared_on_host(
    text: np.ndarray,
    video: np.ndarray,
    own: np.ndarray,
    best: np.ndarray,
    place: np.ndarray,
    above: bool,
) -> dict[str, np.ndarray]:
    """As `_compared`, in numpy, which takes a quarter of the time that XLA takes on a CPU."""
    scores = text @ video.T
    inside = np.flatnonzero(place < len(video))
    scores[inside, place[inside]] = -np.inf
    names = ("least", "above") if above else ("least",)
    found = {f"{name}_row": np.empty(len(text), np.int64) for name in names}
    found |= {f"{name}_column": np.zeros(len(video), np.int64) for name in names}
    true = np.empty((min(ROWS, len(text)), len(video)), bool)
    for rows in _slices(len(text), ROWS):  # few enough to stay in the cache
        part, flags = scores[rows], true[: rows.stop - rows.start]
        for name in names:
            higher = np.greater_equal if name == "least" else np.greater
            higher(part, best, out=flags)
            found[f"{name}_column"] += flags.view(np.uint8).sum(0, dtype=np.uint8)
            higher(part, own[rows, None], out=flags)
            found[f"{name}_row"][rows] = [np.count_nonzero(each) for each in flags]
    return found


def _slices(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _summed(counts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(multihost_utils.process_allgather(value.astype(np.int32))).sum(0)
        for name, value in counts.items()
    }
