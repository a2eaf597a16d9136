"""`python -m vlt.convert SRC DST`: a published checkpoint to a model folder, or back."""

import argparse
import sys

from vlt.convert import ConversionError, convert, parse_settings, reverse
from vlt.convert.families import FAMILIES
from vlt.model_io.folder import ModelFolderError
from vlt.storage.files import WriteError
from vlt.storage.trees import CheckpointError


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; 0 when all went well."""
    options = _parser().parse_args(arguments)
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
            "--set and --tokenizer have no use with it, nor have --key and --allow-nonfinite"
        )
    return reverse(options.source, options.target, options.family, options.overwrite)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vlt.convert", description=__doc__)
    parser.add_argument("source", help="file or Hugging Face folder; with --reverse, model folder")
    parser.add_argument("target", help="model folder; with --reverse, file or folder to write")
    layouts = "; ".join(f"{name}: {family.about}" for name, family in FAMILIES.items())
    parser.add_argument("--family", help=f"told from the tensors when not given ({layouts})")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="what tensors can't tell"
    )
    parser.add_argument(
        "--tokenizer", help="folder, file of CLIP's merges or BERT's words, or name on the hub"
    )
    parser.add_argument(
        "--key", metavar="ENTRY", help="entry of the file that has the tensors (model_ema, a.b)"
    )
    parser.add_argument(
        "--allow-nonfinite", action="store_true", help="convert weights that are NaN or infinite"
    )
    parser.add_argument("--reverse", action="store_true", help="write the published layout back")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at the target")
    return parser


if __name__ == "__main__":
    sys.exit(main())
