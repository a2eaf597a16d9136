"""The campaign of damaged videos: its copies, its verdicts, and a short one."""

import collections
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, environment
from video_files import write_tricky

from vlt.bench import damaged_videos
from vlt.bench.damage import DAMAGES, damage, flip
from vlt.bench.damaged_videos import CRASHED, FEWER, HUNG, MORE, REPORTED, SAME, growth, worst
from vlt.data.video.errors import DecoderDied, DecodeTimeout, Truncated

NAMES = ("closed_gop.mp4", "open_gop.mkv", "b_frames.avi", "vp8.webm", "transport.ts")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    for name in NAMES:
        write_tricky(root, name)
    (root / "notes.txt").write_text("no video")
    return root


def test_copies_are_a_function_of_the_seed(folder, tmp_path):
    sources = [str(folder / name) for name in NAMES]
    made = []
    for run, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / run).mkdir()
        copies = list(damage(sources, str(tmp_path / run), 20, seed))
        made.append([pathlib.Path(copy.path).read_bytes() for copy in copies])
    assert made[0] == made[1] != made[2]
    assert collections.Counter(copy.kind for copy in copies) == dict.fromkeys(DAMAGES, 5)
    for copy, content in zip(copies, made[2], strict=True):
        assert copy.changed == (content != pathlib.Path(copy.source).read_bytes())
        assert copy.changed == (copy.kind != "renamed")


def test_flips_are_1_to_64_bits_anywhere_or_at_an_end():
    whole = np.random.default_rng(0).bytes(10_000)
    counts, spans = [], []
    for seed in range(200):
        flipped = flip(whole, np.random.default_rng(seed), b"")
        bits = np.unpackbits(np.frombuffer(whole, np.uint8) ^ np.frombuffer(flipped, np.uint8))
        places = np.flatnonzero(bits) // 8
        counts.append(len(places))
        spans.append((places.min(), places.max()))
    assert min(counts) == 1 and 32 < max(counts) <= 64
    assert np.median(counts) < 16  # small counts are as likely as large ones
    first = sum(end < 2048 for _, end in spans)
    last = sum(begin >= 10_000 - 2048 for begin, _ in spans)
    assert 50 < first < 150 and 50 < last < 150 and first + last < 180


class Pool:
    """Answers every request in the same way."""

    def __init__(self, answer):
        self.answer = answer

    def read(self, request):
        if isinstance(self.answer, Exception):
            raise self.answer
        return np.array([self.answer]).view(np.uint8)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (60, (SAME, "")),
        (59, (FEWER, "")),
        (61, (MORE, "")),
        (Truncated("a", "b"), (REPORTED, "Truncated")),
        (DecoderDied("a", "b"), (CRASHED, "DecoderDied")),
        (DecodeTimeout("a", "b"), (HUNG, "DecodeTimeout")),
    ],
)
def test_verdicts(answer, expected):
    request = damaged_videos.Request("a", whole=True)
    assert damaged_videos.outcome(Pool(answer), request, 60) == expected
    assert worst([(SAME, ""), expected]) == expected


def test_a_loss_that_only_a_part_of_the_reading_notices_is_a_loss():
    assert worst([(FEWER, ""), (REPORTED, "Truncated")]) == (FEWER, "")


def test_memory_that_grows_is_not_flat():
    clips = np.arange(5000)
    assert growth(100e6 + 0 * clips) == 0
    assert growth(100e6 + 5000 * clips) >= 0.9 * 15e6
    assert growth(100e6 + 50e6 * (clips > 500)) == 0  # a buffer that is filled once


def test_a_table_has_each_kind_of_damage_and_the_errors():
    table = {
        "cut": collections.Counter({SAME: 2, REPORTED: 3, "Truncated": 3}),
        "bits": collections.Counter({SAME: 1, MORE: 1, REPORTED: 1000, "NoFrames": 1000}),
    }
    head, *rows, errors = damaged_videos.lines_of(table)
    assert head.split() == ["files", *" ".join(damaged_videos.COLUMNS).split()]
    assert [row.split()[:5] for row in rows] == [
        ["cut", "5", "2", "3", "0"], ["bits", "1,002", "1", "1,000", "0"],
        ["all", "1,007", "3", "1,003", "0"],
    ]  # fmt: skip
    assert errors == "reported as Truncated 3, NoFrames 1000"


@pytest.mark.slow
def test_a_short_campaign(folder):
    done = subprocess.run(
        [sys.executable, "-m", "vlt.bench.damaged_videos", str(folder), "--count=40", "--seed=3",
         "--decodes=50", "--workers=1"],
        cwd=ROOT, env=environment(1), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    files, same, reported, *broken, changed, missed = map(int, lines["all"])
    assert (files, same + reported, changed) == (40, 40, 30)
    assert broken == [0, 0, 0, 0] and missed == 0
    assert lines["renamed"][1] == "10" and reported > 15
    assert "5 sound videos" in done.stderr and "memory over 50 clips" in done.stdout


def test_a_folder_without_videos(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        damaged_videos.main([str(tmp_path)])
    assert ended.value.code == 2
    assert "holds no sound video" in capsys.readouterr().err
