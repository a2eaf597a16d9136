"""How results are printed, and the exit status."""

import json

from vlt.data.video.errors import CannotOpen
from vlt.inference import printing
from vlt.inference.printing import Progress, print_results

RESULTS = [("a.mp4", 0.25), ("b\x1b.mp4", CannotOpen("b\x1b.mp4", "no such \x07file")), ("c", 1.0)]


def show(results, as_json=False):
    return print_results(
        results, len(results), lambda x: {"score": x}, lambda x: f"{x:.1%}", as_json=as_json
    )


def test_lines(capsys):
    assert show(RESULTS) == 1
    out, err = capsys.readouterr()
    assert out == "a.mp4: 25.0%\nc: 100.0%\n"
    assert err.splitlines() == [
        "error: b\\u001b.mp4: no such \\u0007file",
        "1 of 3 videos could not be read",
    ]
    assert show(RESULTS[:1]) == 0
    assert not capsys.readouterr().err


def test_objects(capsys):
    assert show(RESULTS, as_json=True) == 1
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"video": "a.mp4", "score": 0.25},
        {"video": "b\x1b.mp4", "error": "no such \x07file"},
        {"video": "c", "score": 1.0},
    ]


def test_progress_is_told_now_and_then(capsys, monkeypatch):
    now = iter(range(0, 100, 3))  # seconds
    monkeypatch.setattr(printing.time, "monotonic", lambda: next(now))
    show([(str(i), 0.0) for i in range(4)])
    assert capsys.readouterr().err == "2 of 4\n4 of 4\n"


def test_progress_within_a_long_video_is_told_too(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(printing.time, "monotonic", lambda: now)
    progress = Progress(1)
    for now in (1.0, 6.0, 7.0, 12.0):
        progress.within("film\x1b.mp4", 600 * now, 36_000.0)
    assert capsys.readouterr().err == (
        "film\\u001b.mp4: 1:00:00.0 of 10:00:00.0\nfilm\\u001b.mp4: 2:00:00.0 of 10:00:00.0\n"
    )
    now = 30.0
    progress.within("broken.mp4", 0.0, 0.0)
    assert not capsys.readouterr().err
