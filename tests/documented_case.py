"""What is run instead of a command that a document prints."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Case:
    """What is run instead of a command as it is printed.

    commands: lines for a shell; none where it is not run. needs: module without which they are not
    run. reason: why nothing is run.
    """

    commands: tuple[str, ...] = ()
    needs: str = ""
    reason: str = ""


def run(*commands: str, needs: str = "") -> Case:
    return Case(commands, needs)


def skipped(reason: str) -> Case:
    return Case(reason=reason)
