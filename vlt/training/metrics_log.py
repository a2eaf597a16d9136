"""What a run logs as it goes: CLU metric writers, metrics.jsonl and a progress line.

metrics.jsonl is the source of truth: resuming cuts it back to the checkpoint's step and rewrites
the event files from it, so that no step is duplicated or missing, however the run was killed.
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlt.runtime.compilation import ProgramCount
from vlt.storage.files import WriteError, append, write_whole

PERFORMANCE = "perf/"  # metrics of the machine, which differ from run to run


class MetricsLog:
    """The log of one run's scalars.

    Args:
        workdir: receives metrics.jsonl and TensorBoard event files.
        step: the step to start from; later entries are dropped, as a resumed run repeats them.
        total: number of steps of the whole run, for the time left.

    Attributes:
        peak_bytes: memory that the training step needs, once it is compiled.
    """

    peak_bytes: int | None = None

    def __init__(self, workdir: Path, step: int, total: int):
        from clu import metric_writers  # imports TensorFlow, so not at module level

        self._workdir, self._file = workdir, workdir / "metrics.jsonl"
        self._total = total
        kept = [entry for entry in read_metrics(workdir) if entry["step"] <= step]
        text = "".join(json.dumps(entry) + "\n" for entry in kept)
        write_whole(self._file, text)
        for stale in workdir.glob("events.out.tfevents.*"):
            stale.unlink()
        self._evaluated = {(entry["step"], frozenset(_values(entry))) for entry in kept}
        with self._events():
            self._writer = metric_writers.create_default_writer(workdir, asynchronous=False)
            for entry in kept:
                self._writer.write_scalars(entry["step"], _values(entry))
        self._programs = ProgramCount()
        self._last = (step, time.perf_counter(), 0.0)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends the scalars of a step."""
        append(self._file, json.dumps({"step": step} | dict(values)) + "\n")
        with self._events():
            self._writer.write_scalars(step, dict(values))

    @contextlib.contextmanager
    def _events(self) -> Iterator[None]:
        """Raises TensorFlow's errors as WriteError, as for other errors in writing."""
        from tensorflow import errors

        try:
            yield
        except errors.OpError as error:
            reason = error.message.partition("\n")[0].rpartition("}} ")[2]
            raise WriteError(
                f"{self._workdir}: TensorBoard's events cannot be written: {reason}"
            ) from error

    def progress(self, step: int, values: Mapping[str, float], videos: int, waited: float) -> None:
        """Writes a training step's scalars, and prints a progress line.

        videos: number per step. waited: seconds spent waiting for data since the run began.
        """
        now = time.perf_counter()
        before, then, waited_before = self._last
        self._last = (step, now, waited)
        seconds = max(now - then, 1e-9)
        rate = (step - before) * videos / seconds
        share = (waited - waited_before) / seconds
        seconds_per_step = seconds / max(step - before, 1)
        speed = {"videos_per_s": rate, "wait_share": share, "step_s": seconds_per_step}
        speed["programs"] = self._programs.count
        if self.peak_bytes is not None:
            speed["peak_bytes"] = self.peak_bytes
        self.write(step, dict(values) | {PERFORMANCE + k: v for k, v in speed.items()})
        left = time.strftime("%H:%M:%S", time.gmtime((self._total - step) * seconds_per_step))
        print(
            f"step {step}/{self._total}  loss {values['loss']:.4f}  {rate:.1f} videos/s  "
            f"waiting {share:.0%}  left {left}",
            file=sys.stderr,
            flush=True,
        )

    def evaluation(
        self,
        step: int,
        values: Mapping[str, float],
        seconds: float,
        shown: Sequence[Sequence[str]] = (),
    ) -> None:
        """Writes the metrics of evaluations after a step, unless a run that was killed before it
        could keep them already did, and prints a line.

        seconds: how long they took, which does not count as training. shown: (metric, title, ...)
        of metrics to print; by default the first of each evaluation.
        """
        before, then, waited = self._last
        self._last = (before, then + seconds, waited)
        if (step, frozenset(values)) not in self._evaluated:
            self.write(step, values)
        firsts: dict[str, str] = {}
        for name in values:
            firsts.setdefault(name.partition("/")[0], name)
        names = [name for name, *_ in shown if name in values] or firsts.values()
        told = "  ".join(f"{name} {values[name]:.4g}" for name in names)
        print(f"step {step}/{self._total}  evaluated: {told}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Closes the log; everything written is on disk afterwards."""
        self._programs.close()
        with self._events():
            self._writer.flush()
            self._writer.close()


class NullMetricsLog(MetricsLog):
    """The log of a process that is not the first: writes nothing."""

    def __init__(self) -> None:
        pass

    def write(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def progress(self, step: int, values: Mapping[str, float], videos: int, waited: float) -> None:
        pass

    def evaluation(
        self,
        step: int,
        values: Mapping[str, float],
        seconds: float,
        shown: Sequence[Sequence[str]] = (),
    ) -> None:
        pass

    def close(self) -> None:
        pass


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Entries of metrics.jsonl, without a last line that a kill cut short."""
    file = workdir / "metrics.jsonl"
    if not file.exists():
        return []
    whole = file.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in whole]


def _values(entry: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in entry.items() if name != "step"}
