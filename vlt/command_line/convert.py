"""What `vlt convert` takes."""

import argparse
import textwrap

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

# What tensors can't tell, or need not be as they say: {layouts: {key: value}}.
SETTINGS = {
    "every layout": {
        "preprocessing.mean": "three numbers, of pixels from 0 to 1",
        "preprocessing.std": "three numbers",
        "preprocessing.resize": "bicubic, bilinear, nearest or lanczos",
        "visual.image_size": "pixels; position embeddings are interpolated",
    },
    "where no config.json says it": {
        "activation": "gelu or quick_gelu, of both towers",
        "visual.activation": "gelu or quick_gelu",
        "text.activation": "gelu or quick_gelu",
        "visual.heads": "heads of attention",
        "text.heads": "heads of attention",
        "visual.norm_eps": "epsilon of LayerNorm; of blip_hf in any case",
        "text.norm_eps": "epsilon of LayerNorm",
    },
    "clip_hf, openai, open_clip, viclip": {
        "visual.temporal_frames": "frames that the vision tower sees together: makes a ViCLIP of a "
        "CLIP, or is another number than a ViCLIP's",
    },
    "all but blip, blip_hf": {"text.context": "tokens of a text, of the positions that there are"},
    "blip, blip_hf": {
        "kind": "captioner, retriever or answerer, of a file that holds the parts of all",
        "text.dropout": "of training",
        "token_mixing.layers": "layers, as 11 or 0,1, or 'published': trained with Token Mixing",
    },
    "tempme": {
        "tempme.join": "clips that become one at each joining layer, as 2,2,3",
        "tempme.r": "tokens merged in each frame and layer",
        "tempme.keep_cross": "percent kept between clips",
        "tempme.keep_intra": "percent kept in a clip",
    },
    "btadapter, btadapter_eva": {
        "base": "model folder of the CLIP that a file of an adapter alone was trained on",
    },
}


def _settings() -> str:
    lines = ["what --set takes, and for which layouts:"]
    for layouts, keys in SETTINGS.items():
        lines.append(f"  {layouts}")
        for key, value in keys.items():
            start = f"    {key:24}"
            lines.append(textwrap.fill(start + value, 100, subsequent_indent=" " * len(start)))
    return "\n".join(lines)


def parse(program: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """The arguments, or those of this process; ends it where they do not fit."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="A published checkpoint to a model folder, or back.",
        epilog=_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="file or Hugging Face folder; with --reverse, model folder")
    parser.add_argument("target", help="model folder; with --reverse, file or folder to write")
    layouts = "; ".join(f"{name}: {about}" for name, about in LAYOUTS.items())
    parser.add_argument("--family", help=f"told from the tensors when not given ({layouts})")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="see below; repeatable"
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
