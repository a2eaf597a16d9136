"""`vlt convert SRC DST`: a published checkpoint to a model folder, or back."""

import argparse
import sys

from vlt.command_line.convert import parse
from vlt.convert import ConversionError, convert, parse_settings, reverse
from vlt.model_io.folder import ModelFolderError
from vlt.storage.files import WriteError
from vlt.storage.trees import CheckpointError


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; 0 when all went well."""
    return run(parse("python -m vlt.convert", arguments))


def run(options: argparse.Namespace) -> int:
    """The same, of arguments that were parsed."""
    try:
        print(_run(options), end="")
    except (ConversionError, ModelFolderError, CheckpointError, WriteError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> str:
    if not options.reverse:
        return convert(
            options.source,
            options.target,
            options.family,
            parse_settings(options.set),
            options.tokenizer,
            options.overwrite,
            options.key,
            options.allow_nonfinite,
        )
    if options.set or options.tokenizer or options.key or options.allow_nonfinite:
        raise ConversionError(
            "--reverse takes everything from the model folder; "
            "leave out --set, --tokenizer, --key and --allow-nonfinite"
        )
    return reverse(options.source, options.target, options.family, options.overwrite)


if __name__ == "__main__":
    sys.exit(main())
