"""Shards of an index, written separately, killed anywhere, joined by one process."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("lancedb")

import vlt
from vlt import embed as door
from vlt.data import moving_shapes
from vlt.indexing import parts
from vlt.indexing.parts import Shard, commit
from vlt.indexing.store import Store, StoreError, tables_of
from vlt.indices import embed

COUNT = 2


@pytest.fixture(scope="module")
def model():
    return vlt.load("tiny_clip")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Videos in a folder whose name gives every shard some of them."""
    folder = moving_shapes.generate(tmp_path_factory.mktemp("shapes") / "clips", 3).parent
    while True:
        found = sorted(map(str, (folder / "videos").iterdir()))
        if all(Shard(i, COUNT).of(found) for i in range(COUNT)):
            return found
        folder = folder.rename(f"{folder}s")


@pytest.fixture(scope="module")
def whole(paths, model, tmp_path_factory):
    """All windows of an index made by one process."""
    uri = tmp_path_factory.mktemp("whole") / "index"
    return vlt.index(uri, paths, model, window="1s").store.read()


def shard(uri, paths, model, index):
    return [e.path for e in embed(uri, paths, model, "1s", shard=Shard(index, COUNT))]


def same(uri, whole):
    found = Store(uri).read()
    order = [np.lexsort((x.spans[:, 0], x.paths.astype(str))) for x in (found, whole)]
    for name in ("paths", "spans", "vectors"):
        first, second = (getattr(x, name)[o] for x, o in zip((found, whole), order, strict=True))
        np.testing.assert_array_equal(first, second)


def test_a_file_is_one_shards_whatever_the_others_are(paths):
    shares = [Shard(i, COUNT).of(paths) for i in range(COUNT)]
    assert sorted(sum(shares, [])) == paths
    assert Shard(0, COUNT).of(paths[::-1] + ["more"])[: len(shares[0])] == shares[0][::-1]
    many = [f"{i}.mp4" for i in range(4000)]
    assert all(200 < len(Shard(i, 16).of(many)) < 300 for i in range(16))


@pytest.mark.parametrize("text", ["2/2", "0", "-1/4", "a/b", "1/0"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(ValueError, match="I/N with I from 0"):
        Shard.parse(text)


def test_shards_are_joined_to_what_one_process_makes(paths, model, whole, tmp_path, monkeypatch):
    uri = str(tmp_path / "index")
    with pytest.raises(StoreError, match="no shard there"):
        commit(uri)
    first = shard(uri, paths, model, 0)
    assert shard(uri, paths[::-1], model, 0) == []  # again: nothing is new
    with pytest.raises(StoreError, match="of 2 shards these have not ended: 1"):
        commit(uri)
    killed = embed(uri, paths, model, "1s", shard=Shard(1, COUNT))
    monkeypatch.setattr("vlt.indexing.embedding.WRITE_EVERY", 0.0)
    done = [next(killed).path]
    killed.close()
    with pytest.raises(StoreError, match="these have not ended: 1"):
        commit(uri)
    assert sorted(first + done + shard(uri, paths, model, 1)) == paths
    with pytest.raises(StoreError, match="no index there"):
        Store(uri)
    _commit_killed_everywhere(uri, monkeypatch)
    same(uri, whole)
    assert tables_of(uri) == {"windows", "files"} and not Store(uri).marks()
    assert [shard(uri, paths, model, i) for i in range(COUNT)] == [[], []]  # all of it is known
    assert commit(uri) == 0 and len(Store(uri).entries()) == len(paths)


@pytest.mark.parametrize(("count", "end"), [(21, "19, 20$"), (22, r"19, 20, \.\.\.$")])
def test_the_first_twenty_shards_that_are_missing_are_named(count, end):
    ended = SimpleNamespace(marks=lambda: {parts.FINISHED})
    with pytest.raises(StoreError, match=f"of {count} shards these have not ended: 1, 2, .*{end}"):
        parts._check_all("index", [Shard(0, count)], [ended])


def _commit_killed_everywhere(uri, monkeypatch):
    """Interrupts `commit` before each of its writes in turn, until it completes."""
    writes = [(Store, "drop"), (Store, "add"), (Store, "compact"), (Store, "mark")]
    writes.append((parts, "remove"))

    for last in range(100):
        left = iter(range(last))

        def counted(function):
            def write(*arguments, **options):
                if next(left, None) is None:  # noqa: B023
                    raise KeyboardInterrupt
                return function(*arguments, **options)

            return write

        with monkeypatch.context() as patch:
            for where, name in writes:
                patch.setattr(where, name, counted(getattr(where, name)))
            try:
                commit(uri)
            except KeyboardInterrupt:
                continue
        assert last > 4
        return
    raise AssertionError("never ended")


def test_shards_of_other_numbers_or_windows_are_told(paths, model, tmp_path, capsys):
    uri = str(tmp_path / "index")
    list(embed(uri, paths[:1], model, "1s", shard=Shard(0, 1)))
    list(embed(uri, paths[:1], model, "1s", shard=Shard(1, 3)))
    assert door.main(["--commit", f"--out={uri}"]) == 1
    assert "shards of 1 and of 3; one number of them is needed" in capsys.readouterr().err
    parts.remove(uri, Shard(1, 3).part)
    assert door.main(["--commit", f"--out={uri}"]) == 0
    assert "1 videos of shards are in it now" in capsys.readouterr().err
    with pytest.raises(StoreError, match="made with length=1.0, not 2.0"):
        list(embed(uri, paths, model, "2s", "0.5s", shard=Shard(0, 1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--commit", "a.mp4"], "--commit takes no VIDEO"),
        ([], "a VIDEO is needed, or --commit"),
    ],
)
def test_commit_stands_alone(arguments, message, capsys):
    with pytest.raises(SystemExit):
        door.main([*arguments, "--out=x", "--model=tiny_clip"])
    assert message in capsys.readouterr().err
