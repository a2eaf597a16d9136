"""`vlt embed VIDEO... --model=DIR --out=INDEX`: an index of videos."""

import argparse
import contextlib
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vlt.command_line.embed import parse
from vlt.data.manifests.manifest import READERS, read_manifest
from vlt.data.video.errors import VideoError
from vlt.door import load_kind, run_door
from vlt.indexing.neighbours import described, prepare
from vlt.indexing.parts import Shard, commit
from vlt.indexing.rows import FileEntry, kept, window_rows
from vlt.indexing.store import Store, StoreError, writing
from vlt.indexing.windows import WindowRule
from vlt.indices import KINDS, LACKS, embed
from vlt.inference.discover import find_videos
from vlt.inference.printing import Progress, print_results
from vlt.storage.files import write_whole


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns 0 when every video could be read."""
    return run(parse("python -m vlt.embed", arguments))


def run(options: argparse.Namespace) -> int:
    """Runs the command with parsed arguments."""
    return run_door(lambda: _embed(options))


def _embed(options: argparse.Namespace) -> int:
    if options.commit:
        return _commit(options.out, options.neighbours)
    shard = Shard.parse(options.shard) if options.shard else None
    paths = _paths(options.videos)
    paths = shard.of(paths) if shard else paths
    WindowRule.parse(options.window, options.stride)  # before the model is loaded
    model = load_kind(options.model, options.workdir, KINDS, LACKS)
    model.config = model.looking_at(options.frames, options.sampler, options.allow_truncated)
    name = options.workdir or options.model
    name = str(Path(name).absolute()) if Path(name).is_dir() else name
    progress = Progress(len(paths))
    embedded = embed(
        options.out,
        paths,
        model,
        options.window,
        options.stride,
        options.dtype,
        name,
        options.neighbours,
        shard,
        lambda entry, span: progress.within(entry.path, span[1], entry.duration),
    )
    with contextlib.closing(embedded) as found:
        status = print_results(
            _stepped(found, progress),
            len(paths),
            lambda entry: {"windows": entry.windows, "duration": round(entry.duration, 3)},
            _line,
            as_json=options.json,
            progress=False,
        )
    store = Store(options.out, shard.part if shard else "")
    if options.export:
        _export(store, options.export)
    _summary(store, len(paths), progress, options.neighbours)
    return status


def _stepped(
    entries: Iterable[FileEntry], progress: Progress
) -> Iterator[tuple[str, FileEntry | VideoError]]:
    for entry in entries:
        yield entry.path, VideoError(entry.path, entry.error) if entry.error else entry
        progress.step(entry.duration)


def _line(entry: FileEntry) -> str:
    return f"{entry.duration:.1f} s in {entry.windows:,} window{'s' * (entry.windows != 1)}"


def _commit(uri: str, way: str) -> int:
    """Joins the parts of all shards."""
    count = commit(uri)
    store = Store(uri)
    with writing(uri):
        prepare(store, way)
    print(f"{uri}: {count:,} videos of shards are in it now", file=sys.stderr)
    print(_held(store, way), file=sys.stderr)
    return 0


def _paths(names: Sequence[str]) -> list[str]:
    """The files that names stand for; for a manifest, the videos it lists."""
    found: dict[str, None] = {}
    for name in names:
        if Path(name).suffix in READERS and Path(name).is_file():
            records = read_manifest(name, check_videos=False)
            found |= dict.fromkeys(str(record.video) for record in records)
        else:
            found |= dict.fromkeys(find_videos([name]))
    return list(found)


def _summary(store: Store, asked: int, progress: Progress, way: str) -> None:
    same = f"{asked - progress.done:,} of {asked:,} were in it as they are; {progress.speed()}"
    if store.part:
        print(f"{store.uri}, shard {store.part[1:]}: {same}", file=sys.stderr)
        print(f"vlt embed --commit --out={store.uri}", file=sys.stderr)
        return
    print(f"{_held(store, way)}; {same}", file=sys.stderr)
    print(f'vlt search "..." --index={store.uri}', file=sys.stderr)


def _held(store: Store, way: str) -> str:
    """One line on what an index holds."""
    entries = store.entries().values()
    hours = sum(entry.duration for entry in entries) / 3600
    sound = sum(not entry.error for entry in entries)
    return f"{described(store, way)}; {sound:,} videos, {hours:,.2f} h"


def _export(store: Store, file: Path) -> None:
    """Writes all windows to a new file.

    Raises:
        StoreError: the file already exists.
    """
    if file.exists():
        raise StoreError(f"--export={file}: there is such a file; give another name")
    windows, content = store.read(), io.BytesIO()
    if file.suffix == ".npz":
        names = windows.paths.astype(str)
        vectors = kept(windows.vectors, store.about.dtype)
        np.savez(content, paths=names, spans=windows.spans, vectors=vectors)
    else:
        import pyarrow.parquet

        pyarrow.parquet.write_table(window_rows(windows, store.windows.schema), content)
    write_whole(file, content.getvalue())


if __name__ == "__main__":
    sys.exit(main())
