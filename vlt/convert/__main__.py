"""`vlt convert SRC DST`: a published checkpoint to a model folder, or back."""

import argparse
import sys
from pathlib import Path

from vlt.command_line import why
from vlt.command_line.convert import parse
from vlt.convert import ConversionError, Given, convert, convert_chat, parse_settings, reverse
from vlt.model_io.folder import ModelFolderError
from vlt.storage.files import WriteError
from vlt.storage.trees import CheckpointError


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns 0 on success."""
    return run(parse("python -m vlt.convert", arguments))


def run(options: argparse.Namespace) -> int:
    """The same, with arguments that are already parsed."""
    try:
        print(_run(options), end="")
    except (ConversionError, ModelFolderError, CheckpointError, WriteError, OSError) as error:
        print(f"error: {why(error)}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> str:
    if options.reverse:
        return _reverse(options)
    if options.part:
        raise ConversionError("--part has no use without --reverse")
    settings = parse_settings(options.set)
    rest = (options.tokenizer, options.overwrite, options.key, options.allow_nonfinite)
    if _is_chat(options):
        return convert_chat(_given(options), Path(options.target), settings, *rest)
    return convert(options.source, options.target, options.family, settings, *rest)


def _reverse(options: argparse.Namespace) -> str:
    if options.set or options.tokenizer or options.key or options.allow_nonfinite:
        raise ConversionError(
            "--reverse takes everything from the model folder; "
            "leave out --set, --tokenizer, --key and --allow-nonfinite"
        )
    if _is_chat(options):
        raise ConversionError("--reverse takes everything from the model folder; --part chooses")
    return reverse(options.source, options.target, options.family, options.overwrite, options.part)


def _is_chat(options: argparse.Namespace) -> bool:
    names = ("chat", "llm", "delta", "vision", "connector", "branch", "random", "qformer_tokenizer")
    return any(getattr(options, name) for name in names)


def _given(options: argparse.Namespace) -> Given:
    def path(text: str | None) -> Path | None:
        return Path(text) if text else None

    return Given(
        chat=options.chat or "",
        source=path(options.source),
        llm=path(options.llm),
        delta=path(options.delta),
        vision=path(options.vision),
        connector=[Path(each) for each in options.connector],
        branch=[Path(each) for each in options.branch],
        random=options.random,
        qformer_tokenizer=path(options.qformer_tokenizer),
        family=options.family,
    )


if __name__ == "__main__":
    sys.exit(main())
