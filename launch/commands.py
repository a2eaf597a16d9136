"""What the launchers share: commands that are shown and run, and the command line of vlt.main."""

import argparse
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from vlt.configuration import PACKAGED, ConfigError, check_flags, path_of

ROOT = pathlib.Path(__file__).resolve().parents[1]  # root of the checkout, if this is one
BUILD = "build"  # in ROOT; git ignores it

# Kubernetes appends a suffix to it to name pods, in at most 63 characters.
NAME = r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?"


class LaunchError(ValueError):
    """An argument that does not fit, or a command that failed."""


class Command(NamedTuple):
    """One command.

    Attributes:
      words: the program and its arguments.
      stdin: text for it to read.
      wrong: what its failure means, if that is known.
      in_checkout: whether it runs in the checkout whose commit it sends, not in the current folder.
    """

    words: Sequence[str]
    stdin: str = ""
    wrong: str = ""
    in_checkout: bool = False

    def __str__(self) -> str:
        """The command as typed into a shell."""
        line = shlex.join(self.words)
        return f"{line} <<'END'\n{self.stdin.rstrip()}\nEND" if self.stdin else line


Plan = Callable[[argparse.Namespace], Iterable[Command]]


def main(parser: argparse.ArgumentParser) -> None:
    """Runs the commands that the chosen subcommand's `plan` returns, or only prints them.

    What follows `--` belongs to vlt.main and is passed as `arguments.training`.
    """
    ours, training = split(sys.argv[1:])
    arguments = parser.parse_args(ours)
    arguments.training = training
    if training and not arguments.trains:
        parser.error(f"{shlex.join(training)}: only `run` takes arguments after --")
    try:
        for command in arguments.plan(arguments):
            print(command, file=sys.stdout if arguments.dry_run else sys.stderr, flush=True)
            if not arguments.dry_run:
                execute(command)
    except (ConfigError, LaunchError) as error:
        parser.exit(1, f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130)


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits a command line into the parts before and after the first `--`."""
    before = argv.index("--") if "--" in argv else len(argv)
    return list(argv[:before]), list(argv[before + 1 :])


def subcommand(subparsers: argparse._SubParsersAction, plan: Plan) -> argparse.ArgumentParser:
    """Adds a subcommand, named and described after the function that plans it; `run` trains."""
    text = (plan.__doc__ or "").strip()
    parser = subparsers.add_parser(
        plan.__name__, help=text.split("\n")[0], description=text, allow_abbrev=False
    )
    parser.set_defaults(plan=plan, trains=plan.__name__ == "run")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run none")
    return parser


def execute(command: Command) -> None:
    """Runs a command.

    Raises:
      LaunchError: its program is not installed, it failed, or there is no checkout to run it in.
    """
    if command.in_checkout and not (ROOT / ".git").exists():
        raise LaunchError(
            f"{ROOT} is not a checkout, and it is a checkout's commit that is sent: clone the "
            "repository, `pip install -e` it, and run this again"
        )
    cwd = ROOT if command.in_checkout else None
    try:
        done = subprocess.run(command.words, input=command.stdin or None, text=True, cwd=cwd)
    except FileNotFoundError:
        raise LaunchError(f"{command.words[0]} is not installed here, or not in PATH") from None
    if done.returncode:
        meaning = f": {command.wrong}" if command.wrong else ""
        raise LaunchError(
            f"`{' '.join(command.words[:5])} ...` ended with status {done.returncode}{meaning}"
        )


def in_checkout(*commands: Command) -> list[Command]:
    """The same commands, run in the checkout."""
    return [command._replace(in_checkout=True) for command in commands]


def name_of(text: str) -> str:
    """Parses a NAME of the command line."""
    if not re.fullmatch(NAME, text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: a name has at most 40 small letters, digits and hyphens, and begins with a "
            "letter"
        )
    return text


def workdir_of(training: Sequence[str]) -> str:
    """The --workdir in vlt.main's arguments, which are checked as vlt.main checks them.

    Raises:
      ConfigError: no such config file, variant or key.
      LaunchError: --config or --workdir is missing.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--config")
    parser.add_argument("--workdir")
    found, _ = parser.parse_known_args(training)
    missing = [f"--{key}" for key, value in vars(found).items() if not value]
    if missing:
        raise LaunchError(
            f"{' and '.join(missing)}: missing; after -- come the arguments of `python -m "
            "vlt.main`, such as -- --config=configs/btadapter.py --workdir=gs://BUCKET/runs/one"
        )
    check_flags(["", *training])
    return found.workdir


def check_sent(training: Sequence[str]) -> None:
    """Checks that hosts with nothing but the repository's commit have the config, too.

    Raises:
      LaunchError: the file is not in the repository, or not tracked by git there.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--config")
    file = path_of(parser.parse_known_args(training)[0].config.partition(":")[0])
    packaged = file.parent == pathlib.Path("configs") and (PACKAGED / file.name).is_file()
    sent = _is_tracked(file) if (ROOT / ".git").exists() else packaged
    if file.is_absolute() or not sent:
        raise LaunchError(
            f"--config={file}: the hosts have what is committed in {ROOT}, such as "
            "configs/btadapter.py; put the file there, commit it, and name it from there"
        )


def _is_tracked(file: pathlib.Path) -> bool:
    words = ["git", "-C", str(ROOT), "ls-files", "--error-unmatch", "--", str(file)]
    return not subprocess.run(words, capture_output=True).returncode
