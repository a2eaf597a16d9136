"""A process that inspects videos, as vlt.data.worker reads clips."""

from data_pipelines.check.inspection import Request, inspect
from vlt.data import worker

if __name__ == "__main__":
    worker.main(inspect, Request)
