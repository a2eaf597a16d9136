"""Windows in time that a video is cut into, each embedded by itself."""

import dataclasses
import math
import re

from vlt.data.video.spans import Span, Timeline

_SECONDS = re.compile(r"(\d+(?:\.\d+)?)\s*s?")


@dataclasses.dataclass(frozen=True)
class WindowRule:
    """How a video is cut.

    kind: `time`, windows of `length` seconds that begin every `stride` seconds, the last one ending
    with the video; `shots`, from cut to cut; `whole`, one window.
    """

    kind: str
    length: float = 0.0
    stride: float = 0.0

    @classmethod
    def parse(cls, window: str, stride: str | None = None) -> "WindowRule":
        """Parses `4s`, `shots` or `whole`, and a stride, `2s`, which is half a window by default.

        Raises:
            ValueError: an invalid window or stride, or a stride for windows that have none.
        """
        if window in ("whole", "shots"):
            if stride is not None:
                raise ValueError(f"--stride={stride} is for windows of seconds, not for {window}")
            return cls(window)
        length = _seconds("--window", window, " or shots or whole")
        return cls("time", length, _seconds("--stride", stride) if stride else length / 2)

    def cut(self, timeline: Timeline) -> list[Span]:
        """The windows of a video, in order: all of it, unless a stride is longer than a window."""
        if self.kind == "shots":
            edges = [0.0, *timeline.cuts, timeline.duration]
            return list(zip(edges, edges[1:], strict=False))
        if self.kind == "whole" or timeline.duration <= self.length:
            return [(0.0, timeline.duration)]
        count = 1 + math.ceil((timeline.duration - self.length) / self.stride)
        starts = [i * self.stride for i in range(count) if i * self.stride < timeline.duration]
        return [(start, min(start + self.length, timeline.duration)) for start in starts]


def _seconds(option: str, text: str, other: str = "") -> float:
    found = _SECONDS.fullmatch(text.strip())
    if not found or not float(found[1]) > 0:
        raise ValueError(f"{option}={text}: seconds such as 4s{other} are needed")
    return float(found[1])
