"""Exports a run for deployment.

orbax: a model folder for `vlt.load`. safetensors: the weights under our names, config.json as
metadata (`vlt convert --reverse` writes published names). stablehlo: both encoders as programs for
any batch size that need none of our code. huggingface: a folder with a model card that
transformers loads, with the same results, of a CLIP, MetaCLIP 2, SigLIP or BLIP without methods; of
one with LoRA if --merge is given.

Takes the run's best checkpoint, or else its latest. Options change the weights, in this order:

--average=FIRST:LAST: the mean of all checkpoints that the run keeps of these steps.
--merge: folds methods as far as possible, LoRA into the weights, DiffRate's rates into counts;
    otherwise they stay as they were trained.
--blend=MODEL:SHARE: mixes in that share of another model's weights, wherever both have them, such
    as 0.5 of the CLIP that training started from (WiSE-FT of ViCLIP, patching of Open-VCLIP).
"""

import argparse
from pathlib import Path

from vlt.command_line.present import check_run

FORMATS = ("orbax", "safetensors", "stablehlo", "huggingface")


def parse(program: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the arguments, by default those of this process; exits if they do not fit."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a run")
    parser.add_argument("target", type=Path, help="folder or file to write")
    parser.add_argument("--format", choices=FORMATS, default="orbax")
    parser.add_argument("--merge", action="store_true", help="fold methods into the weights")
    parser.add_argument("--average", type=_span, metavar="FIRST:LAST", help="mean of checkpoints")
    parser.add_argument("--blend", type=_share, metavar="MODEL:SHARE", help="mix with a model")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at the target")
    options = parser.parse_args(arguments)
    check_run(options.workdir)
    return options


def _span(text: str) -> tuple[int, int]:
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST:LAST, such as 2000:22000")
    return int(first), int(last)


def _share(text: str) -> tuple[str, float]:
    model, _, share = text.rpartition(":")
    try:
        return model, float(share)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not MODEL:SHARE, such as DIR:0.5") from None
