"""`python -m vlt.bench.search`: queries of large indices of windows, beside the exact answer.

Windows are random unit vectors in runs that lie around a centre, as those of a video do; queries
are such windows with noise. For `--exact` windows compared in memory and for `--graph` windows
found by a graph: median milliseconds of a query, including its ranges of time; the share of the ten
nearest windows that the graph finds; bytes of the index on disk per byte of vectors; and the
seconds that a new process takes from opening the index to its first answer.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlt.bench.door import count, tell
from vlt.indexing.neighbours import Graph, Neighbours, neighbours, prepare
from vlt.indexing.rows import About, FileEntry, Windows
from vlt.indexing.search import best_ranges, scores_of
from vlt.indexing.store import Store

VIDEO = 50  # windows per video
SPREAD = 0.8  # of a video's windows around their centre, relative to that of the centres
NOISE = 0.3  # of a query, relative to a window
VIDEOS_AT_ONCE = 1000
TOP = 10


def make_index(uri: str, windows: int, width: int, dtype: str) -> Store:
    """Makes an index of `windows` random windows."""
    about = About("", "bench", width, "linspace", 1, {}, "time", 4.0, 4.0, dtype)
    store = Store.open_or_create(uri, about)
    rng = np.random.default_rng(0)
    for first in range(0, windows // VIDEO, VIDEOS_AT_ONCE):
        names = [f"{i}.mp4" for i in range(first, min(first + VIDEOS_AT_ONCE, windows // VIDEO))]
        found = _videos(names, width, rng)
        store.add([FileEntry(name, 1, 1, "", 4.0 * VIDEO, VIDEO) for name in names], found)
    store.compact()
    return store


def _videos(names: Sequence[str], width: int, rng: np.random.Generator) -> Windows:
    centres = rng.standard_normal((len(names), 1, width), np.float32)
    around = rng.standard_normal((len(names), VIDEO, width), np.float32)
    starts = np.tile(4.0 * np.arange(VIDEO), len(names))
    spans = np.stack([starts, starts + 4], -1)
    vectors = (centres + SPREAD * around).reshape(-1, width)
    return Windows(np.repeat(np.array(names, object), VIDEO), spans, _unit(vectors))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def queries_of(store: Store, number: int) -> np.ndarray:
    """Unit vectors [n, e] near windows of an index."""
    rng = np.random.default_rng(1)
    vectors = store.sample(100 * number)[:: max(1, min(100, store.count() // number))][:number]
    noise = rng.standard_normal(vectors.shape, np.float32) / np.sqrt(vectors.shape[1])
    return _unit(vectors + NOISE * noise)


def bench(store: Store, way: str, queries: np.ndarray) -> dict[str, Any]:
    """Figures for one way of finding windows."""
    started = time.perf_counter()
    prepare(store, way)
    built = time.perf_counter() - started
    finder = neighbours(store, way)
    spent = [_seconds(finder, query) for query in queries]
    vectors = store.count() * store.about.embed_dim * np.dtype(store.about.dtype).itemsize
    result: dict[str, Any] = {"windows": store.count(), "p50_ms": 1000 * float(np.median(spent))}
    result["bytes_of_vectors"] = _size(store.uri) / vectors
    if way == "graph":
        result |= {"build_s": built, "recall@10": recall(store, queries)}
    return result | {"cold_s": cold(store.uri, way)}


def _seconds(finder: Neighbours, query: np.ndarray) -> float:
    started = time.perf_counter()
    windows, scores, usual = finder.near(query, TOP)
    best_ranges(windows, scores, TOP, usual)
    return time.perf_counter() - started


def recall(store: Store, queries: np.ndarray) -> float:
    """Share of the `TOP` nearest windows, by exact comparison, that the graph finds."""
    every = store.read()
    nearest = [_best(every, query) for query in queries]
    del every
    finder = Graph(store)
    found = (finder.near(query, TOP) for query in queries)
    hits = [_names(w, s) & n for (w, s, _), n in zip(found, nearest, strict=True)]
    return float(np.mean([len(hit) / TOP for hit in hits]))


def _best(windows: Windows, query: np.ndarray) -> set[tuple[str, float]]:
    return _names(windows, scores_of(windows, query))


def _names(windows: Windows, scores: np.ndarray) -> set[tuple[str, float]]:
    best = np.argsort(-scores, kind="stable")[:TOP]
    return {(windows.paths[i], float(windows.spans[i, 0])) for i in best}


def _size(uri: str) -> int:
    return sum(path.stat().st_size for path in Path(uri).rglob("*") if path.is_file())


def cold(uri: str, way: str) -> float:
    """Seconds that a new process takes from opening an index to its first answer."""
    command = [sys.executable, "-m", "vlt.bench.search", f"--first={uri}", f"--way={way}"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def first_answer(uri: str, way: str) -> float:
    """As `cold`, in this process."""
    started = time.perf_counter()
    store = Store(uri)
    _seconds(neighbours(store, way), np.full(store.about.embed_dim, 0.01, np.float32))
    return time.perf_counter() - started


def run(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields both ways of finding windows, each with its figures."""
    for way, windows in (("exact", options.exact), ("graph", options.graph)):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            store = make_index(f"{folder}/index", windows, options.width, options.dtype)
            yield way, bench(store, way, queries_of(store, options.queries))


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m vlt.bench.search", description=__doc__)
    parser.add_argument("--exact", type=count, default=200_000, help="windows that are compared")
    parser.add_argument("--graph", type=count, default=1_000_000, help="windows found by a graph")
    parser.add_argument("--width", type=count, default=512, help="numbers of a vector")
    parser.add_argument("--queries", type=count, default=100)
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    parser.add_argument("--folder", help="where the indices are made for a while")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--first", help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.first:
        print(first_answer(options.first, options.way))
        return
    results = {}
    for way, found in run(options):
        results[way] = found
        if not options.json:
            figures = "  ".join(f"{name} {value:,.4g}" for name, value in found.items())
            print(f"{way}: {figures}", flush=True)
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    tell(main)
