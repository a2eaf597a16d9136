"""UMT's layout: its tower, BERT with a plain vocabulary, and heads for retrieval or answering.

Pre-trained files name the text model `text_encoder.bert` and hold a head for masked words, the
distillation's decoders and, in some, its teacher. Fine-tuned ones leave all of these out. Files of
the single-modality stage hold the tower alone, as `encoder`.
"""

import re

import numpy as np

from vlt.convert.errors import ConversionError
from vlt.convert.files.arrays import Tensors
from vlt.convert.layouts.blip import RETRIEVAL_HEADS, TEMPERATURE, bert, language_head
from vlt.convert.layouts.viclip import IMAGENET, TUBELET
from vlt.convert.tables.family import Family, Kind, dense, fused, norm
from vlt.convert.tables.table import SPLIT_LINEAR, Rule
from vlt.model_io.view import View

_TOWER, _TEXT, _DECODER = "vision_encoder.encoder", "text_encoder", "text_decoder.bert"
_BLOCK, _ATTENTION = f"{_TOWER}.blocks.{{i}}", "visual/blocks_{i}/attention"
_VISION = (
    Rule(f"{_TOWER}.patch_embed.proj.weight", ("visual/patch_embedding/kernel",), TUBELET),
    Rule(f"{_TOWER}.patch_embed.proj.bias", ("visual/patch_embedding/bias",)),
    *norm(f"{_BLOCK}.norm1", "visual/blocks_{i}/norm1"),
    fused(f"{_BLOCK}.attn.qkv.weight", _ATTENTION, "kernel", SPLIT_LINEAR),
    Rule(f"{_BLOCK}.attn.q_bias", (f"{_ATTENTION}/query/bias",)),
    Rule(f"{_BLOCK}.attn.v_bias", (f"{_ATTENTION}/value/bias",)),
    *dense(f"{_BLOCK}.attn.proj", f"{_ATTENTION}/out"),
    *norm(f"{_BLOCK}.norm2", "visual/blocks_{i}/norm2"),
    *dense(f"{_BLOCK}.mlp.fc1", "visual/blocks_{i}/mlp/fc1"),
    *dense(f"{_BLOCK}.mlp.fc2", "visual/blocks_{i}/mlp/fc2"),
    *norm(f"{_TOWER}.norm", "visual/post_norm"),
)


def _bert(source: str, target: str) -> list[Rule]:
    types = Rule(f"{source}.embeddings.token_type_embeddings.weight", (f"{target}/type_embedding",))
    return [*bert(source, target), types]


def with_decoder(tensors: Tensors) -> Tensors:
    """Adds the tensors of a decoder, as its authors start one: from the embeddings and head of the
    pre-trained text model, and from its layers that read the video."""
    root = r"(?P<root>(module\.)?)text_encoder(\.bert)?\."
    layers = [re.match(rf"{root}encoder\.layer\.(\d+)\.crossattention\.", n) for n in tensors]
    first = min((int(m[4]) for m in layers if m), default=0)
    made = dict(tensors)
    for name, tensor in tensors.items():
        if found := re.match(rf"{root}encoder\.layer\.(\d+)\.", name):
            layer = int(found[4]) - first
            if layer >= 0:
                rest = name[found.end() :]
                made[f"{found['root']}{_DECODER}.encoder.layer.{layer}.{rest}"] = tensor
        elif found := re.match(rf"{root}(?=embeddings\.)", name):
            made[f"{found['root']}{_DECODER}.{name[found.end() :]}"] = tensor
        elif found := re.match(rf"{root}(?=cls\.)", name):
            made[f"{found['root']}text_decoder.{name[found.end() :]}"] = tensor
    return made


def refuse_classifier(tensors: Tensors, path: object) -> None:
    """Raises ConversionError for a tower that was fine-tuned with a head for classes."""
    plain = {name.removeprefix("module."): x for name, x in tensors.items()}
    patch, head = plain.get("patch_embed.proj.weight"), plain.get("head.weight")
    if patch is None or head is None or np.ndim(patch) != 5 or "cls_token" in plain:
        return
    raise ConversionError(
        f"{path}: a UMT fine-tuned for recognition, whose head of {len(head)} classes no model "
        "here has; convert a file of its pre-training, of retrieval or of question answering"
    )


_HEAD = f"{_TEXT}.cls.predictions"
UMT = Family(
    name="umt",
    sign=r"^(module\.)?(vision_encoder\.encoder\.|encoder\.blocks\.\d+\.attn\.q_bias$)",
    renames=(
        (r"^module\.", ""),
        (r"^text_encoder\.bert\.", "text_encoder."),
        (r"^(encoder|clip_decoder)\.", r"vision_encoder.\1."),
    ),
    left_out=r"vision_encoder\.clip_decoder\..*|clip_teacher\..*",
    optional={"masked_words": r"text_encoder\.cls\..*"},
    aliases={
        f"{_HEAD}.decoder.weight": f"{_TEXT}.embeddings.word_embeddings.weight",
        f"{_HEAD}.decoder.bias": f"{_HEAD}.bias",
        "text_decoder.cls.predictions.decoder.weight": (
            f"{_DECODER}.embeddings.word_embeddings.weight"
        ),
        "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
    },
    activation="gelu",
    model="umt",
    kinds={
        "retriever": Kind(
            ("text_encoder", "vision_proj", "text_proj", "itm_head"),
            (
                *_VISION,
                *norm("vision_encoder.pool_norm", "visual/pool_norm"),
                *_bert(_TEXT, "text"),
                *language_head(_HEAD, "text/lm_head"),
                *RETRIEVAL_HEADS,
                TEMPERATURE,
            ),
        ),
        "answerer": Kind(
            ("text_encoder", "text_decoder"),
            (
                *_VISION,
                *_bert(_TEXT, "question"),
                *_bert(_DECODER, "text"),
                *language_head("text_decoder.cls.predictions", "text/lm_head"),
            ),
            made=("text_decoder", with_decoder),
        ),
    },
    visual={
        "norm_eps": 1e-6,
        "pre_norm": False,
        "patch_bias": True,
        "key_bias": False,
        "projection_bias": True,
        "pool": "token_mean",
        "pool_norm": True,
        "positions": "sinusoid",
        "joint": True,
    },
    adapter=r"vision_encoder\.(encoder|clip_decoder)\..*",
    alone="the tower of one modality alone; --set base=FOLDER names a model folder of UMT",
    pixels=IMAGENET,
    view=View("viclip_middle", 12),
)
