"""A process that looks at videos: what vlt.data.worker is to clips."""

from data_pipelines.check.inspection import Request, inspect
from vlt.data import worker

if __name__ == "__main__":
    worker.main(inspect, Request)
