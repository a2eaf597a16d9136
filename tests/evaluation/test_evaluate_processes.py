"""Every kind of evaluation gives the same with two processes as with one."""

import json

import pytest
from helpers import run_python
from processes import together

from vlt.evaluation import KINDS

CODE = """
    import json, sys
    from pathlib import Path
    from evaluation_kinds import everything
    print("FOUND", json.dumps(everything(Path({folder!r}))))
"""


def written(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_two_processes_and_one_find_and_write_the_same(tmp_path):
    """Ten to 21 records in batches of eight; one record cannot be read."""
    alone, shared = (tmp_path / name for name in ("alone", "shared"))
    alone.mkdir()
    shared.mkdir()
    one = run_python(CODE.format(folder=str(alone)), devices=2, timeout=400)
    two = together(CODE.format(folder=str(shared)), 2, timeout=400)
    expected, *found = (json.loads(text.partition("FOUND")[2]) for text in (one, *two))
    assert expected.keys() == KINDS.keys() - {"twin_captions"}  # which reads no video
    assert found == [expected, expected]
    assert written(shared) == written(alone) and len(written(alone)) == 11
