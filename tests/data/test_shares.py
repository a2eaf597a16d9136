"""However many processes read a data set, together they read what one does, in its order."""

import json
import tempfile

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stub_pool import StubPool, take

# Each example runs three steps or more, among threads.
FEW = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
COUNTS = st.integers(1, 5)


def shares(make, processes, batch, **config):
    """A VideoData for each process."""
    rows = [{"caption": ["red", "green"], "pair": i // 2, "id": f"v{i}"} for i in range(23)]
    workdir = tempfile.mkdtemp()
    return [
        make(
            StubPool(config.get("broken", ())), rows=rows, workdir=workdir, process=index,
            share=share, batch_size=batch,
            **{name: value for name, value in config.items() if name != "broken"},
        )
        for index, share in enumerate(np.array_split(np.arange(batch), processes))
    ]  # fmt: skip


def joined(parts):
    """Batches that hold the rows of all processes' batches."""
    return [{name: np.concatenate([p[name] for p in part]) for name in part[0]} for part in parts]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@FEW
@given(processes=COUNTS, rows=st.integers(1, 4), broken=st.sets(st.integers(0, 22), max_size=3))
def test_shares_of_all_processes_are_the_batches_of_one(make, processes, rows, broken):
    """23 records, which no number of processes divides; failing ones are replaced alike."""
    batch = processes * rows
    config = {"broken": broken, "on_error": "replace"}
    (whole,) = shares(make, 1, batch, **config)
    streams = [d.train() for d in shares(make, processes, batch, **config)]
    parts = list(zip(*(take(stream, 7) for stream in streams), strict=True))
    assert_same(joined(parts), take(whole.train(), 7))


@FEW
@given(before=COUNTS, after=COUNTS, steps=st.integers(0, 6))
def test_a_position_is_that_of_all_processes_and_holds_for_any_number(make, before, after, steps):
    batch = 12  # which five processes share unequally
    (whole,) = shares(make, 1, batch)
    streams = [d.train() for d in shares(make, before, batch)]
    for stream in streams:
        for _ in range(steps):
            next(stream)
    states = [json.dumps(stream.state) for stream in streams]
    for stream in streams:
        stream.close()
    assert len(set(states)) == 1, "the same in all processes"
    resumed = [d.train(state=json.loads(states[0])) for d in shares(make, after, batch)]
    parts = list(zip(*(take(stream, 3) for stream in resumed), strict=True))
    assert_same(joined(parts), take(whole.train(), steps + 3)[steps:])


@FEW
@given(processes=COUNTS, rows=st.integers(1, 9), broken=st.sets(st.integers(0, 22), max_size=2))
def test_evaluation_reads_every_record_once(make, processes, rows, broken):
    """Also where padding fills the last batch, or a process's whole share of the only one."""
    batch = processes * rows
    config = {"broken": broken, "on_error": "skip"}
    parts = zip(*(d.evaluate() for d in shares(make, processes, batch, **config)), strict=True)
    found = joined(list(parts))
    (whole,) = shares(make, 1, batch, **config)
    assert_same(found, list(whole.evaluate()))
    ids = np.concatenate([b["ids"] for b in found])
    mask = np.concatenate([b["mask"] for b in found])
    assert ids[ids >= 0].tolist() == list(range(23))
    assert set(ids[~mask]) - {-1} == broken


def test_groups_stay_whole_in_a_share(make):
    (whole,) = shares_of_pairs(make, 1)
    parts = list(zip(*(take(d.train(), 4) for d in shares_of_pairs(make, 4)), strict=True))
    assert_same(joined(parts), take(whole.train(), 4))
    for part in parts:
        for share in part:
            assert share["ids"][0] // 2 == share["ids"][1] // 2


def shares_of_pairs(make, processes):
    """A VideoData over twelve pairs, in batches of eight rows, for each process."""
    shared = np.array_split(np.arange(8), processes)
    return [make(group="pair", share=s, process=k) for k, s in enumerate(shared)]
