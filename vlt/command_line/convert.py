"""The arguments of `vlt convert`."""

import argparse
import textwrap
from collections.abc import Iterator
from pathlib import Path

from vlt.command_line.present import check_model, check_paths

# The layouts of `vlt.convert.layouts.families`, with a few words on each.
LAYOUTS = {
    "eva02": "EVA02-CLIP as its authors saved it",
    "pe": "PE-Core as its authors published it",
    "instructblip_hf": "InstructBLIP as transformers saves it",
    "minigpt4": "MiniGPT-4, whole or what it trained",
    "instructblip": "InstructBLIP as LAVIS saves it, whole or what it trained",
    "blip2": "a stage of BLIP-2; only its Q-Former is read",
    "llava": "LLaVA v1 and v1.5, whole or its projector, with BT-Adapter or without",
    "eva": "EVA-CLIP-G's tower as LAVIS has it",
    "blip": "BLIP as its authors or Token Mixing's saved it",
    "viclip": "ViCLIP as published, or as its training saves it",
    "vop": "VoP over CLIP as ModelScope has it",
    "plevu": "PLEVU (Efficient-Prompt) over CLIP",
    "vita_clip": "Vita-CLIP over CLIP",
    "umt": "UMT, pre-trained or fine-tuned; of its single modality the tower into another's place",
    "mote": "MoTE over CLIP",
    "actionclip_shift": "ActionCLIP that shifts patches along time",
    "actionclip": "ActionCLIP over CLIP",
    "vificlip": "ViFi-CLIP with the prompts of its second stage",
    "ost": "OST, or all of a CLIP as ViFi-CLIP trains it",
    "xclip": "X-CLIP over CLIP, as its authors saved it",
    "xclip_hf": "X-CLIP as transformers saves it",
    "blip_hf": "BLIP as transformers saves it",
    "tempme": "TempMe or its LoRA baseline over CLIP",
    "dgl": "DGL over CLIP, of either latent",
    "mv_adapter": "MV-Adapter over CLIP",
    "stan": "STAN over CLIP, by attention or convolution",
    "btadapter_eva": "BT-Adapter over EVA-CLIP-G, or that checkpoint's towers alone",
    "btadapter": "BT-Adapter over CLIP, pre-trained or fine-tuned",
    "siglip": "SigLIP and SigLIP 2 as their authors' .npz",
    "siglip_hf": "the same as transformers saves it",
    "videoprism": "VideoPrism's video-text models as their authors' .npz",
    "videoprism_hf": "the same as transformers saves them",
    "videoprism_encoder": "VideoPrism's video encoders alone as their authors' .npz",
    "videoprism_encoder_hf": "the same as transformers saves them",
    "clip_hf": "CLIP as transformers saves it",
    "openai": "CLIP as OpenAI published it",
    "open_clip": "the same names; activation unknown",
    "llama": "LLaMA and Vicuna as transformers saves them, or Meta's folder",
}

# What the tensors do not tell, or what may differ from them: {layouts: {key: value}}.
SETTINGS = {
    "every layout": {
        "preprocessing.mean": "three numbers, of pixels from 0 to 1",
        "preprocessing.std": "three numbers",
        "preprocessing.resize": "bicubic, bilinear, nearest or lanczos",
        "visual.image_size": "pixels; position embeddings are interpolated",
    },
    "where no config.json says it, nor a shape, as in files of pe, eva02 and siglip_hf": {
        "activation": "gelu or quick_gelu, of both towers",
        "visual.activation": "gelu or quick_gelu",
        "text.activation": "gelu or quick_gelu",
        "visual.heads": "heads of attention",
        "text.heads": "heads of attention",
        "visual.norm_eps": "epsilon of LayerNorm; of blip_hf in any case",
        "text.norm_eps": "epsilon of LayerNorm",
    },
    "clip_hf, openai, open_clip, ost, viclip": {
        "visual.temporal_frames": "frames that the vision tower sees together: makes a ViCLIP of a "
        "CLIP, or is another number than a ViCLIP's",
    },
    "xclip, xclip_hf, dgl, vop, mv_adapter and all others but blip, blip_hf, umt, siglip, "
    "siglip_hf, videoprism, videoprism_hf, videoprism_encoder, videoprism_encoder_hf": {
        "text.context": "tokens of a text, of the positions that there are"
    },
    "videoprism, videoprism_hf": {
        "logit_scale": "of cosines where training starts, which learns it; else 100, fixed",
    },
    "umt": {
        "masked_words": "true: keep the head of masked words, of a pre-trained file",
    },
    "blip, blip_hf, umt": {
        "kind": "captioner, retriever or answerer, of a file that holds the parts of all; answerer "
        "makes one of UMT's pre-trained file",
        "text.dropout": "of training",
    },
    "blip, blip_hf": {
        "token_mixing.layers": "layers, as 11 or 0,1, or 'published': trained with Token Mixing",
    },
    "tempme": {
        "tempme.join": "clips that become one at each joining layer, as 2,2,3",
        "tempme.r": "tokens merged in each frame and layer",
        "tempme.keep_cross": "percent kept between clips",
        "tempme.keep_intra": "percent kept in a clip",
    },
    "vita_clip": {"vita_clip.position": "end, middle or front: of the class name in its context"},
    "plevu": {
        "plevu.prefix": "prompts before the words of a text",
        "plevu.postfix": "prompts behind them",
        "plevu.heads": "heads of the blocks over frames",
    },
    "actionclip, actionclip_shift": {
        "actionclip.published": "false: Conv_1D convolves over time, unlike the published code",
    },
    "llava, minigpt4, instructblip, instructblip_hf, blip2, eva, llama": {
        "text.new_rows": "mean or image: rows of <vid_start> and its like where nobody gives them "
        "(text.context, text.heads and text.norm_eps are of a language model without config.json)",
        "qformer.heads": "heads of attention",
        "chat.connector": "linear or mlp, of a projector that starts at random",
        "chat.tokens": "mean, frames or st_pool: what of a video the language model reads",
        "chat.cls": "first, last or none: the class token's place among the patches",
        "btadapter.gates": "vector, scalar or none",
        "btadapter.spare": "layers at the end of the branch that are not run",
    },
    "stan, btadapter, btadapter_eva, umt, mote, ost, vificlip": {
        "base": "model folder of the CLIP that a file of an adapter alone was trained on, or that "
        "a MoTE has its text tower of, or a ViFi-CLIP its embedding of words, or of the UMT whose "
        "tower a file of the single modality replaces",
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
    """Parses the arguments, by default those of this process; exits if they do not fit."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="A published checkpoint to a model folder, or back.",
        epilog=_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="source and target: a file, or a folder of Hugging Face's or Meta's, and the model "
        "folder; with --reverse a model folder, and the file or folder to write; where the parts "
        "of a chat model are given, the target alone",
    )
    layouts = "; ".join(f"{name}: {about}" for name, about in LAYOUTS.items())
    parser.add_argument("--family", help=f"inferred from the tensors if not given ({layouts})")
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
    _add_parts(parser)
    parser.add_argument("--reverse", action="store_true", help="write the published layout back")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at the target")
    options = parser.parse_args(arguments)
    alone = len(options.paths) == 1 and not options.reverse
    if len(options.paths) > 2 or (len(options.paths) == 1 and not (alone and _given(options))):
        parser.error("give a source and a target (of a chat model's parts, the target alone)")
    options.source, options.target = [None, *options.paths][-2:]
    if options.reverse:
        check_model(options.source)
    else:
        check_paths(*_read(options))
    return options


def _read(options: argparse.Namespace) -> Iterator[Path]:
    """Files and folders that are read, except the tokenizer, which may be a name on the hub."""
    once = (options.source, options.llm, options.delta, options.vision, options.qformer_tokenizer)
    for path in (*once, *options.connector, *options.branch):
        if path:
            yield Path(path)


def _given(options: argparse.Namespace) -> bool:
    """Whether parts of a chat model are named."""
    return any(getattr(options, part) for part in ("llm", "vision", "connector", "branch"))


def _add_parts(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_argument_group("a chat model from separate parts")
    parts.add_argument("--chat", help="what they make: llava, minigpt4 or instructblip")
    parts.add_argument("--llm", metavar="PATH", help="language model, or the base of a delta")
    parts.add_argument("--delta", metavar="PATH", help="what is added to it: Vicuna's or LLaVA's")
    parts.add_argument("--vision", metavar="PATH", help="vision tower")
    parts.add_argument(
        "--connector",
        metavar="PATH",
        action="append",
        default=[],
        help="projector, or Q-Former; repeatable, the later goes before the earlier",
    )
    parts.add_argument(
        "--branch", metavar="PATH", action="append", default=[], help="BT-Adapter; repeatable"
    )
    parts.add_argument(
        "--random",
        metavar="PART",
        action="append",
        default=[],
        help="vision, connector, projection or branch: starts as training starts it; repeatable",
    )
    parts.add_argument(
        "--qformer-tokenizer", metavar="PATH", help="BERT's vocab.txt, of InstructBLIP's Q-Former"
    )
    parts.add_argument(
        "--part", help="with --reverse, what is written: llm, vision, connector or branch"
    )
