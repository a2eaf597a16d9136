"""Reads a clip of a video file, in this process or in a pool of decoder processes.

A decoder that loops in C holds Python's global lock, so only another process can stop it. The
pool's processes are plain subprocesses (grain's own workers may start those, but no multiprocessing
children); each reads one clip after another until its standard input ends.
"""

import dataclasses
import io
import math
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from vlt.data.video import errors, messages
from vlt.data.video.checksum import verify
from vlt.data.video.decode import Video
from vlt.data.video.sample import sample
from vlt.data.video.shards import StoredFrames, read_record, shard_of
from vlt.data.video.transform import apply_transform

# Without -P, a module of the working folder, such as the user's random.py, would be imported.
WORKER = (sys.executable, "-P", "-m", "vlt.data.video.worker")
# Seconds that a new process has to import what it needs.
_START_LIMIT = 120.0
_CLOSED = "the decoder pool is closed"
# Decoding a file to its end takes time in proportion to its size: one of more bytes than this gets
# as many times the limit, up to a size that no video has.
_WITHIN_LIMIT, _LARGEST = 1 << 30, 1 << 36


@dataclasses.dataclass(frozen=True)
class ClipRequest:
    """What to read from which file.

    Attributes:
      path: the video file, or the record of a shard (vlt.data.video.shards).
      sampler: a name in `vlt.data.video.sample.SAMPLERS`.
      frames: number of frames of a clip.
      transform: a plain dict, see `vlt.data.video.transform`.
      seed: seeds the random sampler and the random transform; not negative.
      backend: 'pyav' or 'decord'.
      allow_truncated: whether a truncated file counts as a video of the frames that exist.
      clips: number of clips, one after another in the array that is read.
      sha256: checksum that the file must have, each time it is read; '' for any.
    """

    path: str
    sampler: str
    frames: int
    transform: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0
    backend: str = "pyav"
    allow_truncated: bool = False
    clips: int = 1
    sha256: str = ""

    @classmethod
    def of_section(
        cls, section: Any, path: str, transform: Mapping[str, Any] | None = None
    ) -> "ClipRequest":
        """The request of a config's data section. transform: used where the section has none."""
        return cls(
            path,
            section.sampler.name,
            section.sampler.frames,
            section.transform.to_dict() or transform or {},
            backend=section.backend,
            allow_truncated=section.allow_truncated,
        )


def read_clip(request: ClipRequest) -> np.ndarray:
    """Samples, decodes and transforms: uint8 RGB [t, h, w, 3], determined by file and request.

    Raises: errors.VideoError, ValueError for a request that no file can satisfy.
    """
    if request.sha256:
        verify(request.path, request.sha256)
    with open_video(request.path, allow_truncated=request.allow_truncated) as video:
        frames = _read_sampled(video, request)
    return apply_transform(request.transform, frames, request.seed)


def open_video(path: str, *, allow_truncated: bool = False) -> Video | StoredFrames:
    """Opens a file, or a shard's record, as a video, which is a context manager.

    Raises: what `Video` raises, errors.BrokenShard.
    """
    if shard_of(path) is None:
        return Video(path, allow_truncated=allow_truncated)
    record = read_record(path)
    if "frames" in record:
        return StoredFrames(path, record["frames"], record["fps"])
    return Video(path, allow_truncated=allow_truncated, content=record["content"])


def _read_sampled(video: Video | StoredFrames, request: ClipRequest) -> np.ndarray:
    while True:
        count = len(video)
        rng = np.random.default_rng((request.seed, 1))
        indices = sample(
            request.sampler, count, request.frames, rng=rng, fps=video.fps, clips=request.clips
        )
        try:
            return video.read(indices.tolist(), backend=request.backend)
        except errors.WrongFrames:
            # Reading may show, once, that fewer frames exist than the packets promised.
            if len(video) == count:
                raise


def decoders(most: int = 16) -> int:
    """How many processes decode as fast as this machine can: one for each core, at least two, so
    that one may wait for the disk, and at most `most`."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    return min(most, max(2, cores))


def _size_of(path: str) -> int:
    try:
        return min(os.path.getsize(path), _LARGEST)
    except OSError:
        return 0  # a shard's record, or a file that opening reports


class DecoderPool:
    """`workers` processes that read clips; 0 reads them in the calling thread, with no time limit.

    `read` may be called from many threads: each takes a free process or waits for one.

    Args:
      workers: number of processes.
      timeout: seconds after which a process that has not answered is killed; more, in proportion,
        for a file of more than 1 GiB.
      command: what a process runs; see `vlt.data.video.worker` for what it must answer.
    """

    def __init__(self, workers: int, timeout: float = 60.0, command: Sequence[str] = WORKER):
        if workers < 0:
            why = "it counts decoder processes, 0 decodes in the calling thread"
            raise ValueError(f"workers must be >= 0, got {workers}: {why}")
        if not 0 < timeout < math.inf:
            raise ValueError(
                f"timeout must be > 0 and finite, got {timeout}: seconds for one video"
            )
        self.workers = workers
        self.timeout = timeout
        self._command = command
        self._running: list[_Process] = []
        self._free: queue.SimpleQueue[_Process | None] = queue.SimpleQueue()
        # Held while a process is started or all are ended, so that none is started afterwards.
        self._changing = threading.RLock()
        self.close = weakref.finalize(self, _end, self._running, self._free, self._changing)
        for _ in range(workers):
            self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def processes(self) -> list[subprocess.Popen]:
        """The decoder processes that are running."""
        return [process.child for process in self._running]

    def read(self, request: Any) -> np.ndarray:
        """`read_clip(request)` in a process of the pool: uint8 RGB [t, h, w, 3].

        With another `command`, the request is one that this command answers, with a `path`.

        Raises: what `read_clip` raises; DecodeTimeout, DecoderDied; RuntimeError if the pool is
          closed, even during this call, or its processes do not start.
        """
        if not self.close.alive:
            raise RuntimeError(_CLOSED)
        if not self.workers:
            return read_clip(request)
        limit = self.timeout * max(1.0, _size_of(request.path) / _WITHIN_LIMIT)
        process = self._take()
        answered = False
        try:
            answer = process.ask(request, limit)
            answered = True
        except Exception as error:
            raise self._told(error, process, request.path, limit) from None
        finally:
            if answered:
                self._free.put(process)
            else:
                self._replace(process)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _told(self, error: Exception, process: "_Process", path: str, seconds: float) -> Exception:
        """The error to raise to the caller for an error in asking a process."""
        if not self.close.alive:
            return RuntimeError(_CLOSED)
        if isinstance(error, TimeoutError):
            limit = f"no frames after {seconds:,.4g} s; its decoder was killed"
            return errors.DecodeTimeout(path, limit)
        if isinstance(error, messages.BadAnswer):
            return errors.DecoderDied(path, f"its decoder gave a malformed answer: {error}")
        if isinstance(error, EOFError | BrokenPipeError):
            return errors.DecoderDied(path, f"its decoder {process.fate()}")
        return error

    def _take(self) -> "_Process":
        process = self._free.get()
        if process is None:
            self._free.put(None)  # for the next reader that waits
            raise RuntimeError(_CLOSED)
        return process

    def _start(self) -> None:
        with self._changing:
            if not self.close.alive:
                return
            try:
                self._running.append(_Process(self._command))
            except OSError as error:
                self.close()  # in a pool that shrinks, readers would wait forever
                raise RuntimeError(f"a decoder did not start: {error}") from error
            self._free.put(self._running[-1])

    def _replace(self, process: "_Process") -> None:
        process.kill()
        process.hang_up()
        with self._changing:
            if process in self._running:
                self._running.remove(process)
        self._start()


class _Process:
    """A running decoder and the two pipes to it."""

    def __init__(self, command: Sequence[str]):
        here = str(Path(__file__).resolve().parents[3])
        path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
        env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.child = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
            start_new_session=True,  # else a terminal's Ctrl-C would end it before the parent saves
        )
        assert self.child.stdin is not None and self.child.stdout is not None
        self._to, self._from = self.child.stdin, cast(io.FileIO, self.child.stdout)
        self._readable = select.poll()
        self._readable.register(self._from, select.POLLIN)
        self._started = False

    def ask(self, request: Any, timeout: float) -> np.ndarray | Exception:
        """The process's answer.

        Raises: TimeoutError; EOFError or BrokenPipeError if it died; messages.BadAnswer.
        """
        message = messages.pack_request(request, timeout)
        if not self._started:
            self._await_start()
        self._to.write(message)
        deadline = time.monotonic() + timeout
        answer = messages.shape_or_error(self._receive(deadline))
        return self._read(answer, deadline) if isinstance(answer, tuple) else answer

    def fate(self) -> str:
        """How the process ended, in words."""
        try:
            code = self.child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "went on without answering"
        return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"

    def kill(self) -> None:
        """Ends the process; a thread that waits for its answer gets an EOFError."""
        self.child.kill()
        self.child.wait()

    def hang_up(self) -> None:
        """Closes the pipes, which must not be used afterwards."""
        self._to.close()
        self._from.close()

    def _await_start(self) -> None:
        try:
            self._receive(time.monotonic() + _START_LIMIT)
        except (EOFError, TimeoutError, messages.BadAnswer) as error:
            raise RuntimeError(f"a decoder did not start: {self.child.args!r}") from error
        self._started = True

    def _receive(self, deadline: float) -> dict[str, Any]:
        (size,) = messages.LENGTH.unpack(self._read((messages.LENGTH.size,), deadline))
        if size > messages.MOST_TEXT:
            raise messages.BadAnswer(f"a message of {size:,} bytes")
        return messages.unpack(self._read((size,), deadline).tobytes())

    def _read(self, shape: tuple[int, ...], deadline: float) -> np.ndarray:
        out = np.empty(shape, np.uint8)
        view = memoryview(out.reshape(-1))
        while view:
            left = deadline - time.monotonic()
            if left <= 0 or not self._readable.poll(1000 * left):
                raise TimeoutError
            count = self._from.readinto(view)
            if not count:
                raise EOFError
            view = view[count:]
        return out


def _end(
    processes: list[_Process],
    free: "queue.SimpleQueue[_Process | None]",
    changing: Any,  # a threading.RLock
) -> None:
    """Ends all processes and every wait for one of them."""
    with changing:
        for process in processes:
            process.kill()
        free.put(None)
