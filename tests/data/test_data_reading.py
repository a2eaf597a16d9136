"""What a seed and a position draw stays, from version to version: runs that resume rely on it."""

from vlt.data.reading import Reader
from vlt.data.skips import SkipLog
from vlt.data.video.errors import Truncated

UNITS = [(0, 1), (2, 3), (4, 5), (6, 7)]


def reader(read, folder, policy):
    return Reader(read, UNITS, SkipLog(folder / "skips", "a", [None] * 8, 1), policy=policy, seed=7)


def test_seeds_of_clips_and_the_draw_of_a_caption(tmp_path):
    seeds = {}
    fetched = reader(seeds.__setitem__, tmp_path, "raise").fetch(5, 1)
    assert seeds == {2: 1685127188, 3: 1790700406}
    assert [example.draw for example in fetched.tries[1]] == [0.15581306855522914] * 2


def test_what_replaces_a_video(tmp_path):
    tried = []

    def read(record, seed):
        tried.append(record)
        raise Truncated("a.mp4", "ends early")

    reader(read, tmp_path, "replace").fetch(5, 1)
    assert tried[:7] == [2, 0, 6, 6, 4, 4, 4] and len(tried) == 101
