"""The folder that a run writes: what is planned, what is done and, last, the index.

While a run is under way, OUT/unfinished holds `plan.json`, `videos.jsonl` (number, name and sum of
each video) and a report on each shard that is done. From these, `finish` makes the manifest,
`broken.jsonl` and, last, `shards.json`: a folder that has it is complete.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

from data_pipelines.shards import files
from data_pipelines.shards.encode import FORMS, Clips, Frames
from vlt.data.manifests.manifest import ManifestError, read_manifest
from vlt.data.manifests.rows import json_rows
from vlt.data.video.shards import INDEX, SUFFIX

UNFINISHED = "unfinished"
PLAN, VIDEOS = f"{UNFINISHED}/plan.json", f"{UNFINISHED}/videos.jsonl"
MANIFEST, BROKEN = "manifest.jsonl", "broken.jsonl"
PLACED = ("source", "source_sha256")  # columns of MANIFEST about a record's source
LIBRARIES = ("av", "pillow", "array_record")  # their versions may change bytes
READERS_AT_ONCE = 32

Row = dict[str, Any]


class FolderError(ValueError):
    """A folder that holds something else, or less than it should; the message says which."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that determines the bytes of the shards, besides the videos themselves.

    Attributes:
      manifest: name of the manifest; manifest_sha256: sum of its bytes.
      videos: folder of the videos.
      form: a key of FORMS; options: its fields.
      per_shard: videos in a shard.
      libraries: versions of LIBRARIES.
    """

    manifest: str
    manifest_sha256: str
    videos: str
    form: str
    options: Mapping[str, Any]
    per_shard: int
    libraries: Mapping[str, str]

    @property
    def run(self) -> str:
        """A short hash of the plan, which every record holds."""
        return hashlib.sha256(self.as_json().encode()).hexdigest()[:16]

    def as_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    def settings(self) -> Clips | Frames:
        """The form with its options."""
        return FORMS[self.form](**self.options)


def make_plan(manifest: str, videos: str, form: Clips | Frames, per_shard: int) -> Plan:
    """The plan of a run; `videos` is '' for paths relative to the manifest."""
    path = pathlib.Path(manifest)
    return Plan(
        manifest=path.name,
        manifest_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        videos=videos or str(path.parent),
        form=next(name for name, kind in FORMS.items() if isinstance(form, kind)),
        options=dataclasses.asdict(form),
        per_shard=per_shard,
        libraries={name: metadata.version(name) for name in LIBRARIES},
    )


def read_rows(manifest: str) -> list[Row]:
    """The manifest's rows, unchanged.

    Raises: ManifestError, also for a value that JSON cannot hold or a column that is written here.
    """
    path = pathlib.Path(manifest)
    read_manifest(path, check_videos=False)
    rows = []
    for line, row in json_rows(path):
        if taken := [column for column in PLACED if column in row]:
            reason = f"has a column `{taken[0]}`, which the shards' manifest fills: rename it"
            raise ManifestError(path, reason, line)
        rows.append(row)
    return rows


def distinct_videos(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Name and `sha256` (or '') of each video, once however many rows name it, in row order."""
    sums = {row["video"]: row["sha256"] for row in rows if "sha256" in row}
    return [*({row["video"]: "" for row in rows} | sums).items()]


def shard_names(plan: Plan, videos: int) -> list[str]:
    """Names of all shards for a number of videos."""
    count = -(-videos // plan.per_shard)
    return [f"{plan.form}-{i:05d}-of-{count:05d}{SUFFIX}" for i in range(count)]


def report_path(out: str, shard: str) -> str:
    """Path of the report on a shard, which exists once the shard is done."""
    return files.join(out, f"{UNFINISHED}/{shard}.json")


def start(out: str, plan: Plan, videos: Sequence[tuple[str, str]]) -> bool:
    """Prepares the folder for the run, or finds it complete.

    Returns: whether there is anything to do.

    Raises: FolderError: the folder holds another run or something else, or has lost files.
    """
    index = files.read(files.join(out, INDEX))
    planned = files.read(files.join(out, PLAN))
    if index is not None:
        found = json.loads(index)
        _refuse_difference(out, found["plan"], plan)
        _check_whole(out, found["shards"])
        return False
    if planned is not None:
        _refuse_difference(out, json.loads(planned), plan)
        return True
    if held := files.names(out):
        raise FolderError(f"{out} holds {held[0]} and no run of this command: give another --out")
    lines = (json.dumps([number, *video]) + "\n" for number, video in enumerate(videos))
    files.write(files.join(out, VIDEOS), "".join(lines).encode())
    files.write(files.join(out, PLAN), plan.as_json().encode())
    return True


def _refuse_difference(out: str, found: Mapping[str, Any], plan: Plan) -> None:
    wanted = json.loads(plan.as_json())
    there, here = _flat(found), _flat(wanted)
    differences = [
        f"\n  {key}: {there.get(key)!r} there, {here.get(key)!r} here"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]
    if differences:
        raise FolderError(f"{out} is of another run; give another --out:{''.join(differences)}")


def _flat(plan: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in plan.items():
        out |= _flat(value, f"{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return out


def _check_whole(out: str, shards: Mapping[str, Any]) -> None:
    held = set(files.names(out))
    if missing := [name for name in (MANIFEST, BROKEN, *shards) if name not in held]:
        lost = ", ".join(missing[:5])
        raise FolderError(f"{out} was whole and has lost {lost}: give another --out")


def finish(out: str, plan: Plan, rows: Sequence[Row]) -> dict[str, Any]:
    """Writes the manifest, list of broken videos and index of a run whose shards are all done.

    Returns: the index.

    Raises: FolderError: a shard is not done, or not one video could be read.
    """
    names = shard_names(plan, len(distinct_videos(rows)))
    with ThreadPoolExecutor(READERS_AT_ONCE) as threads:
        reports = dict(zip(names, threads.map(lambda n: _report(out, n), names), strict=True))
    places = dict(_places(reports))
    broken = [row for report in reports.values() for row in report["videos"] if "error" in row]
    if not places:
        raise FolderError(f"not one of {len(broken)} videos could be read; the first: {broken[0]}")
    _write_lines(out, MANIFEST, list(_placed_rows(rows, places)))
    _write_lines(out, BROKEN, broken)
    index = {
        "run": plan.run,
        "plan": dataclasses.asdict(plan),
        "videos": len(places),
        "broken": len(broken),
        "rows": sum(row["video"] in places for row in rows),
        "rows_left_out": sum(row["video"] not in places for row in rows),
        "shards": {
            name: {"records": report["records"], "bytes": report["bytes"]}
            for name, report in reports.items()
        },
    }
    files.write(files.join(out, INDEX), json.dumps(index, indent=1).encode())
    return index


def tidy(out: str) -> None:
    """Removes what only an unfinished run needs, and what killed workers left behind."""
    left = [name for name in files.names(out) if name.endswith(".partial")]
    unfinished = files.join(out, UNFINISHED)
    left += [f"{UNFINISHED}/{name}" for name in files.names(unfinished)]
    files.remove([files.join(out, name) for name in left])
    if not files.is_remote(out) and os.path.isdir(unfinished):
        os.rmdir(unfinished)


def _report(out: str, shard: str) -> Row:
    content = files.read(report_path(out, shard))
    if content is None:
        raise FolderError(f"{files.join(out, shard)} is not done: run the same command again")
    return json.loads(content)


def _places(reports: Mapping[str, Row]) -> Iterator[tuple[str, str]]:
    for shard, report in reports.items():
        held = (row["video"] for row in report["videos"] if "error" not in row)
        yield from ((video, f"{shard}#{position}") for position, video in enumerate(held))


def _placed_rows(rows: Sequence[Row], places: Mapping[str, str]) -> Iterator[Row]:
    """Rows whose video is in a shard; if each video has one row, its path is the default id."""
    once = len(distinct_videos(rows)) == len(rows)
    for row in rows:
        if row["video"] in places:
            row = ({"id": row["video"]} if once else {}) | row
            if "sha256" in row:  # it is the source's sum, and `video` no longer names the source
                row["source_sha256"] = row.pop("sha256")
            yield row | {"video": places[row["video"]], "source": row["video"]}


def _write_lines(out: str, name: str, rows: Sequence[Row]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    files.write(files.join(out, name), "".join(lines).encode())
