"""A process that counts frames, as vlt.data.video.worker reads clips."""

import dataclasses

import numpy as np

from vlt.data.video import worker
from vlt.data.video.decode import Video

SAMPLED = 8  # frames read from a video


@dataclasses.dataclass(frozen=True)
class Request:
    """A file whose frames to count, after reading some or after decoding the `whole` file."""

    path: str
    whole: bool


def count(request: Request) -> np.ndarray:
    """The number of frames of a file: int64 [1], viewed as uint8. Raises: errors.VideoError."""
    with Video(request.path) as video:
        if request.whole:
            for _ in video.frames([]):
                pass
        else:
            video.read(np.linspace(0, len(video) - 1, SAMPLED).astype(int).tolist())
        return np.array([len(video)]).view(np.uint8)


if __name__ == "__main__":
    worker.main(count, Request)
