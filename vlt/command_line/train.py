"""vlt train --config=NAME[:variant] [--workdir=DIR] [--mode=train|eval] [--config.KEY=VALUE]
vlt eval --workdir=DIR [--config.evals.KEY=VALUE]: the same with --mode=eval; evaluates the best
checkpoint of a run, or else the latest

Trains, evaluates, and prints a table. NAME is a file of the folder `configs`, here or in the
package, or a path; --config.KEY=VALUE replaces a value of it, for example --config.train.steps=100,
and --config=NAME --help lists all of them.
The same command resumes a run that was stopped. An evaluation without --config takes the one that
the run has saved.
"""

import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from vlt.command_line.inputs import absent_inputs
from vlt.command_line.keys import listed
from vlt.configuration import (
    HELP,
    SAVED,
    ConfigError,
    checked,
    define_config,
    is_run,
    load_config,
    misused,
    parse_flags,
    run_name,
    sweep_rows,
    values_typed,
)


def parse(argv: list[str]) -> list[str]:
    """Defines the flags of `vlt.main` and parses them with `parse_flags`."""
    define_config()
    flags.DEFINE_string("workdir", "", "Folder of the run; runs/CONFIG[-VARIANT] by default.")
    flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train, or evaluate what is trained.")
    flags.DEFINE_string(
        "restore", "", "WORKDIR/checkpoints/STEP to go back to; later ones are put aside."
    )
    flags.DEFINE_multi_string(
        "sweep",
        [],
        "KEY=A,B: a run with each value, in one table, in the place of the config's own rows; of "
        "several keys, each with each. For example --sweep=optimizer.lr=1e-3,1e-4.",
    )
    _define_processes()
    argv = _with_config_of_run(argv)
    arguments = parse_flags(argv, __doc__ + _keys(argv))
    if flags.FLAGS.sweep:
        _compare(flags.FLAGS.config, flags.FLAGS.sweep)
    _check_inputs(flags.FLAGS.config)
    return arguments


def folder_of_run() -> Path:
    """The workdir as it was typed, or else runs/CONFIG[-VARIANT]."""
    name = run_name(config_flags.get_config_filename(flags.FLAGS["config"]))
    return Path(flags.FLAGS.workdir or f"runs/{name}")


def _check_inputs(config: ConfigDict) -> None:
    """Ends the process if a new run lacks an input; one that exists already may have finished."""
    if is_run(folder_of_run()):
        return
    if absent := absent_inputs(config, training=flags.FLAGS.mode == "train"):
        sys.exit("\n".join(f"error: {each}" for each in absent))


def _keys(argv: list[str]) -> str:
    """What --help adds for a config that is given; ends the process if there is no such config."""
    name = values_typed(argv, "config").get("config")
    if not name or not HELP & set(argv):
        return ""
    try:
        return f"\n--config.KEY=VALUE of {name}:\n{listed(load_config(name))}\n"
    except ConfigError as error:
        misused(str(error))


def _compare(config: ConfigDict, settings: list[str]) -> None:
    """Makes the settings of a sweep the config's rows; ends the process if one does not fit."""
    try:
        config.compare = sweep_rows(settings)
        checked(config)
    except ConfigError as error:
        misused(str(error))


def _with_config_of_run(argv: list[str]) -> list[str]:
    """The typed arguments; an evaluation of a workdir without --config gets the saved one added."""
    typed = values_typed(argv, "config", "mode", "workdir")
    if typed.get("mode") != "eval" or not typed.get("workdir") or "config" in typed:
        return argv
    return [argv[0], f"--config={Path(typed['workdir']) / SAVED}", *argv[1:]]


def _define_processes() -> None:
    flags.DEFINE_enum(
        "distributed",
        "auto",
        ["auto", "off"],
        "Whether to be one of the processes that the environment (TPU, GKE, Slurm, MPI) or the "
        "next three flags tell of.",
    )
    flags.DEFINE_string(
        "coordinator", "", "HOST:PORT on which the first process listens, where nothing else tells."
    )
    flags.DEFINE_integer("process_count", None, "How many processes there are.")
    flags.DEFINE_integer("process_index", None, "Which this is, from 0.")
    flags.DEFINE_integer(
        "join_seconds", 300, "How long processes wait for each other at the start."
    )
    flags.DEFINE_integer(
        "lost_seconds",
        60,
        "Without a sign of life after which a process is lost and the others end.",
    )
