"""A process that encodes videos, as vlt.data.video.worker reads clips."""

from data_pipelines.shards.encode import encode, request_of
from vlt.data.video import worker

if __name__ == "__main__":
    worker.main(encode, request_of)
