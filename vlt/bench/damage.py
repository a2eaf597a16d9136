"""Ways in which video files get damaged, each a function of content and random numbers."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".ts", ".gif", ".txt", "")
_MOST_FLIPS = 64
# Headers are a small part of a file, but their content matters most.
_HEADER = 2048


@dataclasses.dataclass(frozen=True)
class Damaged:
    """A damaged copy.

    path: path of the copy. kind: a key of DAMAGES. source: path of the sound file.
    changed: whether any byte differs.
    """

    path: str
    kind: str
    source: str
    changed: bool


def truncate(content: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """The beginning of the file."""
    return content[: rng.integers(len(content))]


def flip(content: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """Inverts 1 to 63 bits, anywhere or in the first or last 2 KB."""
    size = len(content)
    start, end = [(0, size), (0, min(_HEADER, size)), (max(0, size - _HEADER), size)][
        rng.integers(3)
    ]
    out = bytearray(content)
    for at in rng.integers(start, end, int(2 ** rng.uniform(0, np.log2(_MOST_FLIPS)))):
        out[at] ^= 1 << int(rng.integers(8))
    return bytes(out)


def splice(content: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """The beginning of the file, followed by the end of another file or of the same one."""
    if rng.random() < 0.5:
        other = content
    return content[: rng.integers(len(content))] + other[rng.integers(len(other)) :]


def keep(content: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """The same bytes, for a copy whose suffix is that of another container."""
    return content


DAMAGES: dict[str, Callable[[bytes, np.random.Generator, bytes], bytes]] = {
    "truncated": truncate,
    "bit-flipped": flip,
    "spliced": splice,
    "renamed": keep,
}


def damage(sources: Sequence[str], folder: str, count: int, seed: int) -> Iterator[Damaged]:
    """Writes `count` damaged copies, cycling over kinds and files; determined by the seed."""
    for i in range(count):
        rng = np.random.default_rng((seed, i))
        kind = list(DAMAGES)[i % len(DAMAGES)]
        source = pathlib.Path(sources[i // len(DAMAGES) % len(sources)])
        content = source.read_bytes()
        other = pathlib.Path(sources[int(rng.integers(len(sources)))]).read_bytes()
        found = DAMAGES[kind](content, rng, other)
        suffix = source.suffix
        if kind == "renamed":
            suffix = str(rng.choice([s for s in SUFFIXES if s != source.suffix]))
        path = os.path.join(folder, f"{i:04d}-{kind}-{source.stem}{suffix}")
        pathlib.Path(path).write_bytes(found)
        yield Damaged(path, kind, str(source), found != content)
