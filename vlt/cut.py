"""`vlt cut RANGES|VIDEO --out=DIR`: ranges of videos as files of their own."""

import argparse
import dataclasses
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vlt.command_line.cut import parse
from vlt.data.text.text_files import parse_json, read_lines
from vlt.data.text.texts import printable
from vlt.data.video.clips import DecoderPool
from vlt.data.video.cutting import SUFFIXES, CutRequest
from vlt.data.video.errors import VideoError
from vlt.data.video.spans import SPAN_WORKER
from vlt.door import run_door
from vlt.inference.printing import print_object
from vlt.storage.files import shortened

TIMEOUT = 3600.0  # seconds for one range
LONGEST_STEM = 150  # bytes


@dataclasses.dataclass(frozen=True)
class Range:
    """A range of a video, from `start` to `end` in seconds."""

    video: str
    start: float
    end: float

    def name(self) -> str:
        """The name of its file, without the suffix: the video's, the range, and a sign of both, by
        which videos of one name in several folders differ."""
        stem = shortened(Path(self.video).stem, LONGEST_STEM)
        whole = f"{os.path.abspath(self.video)} {self.start} {self.end}"
        sign = hashlib.sha256(os.fsencode(whole)).hexdigest()[:8]
        return f"{stem}_{self.start:.2f}-{self.end:.2f}_{sign}"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns 0 when every range was cut."""
    return run(parse("python -m vlt.cut", arguments))


def run(options: argparse.Namespace) -> int:
    """Runs the command with parsed arguments."""
    return run_door(lambda: _cut_all(options))


def _cut_all(options: argparse.Namespace) -> int:
    if options.start is None:
        ranges = list(_read(options.ranges))
        if not ranges:
            raise ValueError(f"{options.ranges}: holds no ranges")
    else:
        ranges = [Range(options.ranges, options.start, options.end)]
    for each in ranges:
        _check(each)
    options.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    with DecoderPool(1, TIMEOUT, SPAN_WORKER) as pool:
        for each in dict.fromkeys(ranges):
            try:
                told = _cut(pool, each, options.out, options.allow_truncated)
            except (VideoError, RuntimeError) as error:
                failed += 1
                told = {"error": str(error)}
            _print(each, told, options.json)
    return 1 if failed else 0


def _read(name: str) -> Iterator[Range]:
    """Reads ranges from a file, or from stdin.

    Raises:
        ValueError: a line holds no range; the message names it.
    """
    lines: Iterable[tuple[int, str]] = enumerate(sys.stdin, 1) if name == "-" else read_lines(name)
    for number, line in lines:
        if line.strip():
            yield _range(f"{name}, line {number}", parse_json(line))


def _range(where: str, row: Any) -> Range:
    found = [row.get(key) for key in ("video", "start", "end")] if isinstance(row, dict) else []
    match found:
        case [str(video), int() | float() as start, int() | float() as end]:
            return Range(video, float(start), float(end))
    raise ValueError(f"{where}: an object with `video`, `start` and `end` in seconds is needed")


def _check(each: Range) -> None:
    if not 0 <= each.start < each.end < math.inf:
        raise ValueError(f"{each.video}: from {each.start:g} s to {each.end:g} s is not a range")


def _cut(pool: DecoderPool, each: Range, out: Path, allow_truncated: bool) -> dict[str, Any]:
    """Cuts a range and tells what was written. A file that already exists is kept."""
    for suffix in SUFFIXES:
        if (file := out / f"{each.name()}{suffix}").exists():
            return {"file": str(file), "kept": True}
    stem = str(out / each.name())
    request = CutRequest(each.video, each.start, each.end, stem, allow_truncated)
    told: dict[str, Any] = json.loads(pool.read(request).tobytes())
    return {"file": str(told["file"]), "copied": bool(told["copied"])}


def _print(each: Range, told: dict[str, Any], as_json: bool) -> None:
    if "error" in told:
        print(printable(f"error: {told['error']}"), file=sys.stderr)
    if as_json:
        print_object(dataclasses.asdict(each) | told)
    elif "file" in told:
        how = "was there" if "kept" in told else "copied" if told["copied"] else "re-encoded"
        print(printable(f"{told['file']}: {how}"), flush=True)


if __name__ == "__main__":
    sys.exit(main())
