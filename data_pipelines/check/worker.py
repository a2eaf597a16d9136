"""A process that inspects videos, as vlt.data.video.worker reads clips."""

from data_pipelines.check.inspection import Request, inspect
from vlt.data.video import worker

if __name__ == "__main__":
    worker.main(inspect, Request)
