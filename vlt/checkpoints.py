"""`vlt checkpoints [NAME ...] [--verify FILE]`: checkpoints of configs, and where to get them."""

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from vlt.command_line import why
from vlt.command_line.checkpoints import parse
from vlt.configuration.checkpoints import CHECKPOINTS, MERGES, MERGES_URL
from vlt.configuration.published import Published


def state_of(checkpoint: Published) -> str:
    """'no' if its folder does not exist, 'yes', or 'damaged' or 'other' with the reason.

    Checks the folder's config and the shapes of its weights; values are checked when loaded.
    """
    if not checkpoint.folder.exists():
        return "no"
    from vlt.model_io.folder import ModelFolderError  # imports JAX
    from vlt.storage.trees import CheckpointError

    try:
        size = _size_of(checkpoint.folder)
    except (CheckpointError, ModelFolderError, ValueError) as error:
        return f"damaged: {error}"
    if checkpoint.size not in (0, size):
        return f"other: its weights are {megabytes(size)}, not {megabytes(checkpoint.size)}"
    return "yes"


def _size_of(folder: Path) -> int:
    """Bytes of a model folder's weights in float32. Raises as `read_model_folder`."""
    from vlt.model_io.folder import model_shapes, read_model_config
    from vlt.pytrees.paths import by_path
    from vlt.storage.trees import check_same, load_shapes

    config = read_model_config(folder)
    weights = by_path(load_shapes(folder / "weights"))
    wanted = model_shapes(config.spec, config.methods, config.frames)
    check_same(folder / "weights", weights, by_path(wanted), halves=True)
    return sum(4 * leaf.size for leaf in weights.values())


def megabytes(size: int) -> str:
    """A number of bytes, as text."""
    return f"{size / 1e6:,.0f} MB" if size else "unknown"


def described(checkpoint: Published) -> dict[str, Any]:
    """What is known about a checkpoint, and its state on this machine."""
    facts = dataclasses.asdict(checkpoint)
    del facts["options"]
    return facts | {
        "folder": str(checkpoint.folder),
        "command": checkpoint.command,
        "here": state_of(checkpoint),
    }


def format_checkpoints(entries: Sequence[dict[str, Any]]) -> str:
    """A table in which each row is followed by where to get the checkpoint."""
    row = "{:<18}  {:<13}  {:<12}  {:>8}  {}"
    lines = [row.format("name", "family", "licence", "size", "here")]
    for each in entries:
        size, (state, _, reason) = megabytes(each["size"]), each["here"].partition(": ")
        lines += [
            row.format(each["name"], each["family"], each["licence"], size, state),
            f"    {each['about']}: {each['url']}",
        ]
        lines += [f"    {text}" for text in (each["note"], each["command"], reason) if text]
    if any(MERGES in each["command"] for each in entries):
        lines.append(f"{MERGES} is in {MERGES_URL}")
    return "\n".join(lines)


def verify(file: Path, names: Sequence[str]) -> str:
    """Confirms that a file has the sha256 that the publisher of a checkpoint gives.

    names: checkpoints that it may be; all by default.

    Raises:
        ValueError: it has not, or the sum of the published file is not known here.
        OSError: it cannot be read.
    """
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    asked = [CHECKPOINTS[name] for name in names or CHECKPOINTS]
    for each in asked:
        if each.sha256 == found:
            return f"{file}: whole, {each.about} as published ({each.name})"
    likely = [each for each in asked if names or each.file == file.name]
    known = [each for each in likely if each.sha256]
    if known:
        wanted = " or ".join(f"{each.sha256} ({each.name})" for each in known)
        raise ValueError(f"{file}: its sha256 is {found} instead of the publisher's {wanted}")
    about = f"none is known of {likely[0].file}" if likely else "no checkpoint known here has it"
    raise ValueError(f"{file}: its sha256 is {found}; {about}, so nothing can be said of it")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns 0 when all went well."""
    return run(parse("python -m vlt.checkpoints", arguments))


def run(options: argparse.Namespace) -> int:
    """Runs the command with parsed arguments."""
    if options.verify:
        try:
            print(verify(options.verify, options.names))
        except (OSError, ValueError) as error:
            print(f"error: {why(error)}", file=sys.stderr)
            return 1
        return 0
    logging.set_verbosity(logging.ERROR)  # the error already holds what Orbax logs of damage
    entries = [described(CHECKPOINTS[name]) for name in options.names or CHECKPOINTS]
    print(json.dumps({"checkpoints": entries}) if options.json else format_checkpoints(entries))
    return 0


if __name__ == "__main__":
    sys.exit(main())
