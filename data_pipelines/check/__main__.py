"""Reads every video of a manifest in decoder processes, and reports those that are not sound.

    python -m data_pipelines.check data/msrvtt/train_9k.jsonl --sha256=data/msrvtt/sums.jsonl

A video is `missing`; `changed` (its bytes are not those of the row's sha256); `short` (fewer frames
decode than its container and packets promise); `wrong seek` (jumping to a frame gives another
one than decoding in order); `hung` (over the time limit); or `broken` in another way. --report gets
one JSON line per video. --sha256 gets the manifest with the sums of the sound files, which readers
then check; the rows of others stay as they are. The status is 1 unless all are sound.
"""

import argparse
import collections
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from data_pipelines.annotation_files import AnnotationError
from data_pipelines.check.inspection import Request
from data_pipelines.check.sums import check_out, write_sums
from data_pipelines.labelled import refuse_overlap
from vlt.data.manifests.manifest import ManifestError, Record, read_manifest
from vlt.data.video import errors
from vlt.data.video.clips import DecoderPool
from vlt.data.video.shards import shard_of
from vlt.storage.files import WriteError, check_target

WORKER = (sys.executable, "-P", "-m", "data_pipelines.check.worker")
SOUND, MISSING, BROKEN = "sound", "missing", "broken"
KINDS: dict[type[errors.VideoError], str] = {
    errors.ChangedFile: "changed",
    errors.Truncated: "short",
    errors.WrongSeek: "wrong seek",
    errors.DecodeTimeout: "hung",
}
SHOWN = 20  # most videos that are printed
PROGRESS = 5.0  # seconds between lines of progress

Report = dict[str, Any]


def check(requests: Mapping[Request, int], pool: DecoderPool) -> Iterator[Report]:
    """Yields a report on each video, in order: `video`, `rows`, `status`, and what was found.

    requests: one for each video, with the number of rows that name it.
    """
    with ThreadPoolExecutor(max(1, pool.workers)) as threads:
        found = threads.map(lambda request: _report(request, pool), requests)
        for (request, rows), report in zip(requests.items(), found, strict=True):
            yield {"video": request.path, "rows": rows, **report}


def _report(request: Request, pool: DecoderPool) -> Report:
    if not os.path.isfile(shard_of(request.path) or request.path):
        return {"status": MISSING, "reason": "there is no such file"}
    try:
        found = json.loads(pool.read(request).tobytes())
    except errors.VideoError as error:
        kind = KINDS.get(type(error), BROKEN)
        return {"status": kind, "error": type(error).__name__, "reason": error.reason}
    return {"status": SOUND, **found}


def table(reports: Iterable[Report]) -> list[str]:
    """Lines that count videos and rows of the manifest by status, and list those not sound."""
    by_status: dict[str, list[Report]] = {kind: [] for kind in (SOUND, MISSING, *KINDS.values())}
    by_status[BROKEN] = []
    for report in reports:
        by_status[report["status"]].append(report)
    lines = [f"{'':12}{'videos':>10}{'rows':>10}"]
    for status, found in by_status.items():
        rows = sum(report["rows"] for report in found)
        lines.append(f"{status:12}{len(found):10,}{rows:10,}")
    bad = [report for kind, found in by_status.items() if kind != SOUND for report in found]
    lines += [f"  {r['status']}: {r['video']}: {r['reason']}" for r in bad[:SHOWN]]
    return lines + ([f"  and {len(bad) - SHOWN:,} more"] if len(bad) > SHOWN else [])


def main() -> None:
    """The command line; ends with status 0, 1 (not all are sound) or 2 (cannot run)."""
    parser = _parser()
    options = parser.parse_args()
    manifest, out = pathlib.Path(options.manifest), options.sha256
    report_path = options.report or manifest.with_suffix(".check.jsonl")
    try:
        refuse_overlap([options.manifest], [report_path])
        refuse_overlap([], [report_path, out])
        records = read_manifest(manifest, check_videos=False)
        if out:
            check_out(manifest, out)
            check_target(out)
        check_target(report_path)
    except (AnnotationError, ManifestError, WriteError) as error:
        parser.error(str(error))
    requests = collections.Counter(map(_request, records))
    with DecoderPool(options.workers, options.timeout, WORKER) as pool:
        reports = _watched(check(requests, pool), len(requests), report_path)
    print("\n".join(table(reports)))
    print(f"each video: {report_path}")
    if out:
        found = dict(zip(requests, reports, strict=True))
        write_sums(manifest, out, [found[_request(r)].get("sha256", "") for r in records])
        print(f"with sums: {out}")
    sys.exit(int(any(report["status"] != SOUND for report in reports)))


def _request(record: Record) -> Request:
    return Request(record.video, record.sha256)


def _watched(reports: Iterator[Report], total: int, path: pathlib.Path) -> list[Report]:
    """Collects all reports; writes each as it arrives, and shows progress."""
    found, bad, start, told = [], 0, time.monotonic(), time.monotonic()
    with path.open("w", encoding="utf-8") as file:
        for report in reports:
            found.append(report)
            file.write(json.dumps(report, ensure_ascii=False) + "\n")
            file.flush()
            bad += report["status"] != SOUND
            if time.monotonic() - told > PROGRESS or len(found) == total:
                told = time.monotonic()
                rate = len(found) / (told - start)
                line = f"{len(found):,} of {total:,} videos, {bad:,} not sound, {rate:.1f} a second"
                print(line, file=sys.stderr, flush=True)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("manifest", help=".jsonl, .csv or .parquet")
    parser.add_argument("--sha256", type=pathlib.Path, help="manifest to write, with sums")
    parser.add_argument("--report", type=pathlib.Path, help="(MANIFEST.check.jsonl, beside it)")
    parser.add_argument("--workers", type=_positive, default=os.cpu_count() or 1)
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one video (600)")
    return parser


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be >= 1, got {text}")
    return int(text)


if __name__ == "__main__":
    main()
