"""A process that reads and cuts spans of videos, as vlt.data.video.worker reads clips."""

from typing import Any

import numpy as np

from vlt.data.video import worker
from vlt.data.video.cutting import CutRequest, cut
from vlt.data.video.glance import GlanceRequest, glance
from vlt.data.video.spans import SpansRequest, TimelineRequest, read_spans, read_timeline

Request = CutRequest | GlanceRequest | SpansRequest | TimelineRequest


def request_of(**fields: Any) -> Request:
    """The request that has these fields."""
    if "stem" in fields:
        return CutRequest(**fields)
    if "at" in fields:
        return GlanceRequest(**fields)
    return SpansRequest(**fields) if "spans" in fields else TimelineRequest(**fields)


def answer(request: Request) -> np.ndarray:
    """Clips, a frame, or JSON about a video or about a file that was written."""
    if isinstance(request, CutRequest):
        return cut(request)
    if isinstance(request, GlanceRequest):
        return glance(request)
    return read_spans(request) if isinstance(request, SpansRequest) else read_timeline(request)


if __name__ == "__main__":
    worker.main(answer, request_of)
