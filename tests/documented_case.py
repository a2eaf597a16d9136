"""What is run in place of a command that a document prints."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Case:
    """What is run in place of a command as it is printed.

    commands: shell lines; empty where nothing is run. needs: the module that they cannot run
    without. reason: why nothing is run.
    """

    commands: tuple[str, ...] = ()
    needs: str = ""
    reason: str = ""


def run(*commands: str, needs: str = "") -> Case:
    return Case(commands, needs)


def skipped(reason: str) -> Case:
    return Case(reason=reason)
