"""vlt train --config=NAME[:variant] [--workdir=DIR] [--mode=train|eval] [--config.KEY=VALUE]
vlt eval --config=NAME[:variant] [--workdir=DIR]: the same with --mode=eval

Trains, evaluates, and prints a table. NAME is a file of the folder `configs`, here or in the
package, or a path; --config.KEY=VALUE replaces a value of it, for example --config.train.steps=100.
The same command goes on with a run that was stopped.
"""

from absl import flags

from vlt.configuration import define_config, parse_flags


def parse(argv: list[str]) -> list[str]:
    """Defines the flags of `vlt.main` and parses them, as `parse_flags`."""
    define_config()
    flags.DEFINE_string("workdir", "", "Folder of the run; runs/CONFIG[-VARIANT] by default.")
    flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train, or evaluate what is trained.")
    flags.DEFINE_string(
        "restore", "", "WORKDIR/checkpoints/STEP to go back to; later ones are put aside."
    )
    _define_processes()
    return parse_flags(argv, __doc__)


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
