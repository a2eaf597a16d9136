"""`python -m vlt.bench.shards VIDEO...`: clips a second read from shards, beside the videos.

Writes the videos to shards of JPEG frames and of re-encoded clips, in a temporary folder. Then
reads clips from the files and from each kind of shard, in turn, with the same sampler and
transform: in other processes, as training does, and in threads of this process.
"""

import argparse
import pathlib
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from data_pipelines.shards import folder
from data_pipelines.shards.encode import Clips, Frames
from data_pipelines.shards.write import WORKER, write_shard
from vlt.bench.door import count, tell
from vlt.bench.timing import ratio, turns
from vlt.data.manifests.manifest import read_manifest
from vlt.data.video.clips import ClipRequest, DecoderPool


def make_shards(videos: Sequence[str], form: Clips | Frames, out: str) -> list[str]:
    """Writes the videos to one shard in folder `out`; returns their names in a manifest, in order.

    Raises: FolderError: none of them can be read.
    """
    rows: list[folder.Row] = [{"video": name, "caption": "-"} for name in videos]
    entries = folder.distinct_videos(rows)
    manifest = pathlib.Path(out).with_suffix(".jsonl")
    manifest.touch()
    plan = folder.make_plan(str(manifest), "/", form, per_shard=len(entries))
    folder.start(out, plan, entries)
    with DecoderPool(1, timeout=600, command=WORKER) as pool:
        write_shard(out, plan, folder.shard_names(plan, len(entries))[0], entries, pool)
    folder.finish(out, plan, rows)
    return [record.video for record in read_manifest(pathlib.Path(out) / folder.MANIFEST)]


def bench(
    sources: dict[str, list[ClipRequest]], workers: int, rounds: int
) -> tuple[dict[str, float], np.ndarray]:
    """Clips/s by source (medians over rounds), and the seconds [rounds, sources]."""
    with DecoderPool(workers) as pool, ThreadPoolExecutor(2 * max(1, workers)) as threads:

        def read(requests: list[ClipRequest]) -> None:
            list(threads.map(pool.read, requests))

        times = turns(*(partial(read, requests) for requests in sources.values()), rounds=rounds)
    medians = np.median(times, axis=0).tolist()
    pairs = zip(sources.items(), medians, strict=True)
    return {name: len(requests) / spent for (name, requests), spent in pairs}, times


def main() -> None:
    """Prints the rates for the videos given on the command line."""
    parser = argparse.ArgumentParser(prog="python -m vlt.bench.shards", description=__doc__)
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--frames", type=count, default=8)
    parser.add_argument("--size", type=count, default=224)
    parser.add_argument("--fps", type=float, default=0.0, help="of the shards; 0 keeps all frames")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=count, default=7)
    options = parser.parse_args()
    transform = {"resize": options.size, "crop": options.size}
    videos = [str(pathlib.Path(path).resolve()) for path in options.videos]
    forms: dict[str, Clips | Frames] = {
        "JPEG frames": Frames(short_side=options.size, fps=options.fps),
        "re-encoded clips": Clips(short_side=options.size, fps=options.fps),
    }
    with tempfile.TemporaryDirectory() as root:
        made = {n: make_shards(videos, form, f"{root}/{n}") for n, form in forms.items()}
        sources = {
            name: [ClipRequest(path, "segment_middle", options.frames, transform) for path in paths]
            for name, paths in {"the videos": videos, **made}.items()
        }
        for workers in (options.workers, 0):
            rates, times = bench(sources, workers, options.rounds)
            print(f"{workers} processes" if workers else "2 threads of this process")
            for column, (name, rate) in enumerate(rates.items()):
                print(f"  {name:20}{rate:9.1f} clips/s{ratio(times, 0, column):7.2f} x")


if __name__ == "__main__":
    tell(main)
