"""Which methods fit which vision towers: a table for the page of methods."""

from collections.abc import Iterator

from docs.markdown import codes, table
from vlt.methods import method_classes
from vlt.models.compatibility import lacks
from vlt.models.sizes import SIZES
from vlt.models.spec import Spec
from vlt.models.spec_reading import with_video

FRAMES = 8
# By column: a size of the backbone, and a config's `model.video` for it.
BACKBONES: dict[str, tuple[str, dict[str, object]]] = {
    "CLIP": ("clip_b16", {}),
    "ViCLIP": ("viclip_b16", {}),
    "UMT4Clip": ("umt_b16_retriever", {"joint": False}),
    "SigLIP 2": ("siglip2_b16", {}),
    "PE-Core": ("pe_b16", {}),
    "EVA02-CLIP": ("eva02_b16", {}),
    "VideoPrism": ("videoprism_b", {}),
}

INTRO = """\
## Methods on backbones

`--config.model.checkpoint=checkpoints/pe_b16` puts any config's methods on another backbone, and
sizes, context and size of frames are what that says. A cell says which of the words above the
backbone lacks; where there is none, the method fits, with the options it has by
default (EViT and DiffRate need no class token with `attention='received'`, and BT-Adapter none but
with `class_token='backbone'`). A test takes a step in every cell, or is told why not."""


def spec_of(column: str) -> Spec:
    """The spec of a column's backbone."""
    size, video = BACKBONES[column]
    return with_video(SIZES[size], video, FRAMES)


def missing(name: str, spec: Spec) -> list[str]:
    """Words that a method with its default options needs and a model of this spec lacks."""
    return sorted(method_classes()[name]().needs_here() & lacks(spec).keys())


def methods_on_backbones() -> Iterator[str]:
    """Heading and table."""
    specs = {column: spec_of(column) for column in BACKBONES}
    rows = (
        (f"[`{name}`](#{name})", *(codes(missing(name, spec)) or "yes" for spec in specs.values()))
        for name in method_classes()
    )
    yield INTRO
    yield table(("method", *specs), rows)
