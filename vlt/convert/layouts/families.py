"""The families of checkpoints, and which of them a file belongs to."""

import re

from vlt.convert.errors import ConversionError
from vlt.convert.layouts.actionclip import ACTIONCLIP, ACTIONCLIP_SHIFT
from vlt.convert.layouts.blip import BLIP, BLIP_HF
from vlt.convert.layouts.btadapter import BTADAPTER, BTADAPTER_EVA, STAN
from vlt.convert.layouts.chat import CHAT_FAMILIES, LLAMA
from vlt.convert.layouts.clip import CLIP_HF, OPEN_CLIP, OPENAI
from vlt.convert.layouts.dgl import DGL
from vlt.convert.layouts.eva02 import EVA02
from vlt.convert.layouts.mote import MOTE
from vlt.convert.layouts.mv_adapter import MV_ADAPTER
from vlt.convert.layouts.ost import OST
from vlt.convert.layouts.pe import PE
from vlt.convert.layouts.plevu import PLEVU
from vlt.convert.layouts.siglip import SIGLIP, SIGLIP_HF
from vlt.convert.layouts.tempme import TEMPME
from vlt.convert.layouts.umt import UMT
from vlt.convert.layouts.viclip import VICLIP
from vlt.convert.layouts.videoprism import (
    VIDEOPRISM,
    VIDEOPRISM_ENCODER,
    VIDEOPRISM_ENCODER_HF,
    VIDEOPRISM_HF,
)
from vlt.convert.layouts.vificlip import VIFICLIP
from vlt.convert.layouts.vita_clip import VITA_CLIP
from vlt.convert.layouts.vop import VOP
from vlt.convert.layouts.xclip import XCLIP, XCLIP_HF
from vlt.convert.tables.family import Family
from vlt.pytrees.fields import near

# In the order in which their signs are tried: what builds on CLIP or LLaMA has its names, too.
FAMILIES = {
    family.name: family
    for family in (
        EVA02,
        PE,
        *CHAT_FAMILIES,
        BLIP,
        VICLIP,
        VOP,
        PLEVU,
        VITA_CLIP,
        UMT,
        MOTE,
        ACTIONCLIP_SHIFT,
        ACTIONCLIP,
        VIFICLIP,
        OST,
        XCLIP,
        XCLIP_HF,
        BLIP_HF,
        TEMPME,
        DGL,
        MV_ADAPTER,
        STAN,
        BTADAPTER_EVA,
        BTADAPTER,
        SIGLIP,
        SIGLIP_HF,
        VIDEOPRISM,
        VIDEOPRISM_HF,
        VIDEOPRISM_ENCODER,
        VIDEOPRISM_ENCODER_HF,
        CLIP_HF,
        OPENAI,
        OPEN_CLIP,
        LLAMA,
    )
}


def family_of(names: list[str], path: object) -> Family:
    """The first family whose sign one of the tensor names matches, or ConversionError."""
    for family in FAMILIES.values():
        if any(re.search(family.sign, name) for name in names):
            return family
    raise ConversionError(
        f"{path}: no known family has names like {', '.join(names[:5])}; families are "
        f"{', '.join(FAMILIES)} (choose with --family)"
    )


def get_family(name: str) -> Family:
    """A family by name, or ConversionError that suggests or lists names."""
    if name not in FAMILIES:
        raise ConversionError(f"unknown --family: {name!r}{near(name, FAMILIES)}")
    return FAMILIES[name]
