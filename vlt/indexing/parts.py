"""An index made by several processes at once: each writes a part of it, and one joins the parts.

Several writers to one table of an object store collide, so every shard has tables of its own beside
the index's. Which shard a video belongs to follows from its path alone.
"""

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Iterable

from vlt.indexing.rows import About, FileEntry, in_parts
from vlt.indexing.store import Store, StoreError, check_same, remove, tables_of, writing

FINISHED, JOINED = "finished", "joined"  # marks of a part, and of an index
AT_ONCE = 200  # videos whose windows are written together
_PART = re.compile(r"windows-(\d+)-of-(\d+)")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of `count` shards, numbered from 0."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parses a text such as `3/16`.

        Raises:
            ValueError: the text names no shard.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not found or not int(found[1]) < int(found[2]):
            raise ValueError(f"--shard={text}: I/N with I from 0 to N - 1 is needed, as in 0/16")
        return cls(int(found[1]), int(found[2]))

    @property
    def part(self) -> str:
        """The suffix of its tables' names."""
        return f"-{self.index}-of-{self.count}"

    def of(self, paths: Iterable[str]) -> list[str]:
        """The paths that belong to this shard, whatever the others are."""
        return [path for path in paths if _number(path) % self.count == self.index]


def _number(path: str) -> int:
    return int.from_bytes(hashlib.sha256(path.encode(errors="surrogateescape")).digest()[:8])


def known_before(uri: str, about: About) -> dict[str, FileEntry]:
    """The entries that an index already holds; none if there is no index.

    Raises:
        StoreError: it was made differently, or parts were joined to it but not all removed.
    """
    if "windows" not in tables_of(uri):
        return {}
    if _is_joined(uri):
        raise StoreError(f"{uri}: an earlier --commit was not ended; run it again first")
    store = Store(uri)
    check_same(uri, store.about, about)
    return store.entries()


def commit(uri: str) -> int:
    """Joins the parts of all shards to the index and removes them; returns how many videos came in.

    If it is interrupted at any moment, another call goes on from there.

    Raises:
        StoreError: there is no part, one is not finished, or parts have another model or other
            windows than the index.
    """
    with contextlib.ExitStack() as held:
        held.enter_context(writing(uri))
        shards = _shards(uri)
        for shard in shards:
            held.enter_context(writing(uri, shard.part))
        joined = 0
        if not _is_joined(uri):
            store, joined = _join(uri, shards)
            store.mark(JOINED)
        for shard in shards:
            remove(uri, shard.part)
        Store(uri).mark(JOINED, here=False)
        return joined


def _is_joined(uri: str) -> bool:
    return "windows" in tables_of(uri) and JOINED in Store(uri).marks()


def _join(uri: str, shards: list[Shard]) -> tuple[Store, int]:
    """Joins all parts to the index; returns it and how many videos came in."""
    parts = [Store(uri, shard.part) for shard in shards]
    _check_all(uri, shards, parts)
    store = Store.open_or_create(uri, parts[0].about)
    store.drop_unfinished()
    count = sum(_joined(store, part) for part in parts)
    store.compact()
    return store, count


def _shards(uri: str) -> list[Shard]:
    found = filter(None, map(_PART.fullmatch, tables_of(uri)))
    return [Shard(*each) for each in sorted((int(x[1]), int(x[2])) for x in found)]


def _check_all(uri: str, shards: list[Shard], parts: list[Store]) -> None:
    """Raises StoreError unless every shard is there and finished, and all were made alike."""
    if not shards:
        raise StoreError(f"{uri}: no shard there; `vlt embed VIDEO... --shard=0/N --out={uri}`")
    counts = sorted({shard.count for shard in shards})
    if len(counts) > 1:
        told = " and of ".join(map(str, counts))
        raise StoreError(f"{uri}: shards of {told}; one number of them is needed")
    ended = {s.index for s, p in zip(shards, parts, strict=True) if FINISHED in p.marks()}
    if missing := sorted(set(range(counts[0])) - ended):
        named = ", ".join(map(str, missing[:20])) + (", ..." if len(missing) > 20 else "")
        raise StoreError(f"{uri}: of {counts[0]} shards these have not ended: {named}")
    for part in parts:
        check_same(uri, parts[0].about, part.about)


def _joined(store: Store, part: Store) -> int:
    """Adds a part's videos to an index, replacing what it knew of them; returns how many."""
    known = store.entries()
    new = [entry for entry in part.entries().values() if known.get(entry.path) != entry]
    for some in in_parts(new, AT_ONCE):
        paths = [entry.path for entry in some]
        store.drop(paths)
        store.add(some, part.of_videos(paths))
    return len(new)
