"""The run on Apache Beam: each shard is one unit of work for any of its runners."""

import json
from collections.abc import Iterable, Sequence

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as error:
    raise ImportError(
        "python -m data_pipelines.shards needs Apache Beam: pip install 'vlt[beam]'"
    ) from error

from data_pipelines.shards import files
from data_pipelines.shards.folder import VIDEOS, Plan
from data_pipelines.shards.write import WORKER, write_shard
from vlt.data.video.clips import DecoderPool
from vlt.pytrees.fields import did_you_mean


def new_pipeline(flags: Sequence[str], own: Iterable[str]) -> beam.Pipeline:
    """An empty pipeline with Beam's options from the command line.

    own: names of the options that are not Beam's, for hints in errors.

    Raises: ValueError naming the options that Beam does not know either; or for an unknown runner.
    """
    known = PipelineOptions([]).get_all_options()
    options = PipelineOptions([*flags])
    unknown = options.get_all_options(retain_unknown_options=True).keys() - known.keys()
    stray = [
        flag
        for before, flag in zip(["--x=y", *flags], flags, strict=False)
        if not flag.startswith("-") and (not before.startswith("-") or "=" in before)
    ]
    if unknown or stray:
        told = [_hint(name, [*own, *known]) for name in sorted(unknown)] + stray
        raise ValueError(f"neither an option of this command nor of Beam: {', '.join(told)}")
    return beam.Pipeline(options=options)


def _hint(name: str, known: Iterable[str]) -> str:
    return f"--{name}{did_you_mean(name.replace('-', '_'), known)}"


def run(pipeline: beam.Pipeline, out: str, plan: Plan, shards: Sequence[str], limit: float) -> None:
    """Writes the shards that are not done yet; returns when all are. limit: seconds per video."""
    with pipeline:
        (
            pipeline
            | beam.io.ReadFromText(files.join(out, VIDEOS))
            | beam.Map(json.loads)
            | beam.Map(lambda entry: (shards[entry[0] // plan.per_shard], entry))
            | beam.GroupByKey()
            | beam.ParDo(_WriteShard(out, plan, limit))
        )


class _WriteShard(beam.DoFn):
    """(shard, [(number, name, sha256)]) -> nothing; the shard is written."""

    def __init__(self, out: str, plan: Plan, limit: float):
        self._out, self._plan, self._limit = out, plan, limit

    def setup(self) -> None:
        self._pool = DecoderPool(1, self._limit, WORKER)

    def process(self, element: tuple[str, Iterable[tuple[int, str, str]]]) -> None:
        shard, entries = element
        videos = [(name, sha256) for _, name, sha256 in sorted(entries)]
        write_shard(self._out, self._plan, shard, videos, self._pool)

    def teardown(self) -> None:
        self._pool.close()
