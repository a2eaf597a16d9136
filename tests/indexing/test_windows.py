"""Windows that videos are cut into."""

import pytest

from vlt.data.video.spans import Timeline
from vlt.indexing.windows import WindowRule

TEN_SECONDS = Timeline(250, 10.0, (3.0, 7.5), "")


@pytest.mark.parametrize(
    ("window", "stride", "expected"),
    [
        ("4s", None, [(0, 4), (2, 6), (4, 8), (6, 10)]),
        ("3", "3s", [(0, 3), (3, 6), (6, 9), (9, 10)]),
        ("4s", "5s", [(0, 4), (5, 9)]),
        ("20s", None, [(0, 10)]),
        ("10s", "1s", [(0, 10)]),
        ("shots", None, [(0, 3), (3, 7.5), (7.5, 10)]),
        ("whole", None, [(0, 10)]),
    ],
)
def test_windows_of_a_video(window, stride, expected):
    assert WindowRule.parse(window, stride).cut(TEN_SECONDS) == expected


@pytest.mark.parametrize("window", ["4s", "0.7s", "3.3s"])
def test_all_of_a_video_is_in_a_window(window):
    spans = WindowRule.parse(window).cut(TEN_SECONDS)
    assert spans[0][0] == 0 and spans[-1][1] == 10
    assert all(a < c <= b < d for (a, b), (c, d) in zip(spans, spans[1:], strict=False))


@pytest.mark.parametrize(
    ("window", "stride", "message"),
    [
        ("long", None, "--window=long: seconds such as 4s or shots or whole are needed"),
        ("0s", None, "--window=0s"),
        ("4s", "-1", "--stride=-1: seconds such as 4s are needed"),
        ("whole", "2s", "--stride=2s is for windows of seconds, not for whole"),
    ],
)
def test_what_is_no_window_is_refused(window, stride, message):
    with pytest.raises(ValueError, match=message):
        WindowRule.parse(window, stride)
