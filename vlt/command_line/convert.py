"""What `vlt convert` takes."""

import argparse

# As `vlt.convert.families` has them, with a few words on each.
LAYOUTS = {
    "blip": "BLIP as its authors or Token Mixing's saved it",
    "viclip": "ViCLIP as published, or as its training saves it",
    "blip_hf": "BLIP as transformers saves it",
    "tempme": "TempMe or its LoRA baseline over CLIP",
    "btadapter_eva": "BT-Adapter over EVA-CLIP-G, or that checkpoint's towers alone",
    "btadapter": "BT-Adapter over CLIP, pre-trained or fine-tuned",
    "clip_hf": "CLIP as transformers saves it",
    "openai": "CLIP as OpenAI published it",
    "open_clip": "the same names; activation unknown",
}


def parse(program: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """The arguments, or those of this process; ends it where they do not fit."""
    parser = argparse.ArgumentParser(
        prog=program, description="A published checkpoint to a model folder, or back."
    )
    parser.add_argument("source", help="file or Hugging Face folder; with --reverse, model folder")
    parser.add_argument("target", help="model folder; with --reverse, file or folder to write")
    layouts = "; ".join(f"{name}: {about}" for name, about in LAYOUTS.items())
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
    return parser.parse_args(arguments)
