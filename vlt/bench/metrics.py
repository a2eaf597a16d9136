"""`python -m vlt.bench.metrics`: exact metrics of retrieval between very many texts and videos.

On random unit vectors, each text near its video and some videos duplicated: seconds of the metrics
computed by blocks, beside those of the products alone, extrapolated from `--floor` blocks; peak
memory of the process; and, for the first `--checked` vectors, whether the metrics by blocks equal
those of the whole matrix, to the last rank.
"""

import argparse
import itertools
import time
from collections.abc import Sequence

import numpy as np

from vlt.bench.door import count, show, tell
from vlt.bench.timing import peak_gb
from vlt.tasks.retrieval_blocks import BLOCK, retrieval_metrics_of_embeddings
from vlt.tasks.retrieval_metrics import TIES, retrieval_metrics

NOISE = 1.5  # of a text, relative to its video's own numbers
COPIES = 50  # one in this many videos is a copy of the one before it


def make(number: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of texts and of their videos, float32 [n, e] each."""
    rng = np.random.default_rng(0)
    videos = rng.standard_normal((number, width), np.float32)
    videos[COPIES - 1 :: COPIES] = videos[COPIES - 2 : number - 1 : COPIES]
    texts = rng.standard_normal((number, width), np.float32)
    texts *= NOISE
    texts += videos
    for x in (texts, videos):
        x /= np.linalg.norm(x, axis=-1, keepdims=True)
    return texts, videos


def floor(texts: np.ndarray, videos: np.ndarray, blocks: int) -> float:
    """Seconds that all products take, extrapolated from `blocks` blocks of them."""
    rows, columns = (range(0, len(x), size) for x, size in zip((texts, videos), BLOCK, strict=True))
    started, done = time.perf_counter(), 0
    for row, column in itertools.islice(itertools.product(rows, columns), blocks):
        done += (texts[row : row + BLOCK[0]] @ videos[column : column + BLOCK[1]].T).size
    return (time.perf_counter() - started) * len(texts) * len(videos) / done


def bench(number: int, width: int, ties: str, blocks: int, checked: int) -> dict[str, float | bool]:
    """Figures for `number` texts and videos."""
    texts, videos = make(number, width)
    least = [floor(texts, videos, blocks)]
    started = time.perf_counter()
    retrieval_metrics_of_embeddings(texts, videos, np.arange(number), ties)
    spent = time.perf_counter() - started
    peak = peak_gb()
    least.append(floor(texts, videos, blocks))
    few = texts[:checked], videos[:checked]
    truth = np.arange(len(few[0]))
    whole = retrieval_metrics(few[0] @ few[1].T, truth, ties)
    return {
        "pairs": number**2,
        "seconds": spent,
        "products_s": float(np.mean(least)),
        "peak_gb": peak,
        "equal": retrieval_metrics_of_embeddings(*few, truth, ties) == whole,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m vlt.bench.metrics", description=__doc__)
    parser.add_argument("--number", type=count, default=100_000, help="texts, and videos")
    parser.add_argument("--width", type=count, default=512, help="numbers of a vector")
    parser.add_argument("--ties", choices=TIES, default=TIES[0])
    parser.add_argument("--floor", type=count, default=50, help="blocks of products, twice")
    parser.add_argument("--checked", type=count, default=5000, help="compared with the whole")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    found = bench(options.number, options.width, options.ties, options.floor, options.checked)
    show(found, options.json)


if __name__ == "__main__":
    tell(main)
