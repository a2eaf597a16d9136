"""A process that reads spans of videos: what vlt.data.worker is to clips."""

from typing import Any

import numpy as np

from vlt.data import worker
from vlt.data.spans import SpansRequest, TimelineRequest, read_spans, read_timeline


def request_of(**fields: Any) -> SpansRequest | TimelineRequest:
    """Which of both requests these are the fields of."""
    return SpansRequest(**fields) if "spans" in fields else TimelineRequest(**fields)


def answer(request: SpansRequest | TimelineRequest) -> np.ndarray:
    """Clips, or a timeline."""
    return read_spans(request) if isinstance(request, SpansRequest) else read_timeline(request)


if __name__ == "__main__":
    worker.main(answer, request_of)
