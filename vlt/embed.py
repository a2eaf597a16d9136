"""`vlt embed VIDEO... --model=DIR --out=INDEX`: an index of videos."""

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlt.command_line.embed import parse
from vlt.data.manifest import READERS, read_manifest
from vlt.data.texts import printable
from vlt.door import load_kind, run_door
from vlt.indexing.store import FileEntry, Store, StoreError, window_rows
from vlt.indexing.windows import WindowRule
from vlt.indices import KINDS, LACKS, embed
from vlt.inference.discover import find_videos
from vlt.inference.printing import Progress
from vlt.storage.files import write_whole


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; 0 when every video could be read."""
    return run(parse("python -m vlt.embed", arguments))


def run(options: argparse.Namespace) -> int:
    """The same, of arguments that were parsed."""
    return run_door(lambda: _embed(options))


def _embed(options: argparse.Namespace) -> int:
    paths = _paths(options.videos)
    WindowRule.parse(options.window, options.stride)  # before the model is loaded
    model = load_kind(options.model, options.workdir, KINDS, LACKS)
    model.config = model.looking_at(options.frames, options.sampler)
    name = options.workdir or options.model
    name = str(Path(name).absolute()) if Path(name).is_dir() else name
    progress, failed = Progress(len(paths)), 0
    embedded = embed(options.out, paths, model, options.window, options.stride, options.dtype, name)
    with contextlib.closing(embedded) as found:
        for entry in found:
            failed += bool(entry.error)
            _print(entry, options.json)
            progress.step(entry.duration)
    store = Store(options.out)
    if options.export:
        _export(store, options.export)
    _summary(store, len(paths), failed, progress)
    return 1 if failed else 0


def _paths(names: Sequence[str]) -> list[str]:
    """The files that names stand for; of a manifest, its videos."""
    found: dict[str, None] = {}
    for name in names:
        if Path(name).suffix in READERS and Path(name).is_file():
            records = read_manifest(name, check_videos=False)
            found |= dict.fromkeys(str(record.video) for record in records)
        else:
            found |= dict.fromkeys(find_videos([name]))
    return list(found)


def _print(entry: FileEntry, as_json: bool) -> None:
    if entry.error:
        print(printable(f"error: {entry.path}: {entry.error}"), file=sys.stderr)
    if as_json:
        told: dict[str, Any] = {"windows": entry.windows, "duration": round(entry.duration, 3)}
        told = {"error": entry.error} if entry.error else told
        print(printable(json.dumps({"video": entry.path, **told}, ensure_ascii=False)), flush=True)
    elif not entry.error:
        length = f"{entry.windows} windows of {entry.duration:.1f} s"
        print(printable(f"{entry.path}: {length}"), flush=True)


def _summary(store: Store, asked: int, failed: int, progress: Progress) -> None:
    entries = store.entries().values()
    hours = sum(entry.duration for entry in entries) / 3600
    count = sum(entry.windows for entry in entries)
    sound = sum(not entry.error for entry in entries)
    print(
        f"{store.uri}: {sound:,} videos, {hours:,.2f} h, {count:,} windows; "
        f"{asked - progress.done:,} of {asked:,} were in it as they are; {progress.speed()}",
        file=sys.stderr,
    )
    if failed:
        print(f"{failed} of {asked} videos could not be read", file=sys.stderr)
    print(f'vlt search "..." --index={store.uri}', file=sys.stderr)


def _export(store: Store, file: Path) -> None:
    """Writes all windows to a file that is new.

    Raises:
        StoreError: there is one already.
    """
    if file.exists():
        raise StoreError(f"--export={file}: there is such a file; give another name")
    windows, content = store.read(), io.BytesIO()
    if file.suffix == ".npz":
        names = windows.paths.astype(str)
        np.savez(content, paths=names, spans=windows.spans, vectors=windows.vectors)
    else:
        import pyarrow.parquet

        pyarrow.parquet.write_table(window_rows(windows, store.windows.schema), content)
    write_whole(file, content.getvalue())


if __name__ == "__main__":
    sys.exit(main())
