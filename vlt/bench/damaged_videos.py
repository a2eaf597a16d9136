"""`python -m vlt.bench.damaged_videos FOLDER`: what becomes of damaged copies of its videos.

The law: a damaged file either raises a typed error or yields as many frames as the sound one, and
no decoder crashes or hangs. With its sha256 in the manifest, every changed byte is reported. Each
copy is opened and some of its frames are read, as in training; then it is decoded in full.

Then the memory of one decoder process is measured over many clips of sound and damaged files in
turn. It is flat if its median grows by less than 16 MiB from the second fifth to the last.

The exit status is 1 if any of this does not hold.
"""

import argparse
import collections
import contextlib
import itertools
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vlt.bench.damage import DAMAGES, Damaged, damage
from vlt.bench.door import count, tell
from vlt.bench.frame_count import SAMPLED, Request
from vlt.data.video.checksum import sha256_of
from vlt.data.video.clips import ClipRequest, DecoderPool
from vlt.data.video.errors import ChangedFile, DecoderDied, DecodeTimeout, VideoError

COUNTER = (sys.executable, "-m", "vlt.bench.frame_count")
SAME, REPORTED, CHANGED = "same frames", "reported", "with sha256"
# Outcomes that break the law.
FEWER, MORE, CRASHED, HUNG, MISSED = "fewer", "more", "crashed", "hung", "sha256 missed"
COLUMNS = (SAME, REPORTED, FEWER, MORE, CRASHED, HUNG, CHANGED, MISSED)
FLAT = 16 << 20  # bytes


def outcome(pool: DecoderPool, request: Request, frames: int) -> tuple[str, str]:
    """One of COLUMNS, and the name of the error's type or ''."""
    try:
        found = int(pool.read(request).view(np.int64)[0])
    except VideoError as error:
        kind = {DecoderDied: CRASHED, DecodeTimeout: HUNG}.get(type(error), REPORTED)
        return kind, type(error).__name__
    return SAME if found == frames else FEWER if found < frames else MORE, ""


def worst(outcomes: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """The outcome that comes last in COLUMNS."""
    return max(outcomes, key=lambda found: COLUMNS.index(found[0]))


def is_noticed(pool: DecoderPool, path: str, sha256: str) -> bool:
    """Whether reading a clip of the file reports that its sha256 is not the given one."""
    try:
        pool.read(ClipRequest(path, "linspace", SAMPLED, sha256=sha256))
    except ChangedFile as error:
        return error.path == path and sha256 in error.reason
    except VideoError:
        return False
    return False


def sound_videos(folder: str, pool: DecoderPool) -> dict[str, int]:
    """Frame counts, by path, of the folder's files that decode in full, smallest file first."""
    paths = [str(path) for path in pathlib.Path(folder).iterdir() if path.is_file()]
    found = {}
    for path in sorted(paths, key=lambda path: (os.path.getsize(path), path)):
        try:
            found[path] = int(pool.read(Request(path, whole=True)).view(np.int64)[0])
        except VideoError:
            continue
    return found


def campaign(
    damaged: Sequence[Damaged], sound: dict[str, int], pool: DecoderPool, clips: DecoderPool
) -> tuple[dict[str, collections.Counter[str]], list[str]]:
    """Counts of outcomes and error types by kind of damage; a line per copy that breaks the law."""
    sums = {path: sha256_of(path) for path in sound}

    def look(copy: Damaged) -> list[str]:
        requests = [Request(copy.path, whole) for whole in (False, True)]
        found, error = worst([outcome(pool, r, sound[copy.source]) for r in requests])
        noticed = [CHANGED] if copy.changed else []
        if is_noticed(clips, copy.path, sums[copy.source]) != copy.changed:
            noticed = [MISSED]
        return [found, *noticed, *filter(None, [error])]

    table: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in DAMAGES}
    broken = []
    with ThreadPoolExecutor(pool.workers) as threads:
        for copy, found in zip(damaged, threads.map(look, damaged), strict=True):
            table[copy.kind].update(found)
            laws = [law for law in found if law in (FEWER, MORE, CRASHED, HUNG, MISSED)]
            broken += [f"{os.path.basename(copy.path)}: {', '.join(laws)}"] if laws else []
    return table, broken


def resident(pool: DecoderPool, paths: Sequence[str], decodes: int) -> np.ndarray:
    """Resident bytes of the pool's only process after each clip, files in turn: int64 [decodes].

    Raises: RuntimeError: the process was replaced by another.
    """
    transform = {"resize": 224, "crop": 224}
    child, sizes = pool.processes[0], []
    for seed, path in enumerate(itertools.islice(itertools.cycle(paths), decodes)):
        with contextlib.suppress(VideoError):
            pool.read(ClipRequest(path, "uniform_segments", SAMPLED, transform, seed))
        if pool.processes != [child]:
            raise RuntimeError(f"the decoder did not survive {path}")
        pages = pathlib.Path(f"/proc/{child.pid}/statm").read_text().split()[1]
        sizes.append(int(pages) * os.sysconf("SC_PAGE_SIZE"))
    return np.array(sizes)


def growth(sizes: np.ndarray) -> float:
    """Growth in bytes from the median of the second fifth to that of the last."""
    fifths = np.array_split(sizes, 5)
    return float(np.median(fifths[4]) - np.median(fifths[1]))


def lines_of(table: dict[str, collections.Counter[str]]) -> list[str]:
    """The table, followed by the types of the reported errors."""
    rows = table | {"all": sum(table.values(), collections.Counter())}
    lines = [f"{'':12}" + "".join(f"{name:>14}" for name in ("files", *COLUMNS))]
    for kind, found in rows.items():
        files = sum(found[name] for name in (SAME, REPORTED, FEWER, MORE, CRASHED, HUNG))
        counts = (files, *(found[name] for name in COLUMNS))
        lines.append(f"{kind:12}" + "".join(f"{number:14,}" for number in counts))
    errors = {name: n for name, n in rows["all"].items() if name not in COLUMNS}
    return [*lines, "reported as " + ", ".join(f"{name} {n}" for name, n in errors.items())]


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints both results; exits with status 1 if either is not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m vlt.bench.damaged_videos", description=__doc__)
    parser.add_argument("folder", help="of videos; those that are not sound are left out")
    parser.add_argument("--count", type=count, default=200, help="damaged copies")
    parser.add_argument("--decodes", type=int, default=5000, help="clips for the memory; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=count, default=2)
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one file")
    options = parser.parse_args(argv)
    with (
        tempfile.TemporaryDirectory() as folder,
        DecoderPool(options.workers, options.timeout, COUNTER) as pool,
        DecoderPool(1, options.timeout) as clips,
    ):
        sound = sound_videos(options.folder, pool)
        if not sound:
            parser.error(f"{options.folder} holds no sound video")
        _progress(f"{len(sound)} sound videos; {options.count} damaged copies")
        damaged = list(damage([*sound], folder, options.count, options.seed))
        table, broken = campaign(damaged, sound, pool, clips)
        print("\n".join(lines_of(table) + broken))
        grown = 0.0
        if options.decodes:
            _progress(f"memory over {options.decodes:,} clips")
            paths = [p for a, b in zip(sound, damaged, strict=False) for p in (a, b.path)]
            sizes = resident(clips, paths, options.decodes)
            grown = growth(sizes)
            fifths = ", ".join(f"{np.median(f) / 1e6:.1f}" for f in np.array_split(sizes, 5))
            verdict = "flat" if grown < FLAT else "not flat"
            print(f"memory over {len(sizes):,} clips, MB, medians of fifths: {fifths}: {verdict}")
    sys.exit(int(bool(broken) or grown >= FLAT))


if __name__ == "__main__":
    tell(main)
