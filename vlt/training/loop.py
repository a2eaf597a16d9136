"""The training loop, and the results of one run."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from vlt.costs.memory import memory
from vlt.data.manifests.targets import class_names
from vlt.data.pipeline import VideoData, videos_of
from vlt.data.stream import Stream
from vlt.data.video.clips import DecoderPool
from vlt.evaluation import Evaluator, Metrics
from vlt.evaluation.clips import check_clips, named_section
from vlt.model_io.folder import check_weights
from vlt.model_io.loading import LoadedModel, build_described, load_model, tokenizer_folder
from vlt.models.video_model import VideoModel
from vlt.pytrees.partition import merge
from vlt.runtime import processes, stopping
from vlt.runtime.mesh import make_mesh, shard_batch
from vlt.runtime.stopping import Stopped, stop_requested
from vlt.runtime.watchdog import Watchdog
from vlt.storage.files import refuse_link, write_whole
from vlt.storage.trees import fingerprint, save_tree
from vlt.tasks.build import make_task
from vlt.training.checkpoints import TrainingCheckpoints
from vlt.training.metrics_log import MetricsLog, NullMetricsLog
from vlt.training.program import TrainingProgram, with_sharding
from vlt.training.rules import partition
from vlt.training.tokenizers import make_tokenizer
from vlt.training.trained import with_classes


class NonFiniteError(RuntimeError):
    """A loss or gradient that is not a finite number."""


class Run:
    """Everything one run needs, built from its config; a context manager.

    Args:
        workdir: receives checkpoints, metrics and, at the end, results.json.
        training: whether to check what only training needs, too.

    Raises: what the parts raise about a config, manifest, checkpoint or mesh that does not fit.
    """

    def __init__(self, config: ConfigDict, workdir: Path, training: bool = True):
        self.config, self.workdir = config, workdir
        self.mesh = make_mesh(config.mesh)
        module, folder, _ = build_described(config.model)
        if folder is not None:
            check_weights(folder)
        self.tokenizer = make_tokenizer(config, module, tokenizer_folder(config.model, folder))
        self.task = make_task(config, module.spec, self.tokenizer)
        self.program = TrainingProgram(config, self.mesh, module, self.task, config.train.steps)
        self.program.shapes()  # raises where the rules are wrong
        if training and config.train.steps:
            with named_section("data.train"):
                check_clips(config.data.train, module.spec, config.model.frames)
            self.program.check_batch(config.data.train.batch_size)
        with contextlib.ExitStack() as opened:
            # Evaluations read clips, so processes start only after the checks that need none.
            self.pool = DecoderPool(config.data.workers, config.data.decode_timeout)
            opened.callback(self.pool.close)
            self.watchdog = Watchdog(config.train.watchdog)
            opened.callback(self.watchdog.close)
            self.evaluator = self._evaluator(module)
            if training and config.train.steps:
                check_best_metric(config.train.best_metric, self.evaluator.metrics)
            self._load(opened)
            self._opened = opened.pop_all()

    def _evaluator(self, module: VideoModel) -> Evaluator:
        config = self.config
        tested_on_others = any(method.other_frames_tested for method in module.methods)
        return Evaluator(
            config.evals,
            module,
            self.mesh,
            self.tokenizer,
            self.pool,
            self.workdir,
            self.watchdog,
            frames=config.model.frames,
            other_frames=bool(config.train.steps) and tested_on_others,
            trained_classes=class_names(config.data.train) if module.known_classes else (),
        )

    def _load(self, opened: contextlib.ExitStack) -> None:
        """Loads the weights, places them on the program's devices, and opens the checkpoints."""
        config = self.config
        self.model: LoadedModel = load_model(config.model, config.seed)
        if config.train.steps:
            self.model = with_classes(self.model, self.task)
        trained, frozen = partition(self.model.params, config.rules)
        self.trained_count = sum(x.size for x in jax.tree.leaves(trained))
        weights = fingerprint(frozen)
        processes.check_alike("config.model: the frozen weights", weights)
        self.checkpoints = TrainingCheckpoints(
            self.workdir, config.train.keep_last, config.train.best_metric, frozen=weights
        )
        opened.callback(self.checkpoints.close)
        self.state, self.frozen = self.program.placed(self.model.params)

    def params(self) -> dict[str, Any]:
        """The whole tree, with the trained leaves as they are now."""
        return merge(self.state.trained, self.frozen)

    def restore(self, step: int) -> Any:
        """Restores the state of a checkpoint; returns the state of its data stream."""
        abstract = with_sharding(self.state, self.program.shardings(self.state))
        restored = self.checkpoints.restore(step, abstract)
        self.state = restored.state
        return restored.data

    def evaluate(self, step: int) -> Metrics:
        """Metrics of every evaluation of the config."""
        self.watchdog.part("evaluation")
        return self.evaluator(self.params(), step)

    def close(self) -> None:
        """Ends background work; raises the errors that it failed with."""
        with stopping.deferred():
            self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_best_metric(name: str, found: Sequence[str]) -> None:
    """Raises ValueError where `train.best_metric` is given but is no metric of the evaluations."""
    if name and name.removeprefix("-") not in found:
        raise ValueError(
            f"unknown train.best_metric: {name!r}; "
            + (f"choose from {', '.join(found)}" if found else "the config has no evals")
        )


def train(run: Run) -> Metrics:
    """Trains from the latest complete checkpoint to `config.train.steps`; returns the last metrics.

    Evaluations run every `eval_every` steps and at the end, after the step's checkpoint is saved,
    and their metrics are kept with it; one that was interrupted runs when the run resumes. So these
    checkpoints, too, count towards `keep_last`.

    Raises:
        NonFiniteError: after saving the trained leaves before the step in question.
        Stopped: on SIGTERM to any process, or Ctrl-C, after saving.
        vlt.data.video.errors.VideoError: a video could not be read, and the config says `raise`.
    """
    latest = processes.broadcast_from_primary(run.checkpoints.latest_complete())
    data_state = None if latest is None else run.restore(latest)
    step = latest or 0
    steps = run.config.train.steps
    log = MetricsLog(run.workdir, step, steps) if processes.is_primary() else NullMetricsLog()
    results: Metrics = {}
    try:
        if step < steps:
            if evaluation_due(run.config, step) and not run.checkpoints.metrics(step):
                _evaluate(run, step, log)
            with _training_data(run, data_state) as (data, stream):
                _loop(run, data, stream, step, log)
        results = _evaluate(run, steps, log)
    except Stopped:
        run.checkpoints.wait()
        saved = run.checkpoints.steps()
        if not saved:
            raise Stopped("stopped before the first step; nothing is saved") from None
        raise Stopped(f"stopped at step {saved[-1]}; the same command goes on from there") from None
    finally:
        log.close()
    return results


def evaluation_due(config: ConfigDict, step: int) -> bool:
    """Whether training pauses after a step for the evaluations of the config."""
    every = config.train.eval_every
    return bool(every and config.evals and step and step % every == 0)


def _evaluate(run: Run, step: int, log: MetricsLog) -> Metrics:
    """Evaluates the state after a step; logs the metrics and keeps them with its checkpoint."""
    start = time.perf_counter()
    results = run.evaluate(step)
    seconds = time.perf_counter() - start
    numbers = {name: value for name, value in results.items() if not isinstance(value, str)}
    log.evaluation(step, numbers, seconds, run.config.table)
    if step:
        run.checkpoints.add_metrics(step, numbers)
    return results


@contextlib.contextmanager
def _training_data(run: Run, state: Mapping[str, Any] | None) -> Iterator[tuple[VideoData, Stream]]:
    section = run.config.data.train
    data = videos_of(
        section,
        run.mesh,
        run.tokenizer,
        run.pool,
        name="train",
        workdir=run.workdir,
        seed=run.config.seed,
    )

    def place(batch: dict[str, np.ndarray]) -> dict[str, Any]:
        inputs = {name: batch[name] for name in (*run.task.model_inputs, *run.task.loss_inputs)}
        return shard_batch(inputs, run.mesh) | {"ids": batch["ids"]}

    stream = data.train(place, state)
    try:
        yield data, stream
    except BaseException:
        run.pool.close()  # ends hanging reads, which the stream would wait for
        raise
    finally:
        stream.close()
        if data.skipped:
            logging.warning("%d videos were skipped: %s", len(data.skipped), run.workdir)


def _loop(run: Run, data: VideoData, stream: Stream, step: int, log: MetricsLog) -> None:
    config, watchdog = run.config, run.watchdog
    train_step = None
    unchecked: tuple[int, dict, np.ndarray] | None = None
    with stop_requested() as stop_after:
        while step < config.train.steps:
            watchdog.part("input")
            try:
                batch = next(stream)
            except Stopped:
                _check_finite(run, data, unchecked)
                if unchecked is not None:
                    watchdog.part("checkpoint")
                    run.checkpoints.save(step, run.state, stream.state)
                raise
            ids = batch.pop("ids")
            if train_step is None:
                watchdog.part("compilation")
                train_step = run.program.lower(run.state, run.frozen, batch).compile()
                log.peak_bytes = memory(train_step)["peak_bytes"]
            watchdog.part("step")
            run.state, metrics = train_step(run.state, run.frozen, batch)
            step += 1
            stop = stop_after(step)
            # One step late, so that the device never waits for the host.
            _check_finite(run, data, unchecked)
            unchecked = step, metrics, ids
            last = step == config.train.steps
            if step % config.train.log_every == 0 or last:
                values = {name: float(value) for name, value in metrics.items()}
                videos = config.data.train.batch_size
                log.progress(step, values, videos, stream.wait_seconds)
            evaluate = evaluation_due(config, step) and not last
            if step % config.train.checkpoint_every == 0 or evaluate or last or stop:
                _check_finite(run, data, unchecked)
                watchdog.part("checkpoint")
                run.checkpoints.save(step, run.state, stream.state)
            if evaluate and not stop:
                _evaluate(run, step, log)
            watchdog.step_ended()
            if stop and not last:
                raise Stopped


def _check_finite(
    run: Run, data: VideoData, unchecked: tuple[int, dict, np.ndarray] | None
) -> None:
    if unchecked is None or bool(unchecked[1]["finite"]):
        return
    step, metrics, rows = unchecked
    everywhere = multihost_utils.process_allgather(rows).reshape(-1).tolist()
    ids = [data.records[row].id for row in everywhere]
    folder = run.workdir / f"nonfinite-{step}"
    refuse_link(folder)
    folder.mkdir(exist_ok=True)
    save_tree(folder / "state", {"trained": run.state.trained}, overwrite=True)
    values = {name: str(float(value)) for name, value in metrics.items()}
    report = {"step": step, "metrics": values, "batch": ids}
    if processes.is_primary():
        write_whole(folder / "report.json", json.dumps(report, indent=1) + "\n")
    raise NonFiniteError(
        f"step {step}: loss {values['loss']}, gradient norm {values['grad_norm']}. The trained "
        f"leaves before it and the batch's ids are in {folder}. The batch: {', '.join(ids)}"
    )
