"""`vlt COMMAND ...`, also run as `python -m vlt COMMAND ...`."""

import signal
import sys

from vlt import __version__
from vlt.command_line import COMMANDS, reader_gone
from vlt.pytrees.fields import did_you_mean


def main() -> int | None:
    """Runs a command and returns its exit status, 2 if there is no such command."""
    name, *arguments = sys.argv[1:] or [""]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"vlt {__version__}")
        return 0
    if name not in COMMANDS:
        wrong = f"error: vlt has no command {name!r}{did_you_mean(name, COMMANDS)}\n\n"
        print(f"{wrong if name else ''}{usage()}", file=sys.stderr)
        return 2
    try:
        try:
            return COMMANDS[name].run([f"vlt {name}", *arguments])
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return reader_gone()


def usage() -> str:
    """What `vlt --help` prints."""
    lines = [f"  {name:<12} {command.about}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: vlt COMMAND ...     vlt COMMAND --help     vlt --version",
            "",
            *lines,
            "",
            "Configs are named, as in `vlt train --config=btadapter:webvid_l14`, or are paths of",
            "files. Programs on data sets are `python -m data_pipelines.NAME`, on several machines",
            "`python -m launch.NAME`.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
