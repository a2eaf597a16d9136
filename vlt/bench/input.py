"""`python -m vlt.bench.input VIDEO...`: clips a second of the decoder processes.

Compared with `--workers` times the rate at which one process decodes and resizes the same frames,
in turn, with one decoding thread per process. How long a training run waits for its input is in its
metrics (wait_share).
"""

import argparse
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vlt.bench.door import count, tell
from vlt.bench.timing import ratio, turns
from vlt.data.video.clips import ClipRequest, DecoderPool, read_clip


def bench(requests: list[ClipRequest], workers: int = 2) -> dict[str, float]:
    """Medians over rounds: clips/s of one bare process and of `workers` processes together."""
    with DecoderPool(workers) as pool, ThreadPoolExecutor(2 * workers) as threads:

        def pooled() -> None:
            list(threads.map(pool.read, requests * workers))

        def bare() -> None:
            for request in requests:
                read_clip(request)

        times = turns(bare, pooled)
    bare_s, pool_s = np.median(times, axis=0).tolist()
    return {
        "bare": len(requests) / bare_s,
        "pool": workers * len(requests) / pool_s,
        "of_ideal": ratio(times, 0, 1),
    }


def main() -> None:
    """Prints the rates for the videos given on the command line."""
    parser = argparse.ArgumentParser(prog="python -m vlt.bench.input", description=__doc__)
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--frames", type=count, default=8)
    parser.add_argument("--size", type=count, default=224)
    parser.add_argument("--workers", type=count, default=2)
    parser.add_argument("--clips", type=count, default=32, help="of a round, at least")
    options = parser.parse_args()
    transform = {"resize": options.size, "crop": options.size}
    paths = itertools.islice(
        itertools.cycle(options.videos), max(options.clips, len(options.videos))
    )
    requests = [
        ClipRequest(path=path, sampler="segment_middle", frames=options.frames, transform=transform)
        for path in paths
    ]
    rates = bench(requests, options.workers)
    print(f"one bare process   {rates['bare']:8.1f} clips/s")
    print(f"{options.workers} decoder processes{rates['pool']:9.1f} clips/s")
    print(f"share of {options.workers} x bare{rates['of_ideal']:10.2f}")


if __name__ == "__main__":
    tell(main)
