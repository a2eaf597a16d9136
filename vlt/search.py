"""`vlt search QUERY... --index=INDEX`: where one's own videos show something."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vlt.command_line.search import parse
from vlt.data.text.text_files import read_lines
from vlt.data.text.texts import printable
from vlt.data.video.errors import VideoError
from vlt.door import run_door
from vlt.indexing.index import Index, QueryError
from vlt.indexing.neighbours import described, neighbours
from vlt.indexing.search import Found
from vlt.indexing.store import Store
from vlt.indices import model_of
from vlt.inference.pictures import still
from vlt.inference.printing import clock, print_object

UNUSUAL = 0.05  # a higher chance means that nothing was found

Query = tuple[str, Callable[[], Any]]  # as it was given, and a function that reads it


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns 0 when every query was answered."""
    return run(parse("python -m vlt.search", arguments))


def run(options: argparse.Namespace) -> int:
    """Runs the command with parsed arguments."""
    return run_door(lambda: _search(options))


def _search(options: argparse.Namespace) -> int:
    store, failed = Store(options.index), 0
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(neighbours, store, options.neighbours)
        model = model_of(store, options.model, options.workdir)
    model.config = model.looking_at(allow_truncated=options.allow_truncated)
    index = Index(options.index, model, options.neighbours, reading.result)
    print(described(index.store, options.neighbours), file=sys.stderr)
    for name, query in _queries(options, model):
        try:
            found = [
                dataclasses.replace(each, path=index.store.located(each.path))
                for each in index.search(query(), options.top, options.where)
            ]
        except (VideoError, QueryError) as error:
            failed += 1
            print(printable(f"error: {error}"), file=sys.stderr)
            if options.json:
                print_object({"query": name, "error": str(error)})
            continue
        if options.json:
            _print_json(name, found)
        else:
            _print(name, found, options.calibrate)
    return 1 if failed else 0


def _queries(options: argparse.Namespace, model: Any) -> Iterator[Query]:
    for text in options.queries:
        yield text, lambda text=text: text
    for text in _lines(options.file) if options.file else ():
        yield text, lambda text=text: text
    for path in options.video:
        yield path, lambda path=path: model.read_videos(path)
    for path in options.image:
        yield path, lambda path=path: still(model.config, path, path)


def _lines(file: str) -> Iterator[str]:
    lines = sys.stdin if file == "-" else (line for _, line in read_lines(file))
    return (line.strip() for line in lines if line.strip())


def _print_json(query: str, found: list[Found]) -> None:
    for each in found:
        told: dict[str, Any] = {"query": query, "video": each.path}
        told |= {"start": round(each.start, 3), "end": round(each.end, 3)}
        told |= {"score": round(each.score, 4)}
        told |= {} if each.chance is None else {"chance": float(f"{each.chance:.3g}")}
        print_object(told)


def _print(query: str, found: list[Found], calibrate: bool) -> None:
    print(printable(query))
    if calibrate and found:
        print(f"  {_meaning(found[0])}")
    for each in found:
        chance = f"  {each.chance:6.1%}" if calibrate and each.chance is not None else ""
        range_ = f"{clock(each.start)} to {clock(each.end)}"
        print(printable(f"  {each.score:.3f}{chance}  {each.path}  {range_}"), flush=True)


def _meaning(best: Found) -> str:
    if best.chance is None:
        return "too few windows to say what a score means"
    if best.chance > UNUSUAL:
        return f"nothing stands out: by chance alone, {best.chance:.0%} of queries score as high"
    return f"found: by chance alone, {best.chance:.1%} of queries score as high"


if __name__ == "__main__":
    sys.exit(main())
