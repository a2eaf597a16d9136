"""`vlt train --config=NAME[:variant]`: trains, evaluates, and prints a table."""

import contextlib
import json
import re
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback until `main` handles signals

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from vlt import configuration
from vlt.command_line.train import folder_of_run, parse
from vlt.evaluation import summarize
from vlt.reporting.tables import Column, format_table, mean_results, write_results
from vlt.runtime import processes, stopping
from vlt.runtime.libraries import prepare_libraries
from vlt.runtime.stopping import Stopped
from vlt.storage.files import write_whole
from vlt.training.metrics_log import PERFORMANCE, read_metrics
from vlt.training.workdir import OtherConfigError, WorkdirError, claim, go_back, held, prepare

BENCH_BATCH = 32  # videos
OF_TRAINING = ("step_ms", "peak_mb")  # columns that an evaluation alone does not fill
NOTHING_NEW = "stopped; nothing new was saved; the same command goes on"


def main(_: list[str]) -> None:
    """Entry point of the command."""
    options, workdir = flags.FLAGS, folder_of_run()
    prepare_libraries()
    try:
        with stopping.signals(), _ended_by_signals():
            prepare(workdir)
            _join()
            _run(options.config, workdir)
    except (processes.DistributedError, WorkdirError) as error:
        sys.exit(f"error: {error}")


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Ends the process if a signal ends the block: with success if the same command goes on."""
    try:
        yield
    except Stopped as stopped:
        if processes.is_primary():
            print(str(stopped) or NOTHING_NEW, file=sys.stderr)
        processes.leave()
        stopping.end(0 if flags.FLAGS.mode == "train" else stopping.status())


def _run(config: ConfigDict, workdir: Path) -> None:
    try:
        # Again, since joining the other processes changes who handles signals.
        with stopping.signals(), held(workdir):
            _log_into(workdir)
            _run_and_print(_with_checkpoint(config), workdir)
    except Exception as error:
        processes.leave(error)
        if isinstance(error, expected_errors()):
            sys.exit(f"error: {error}")
        raise
    processes.leave()


def _with_checkpoint(config: ConfigDict) -> ConfigDict:
    """The config with what follows from its checkpoint, if that alone was typed."""
    typed = configuration.keys_typed(sys.argv)
    if "model.checkpoint" not in {*typed, *_swept()}:
        return config
    from vlt.model_io.following import follow_checkpoint  # imports the models

    return follow_checkpoint(config, typed)


def _swept() -> set[str]:
    return {setting.partition("=")[0].removeprefix("config.") for setting in flags.FLAGS.sweep}


def _log_into(workdir: Path) -> None:
    """Logs everything to a file in the workdir, and warnings to the terminal as well."""
    own = "vlt" if processes.is_primary() else f"vlt-{jax.process_index()}"
    logging.get_absl_handler().use_absl_log_file(own, str(workdir))
    logging.set_stderrthreshold("warning")


def _join() -> None:
    options = flags.FLAGS
    if options.distributed == "auto":
        processes.join(
            options.coordinator,
            options.process_count,
            options.process_index,
            options.join_seconds,
            options.lost_seconds,
        )


def _run_and_print(config: ConfigDict, workdir: Path) -> None:
    options = flags.FLAGS
    if options.restore:
        go_back(workdir, Path(options.restore))
    rows = run_all(config, workdir, options.mode)
    if processes.is_primary():
        print_tables(config, rows, options.mode)
        if config.compare and options.mode == "train":
            print_summary(config, workdir)


def run_all(config: ConfigDict, workdir: Path, mode: str = "train") -> list[dict[str, Any]]:
    """Runs the config, or each row of its comparison, as often as it is to be repeated, in folders
    of their own; writes and returns the results.

    Raises:
        OtherConfigError: a folder holds a run of another config; the message names the keys.
        ConfigError: a number is out of bounds, or rows would share a folder.
        WorkdirError: a folder is not that of a run, or another live run writes there.
    """
    configuration.checked(config)
    check_titles(config)
    shown = columns(config, mode)
    with held(workdir):
        claim(workdir, config, mode)
        rows = []
        for title, row_config in configuration.rows_of(config):
            folder = workdir / slug(title) if title else workdir
            rows.append({"row": title or workdir.name} | run_row(row_config, folder, mode))
            if processes.is_primary() and len(rows) < len(config.compare):
                print(f"\n{format_table(rows, shown)}\n", file=sys.stderr, flush=True)
        if processes.is_primary():
            write_results(workdir, rows, shown)
    return rows


def run_row(config: ConfigDict, workdir: Path, mode: str) -> dict[str, Any]:
    """Results of one run, or the means of its repeats."""
    runs = []
    for title, run_config in configuration.repeats_of(config):
        folder = workdir / slug(title) if title else workdir
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder):
            claim(folder, run_config, mode)
            runs.append(run_one(run_config, folder, mode))
    notes = [run["note"] for run in runs if run.get("note")]
    means = mean_results(runs) | summarize(config.evals, runs)
    return means | {"note": "\n".join(notes)}


def run_one(config: ConfigDict, workdir: Path, mode: str) -> dict[str, Any]:
    """The results of one run; those of a finished run are read back without training."""
    finished = workdir / "run.json"
    if mode == "train" and processes.broadcast_from_primary(finished.exists()):
        return json.loads(finished.read_text(encoding="utf-8"))
    from vlt.training.loop import (  # imports the data stack, which a finished run does not need
        Run,
        train,
    )

    start = time.perf_counter()
    with Run(config, workdir, training=mode == "train") as run:
        results: dict[str, Any] = {"trained_params": run.trained_count}
        if mode == "eval":
            results |= evaluate_chosen(run)
        else:
            if processes.is_primary():
                overview(run)
            results |= train(run) | {"note": note(run)}
    if not processes.is_primary():
        return results  # nobody reads what they would add
    results |= model_facts(config)
    if mode == "train":
        results |= performance(workdir) | {"seconds": time.perf_counter() - start}
        write_whole(finished, json.dumps(results, indent=1) + "\n")
    return results


def evaluate_chosen(run: Any) -> dict[str, Any]:
    """Metrics of the checkpoint that would be exported: the best, or else the latest."""
    step = processes.broadcast_from_primary(run.checkpoints.chosen())
    if step is None and run.config.train.steps:
        raise OtherConfigError(f"{run.workdir} holds no checkpoint to evaluate")
    if step is not None:
        if processes.is_primary():
            print(f"{run.workdir}: {run.checkpoints.describe(step)}", file=sys.stderr)
        run.restore(step)
    return run.evaluate(step or 0)


def note(run: Any) -> str:
    """The note below a table of the last step if another step is exported; else ''."""
    step, last = run.checkpoints.chosen(), run.config.train.steps
    if step in (None, last):
        return ""
    return (
        f"{run.workdir}: the table shows the last step, {last}; --mode=eval and vlt.export take "
        f"{run.checkpoints.describe(step)}"
    )


def model_facts(config: ConfigDict) -> dict[str, Any]:
    """What the table asks about the model itself: `inspect/KEY`, and `bench/videos_per_s`."""
    wanted = {key for key, *_ in config.table}
    facts: dict[str, Any] = {}
    if any(key.startswith("inspect/") for key in wanted):
        from vlt.inspect import inspect_config

        facts |= {f"inspect/{key}": value for key, value in inspect_config(config).items()}
    if "bench/videos_per_s" in wanted:
        from vlt.bench import videos_per_second

        facts["bench/videos_per_s"] = videos_per_second(config.model, BENCH_BATCH)
    return facts


def overview(run: Any) -> None:
    """Prints what is about to be trained, and on which devices."""
    from clu import parameter_overview  # imports TensorFlow

    from vlt.training.rules import partition

    # The host's copies, since no process may hold a whole array on its devices.
    trained, _ = partition(run.model.params, run.config.rules)
    table = parameter_overview.get_parameter_overview(trained, max_lines=40)
    print(table, file=sys.stderr)
    print(
        f"{run.workdir}: {run.trained_count:,} trained parameters on mesh "
        f"{dict(run.mesh.shape)} of {jax.devices()[0].device_kind}, "
        f"processes: {jax.process_count()}",
        file=sys.stderr,
    )


def performance(workdir: Path) -> dict[str, float]:
    """The training step's median time in ms, and peak memory in 10^6 bytes."""
    entries = [e for e in read_metrics(workdir) if f"{PERFORMANCE}step_s" in e]
    if not entries:
        return {}
    return {
        "step_ms": 1000 * statistics.median(e[f"{PERFORMANCE}step_s"] for e in entries),
        "peak_mb": entries[-1][f"{PERFORMANCE}peak_bytes"] / 1e6,
    }


def columns(config: ConfigDict, mode: str = "train") -> list[Column]:
    """The results table's columns: what every run has, and `config.table`."""
    ours = [Column("row", "model"), Column("trained_params", "trained", ",d")]
    ours.append(Column("step_ms", "step ms", ".0f"))
    every = ours + [Column(*entry) for entry in config.table]
    return [column for column in every if mode == "train" or column.key not in OF_TRAINING]


def print_tables(config: ConfigDict, rows: list[dict[str, Any]], mode: str = "train") -> None:
    """Prints the results, and each further table of the config."""
    print(format_table(rows, columns(config, mode)))
    for title, entries in config.more_tables.items():
        print(f"\n{title}")
        cells = [Column("row", "model"), *(Column(*entry) for entry in entries)]
        print(format_table(rows, cells))
    for row in rows:
        if row.get("note"):
            print(f"\n{row['note']}")


def print_summary(config: ConfigDict, workdir: Path) -> None:
    """Draws a finished comparison, and prints where things are and how to go on."""
    from vlt import summary  # imports the decoder

    runs = []
    for title, row_config in configuration.rows_of(config):
        repeat, run_config = configuration.repeats_of(row_config)[0]
        runs.append((title, workdir / slug(title) / slug(repeat), run_config))
    pictures = summary.draw(workdir, runs)
    name = config_flags.get_config_filename(flags.FLAGS["config"])
    print(f"\n{summary.closing(name, workdir, runs, pictures)}")


def check_titles(config: ConfigDict) -> None:
    """Checks that each row of the comparison, and each repeat of a row, has a folder of its own.

    Raises:
        ConfigError: a title without a letter or digit that a folder's name could have, or two
            titles that give the same name.
    """
    repeated = [("repeats", row.repeats) for _, row in configuration.rows_of(config)]
    for key, entries in (("compare", config.compare), *repeated):
        named: dict[str, str] = {}
        for title, _ in entries:
            name = slug(title)
            if not name:
                raise configuration.ConfigError(
                    f"config.{key}: the title {title!r} gives its folder no name; it needs a Latin "
                    "letter or a digit"
                )
            if name in named:
                raise configuration.ConfigError(
                    f"config.{key}: {named[name]!r} and {title!r} would share the folder {name}; "
                    "titles must differ in Latin letters or digits, or each be run alone in a "
                    "--workdir of its own"
                )
            named[name] = title


def slug(title: str) -> str:
    """A folder name for a row of a comparison."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def expected_errors() -> tuple[type[Exception], ...]:
    """Errors that a user can fix, reported without a traceback."""
    from vlt.data.skips import TooManyErrors
    from vlt.data.video.errors import VideoError
    from vlt.model_io.folder import ModelFolderError
    from vlt.storage.trees import CheckpointError
    from vlt.training.loop import NonFiniteError

    return (
        CheckpointError, ModelFolderError, NonFiniteError, TooManyErrors, ValueError, VideoError,
        processes.DistributedError,
    )  # fmt: skip


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
