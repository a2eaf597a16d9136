"""Sizes of a model, read off its leaves."""

import collections
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlt.convert.errors import ConversionError
from vlt.convert.families import Family
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec

_NORMS = r"(blocks_\d+/norm\d|\w+_norm)/(scale|bias)"


def infer_spec(
    leaves: Mapping[str, np.ndarray], family: Family, settings: Mapping[str, Any]
) -> tuple[DualEncoderSpec, list[str]]:
    """The spec, and a note on each thing in it that tensors can't tell.

    A size whose leaf is absent comes out as 1: the leaf is then reported as missing.
    Raises ConversionError when heads or activation must be set, or are set wrongly.
    """
    notes: list[str] = []
    width = common_size(leaves, f"visual/{_NORMS}")
    patch = common_size(leaves, "visual/patch_embedding/kernel", axis=0)
    positions = common_size(leaves, "visual/position_embedding", axis=0)
    visual = VisionSpec(
        image_size=math.isqrt(max(positions - 1, 1)) * patch,
        patch_size=patch,
        width=width,
        layers=max(count_layers(leaves, "visual/blocks_"), 1),
        heads=_heads("visual", width, family.head_width, settings, notes),
        mlp_width=common_size(leaves, r"visual/blocks_\d+/mlp/fc1/(kernel|bias)"),
        activation=_activation("visual", family, settings, notes),
        **family.visual | _norm_eps("visual", settings),
    )
    text_width = common_size(leaves, f"text/{_NORMS}")
    text = TextSpec(
        context=common_size(leaves, "text/position_embedding", axis=0),
        vocab=common_size(leaves, "text/token_embedding/embedding", axis=0),
        width=text_width,
        layers=max(count_layers(leaves, "text/blocks_"), 1),
        heads=_heads("text", text_width, 64, settings, notes),
        mlp_width=common_size(leaves, r"text/blocks_\d+/mlp/fc1/(kernel|bias)"),
        activation=_activation("text", family, settings, notes),
        **_norm_eps("text", settings),
    )
    embed_dim = common_size(leaves, "(visual|text)/projection/kernel")
    return DualEncoderSpec(visual, text, embed_dim), notes


def common_size(leaves: Mapping[str, np.ndarray], pattern: str, axis: int = -1) -> int:
    """Size of an axis that most leaves of matching paths have (one may be misshapen), or 1."""
    sizes = collections.Counter(
        leaf.shape[axis]
        for path, leaf in leaves.items()
        if leaf.ndim and re.fullmatch(pattern, path)
    )
    return sizes.most_common(1)[0][0] if sizes else 1


def count_layers(leaves: Mapping[str, Any], prefix: str) -> int:
    """Layers under `prefix`, by the highest index: a gap then shows as missing tensors."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)/")
    return 1 + max((int(m[1]) for path in leaves if (m := pattern.match(path))), default=-1)


def _heads(
    tower: str, width: int, head_width: int, settings: Mapping[str, Any], notes: list[str]
) -> int:
    key = f"{tower}.heads"
    heads = settings.get(key, width // head_width)
    if heads < 1 or width % heads or (key not in settings and width % head_width):
        raise ConversionError(
            f"{tower} heads can't be {settings.get(key, f'width/{head_width}')} at width {width}; "
            f"--set {key}=N"
        )
    notes.append(f"{key}: {heads} ({'set' if key in settings else f'width/{head_width}'})")
    return heads


def _activation(tower: str, family: Family, settings: Mapping[str, Any], notes: list[str]) -> str:
    key = f"{tower}.activation"
    activation = settings.get(key, family.activation)
    if activation is None:
        raise ConversionError(
            f"layout {family.name}: tensors can't tell the activation; --set activation=quick_gelu "
            "(OpenAI's weights, models named -quickgelu) or --set activation=gelu"
        )
    if activation not in ("quick_gelu", "gelu"):
        raise ConversionError(f"--set {key}={activation}: quick_gelu or gelu")
    notes.append(f"{key}: {activation} ({'set' if key in settings else f'as in {family.name}'})")
    return activation


def _norm_eps(tower: str, settings: Mapping[str, Any]) -> dict[str, float]:
    key = f"{tower}.norm_eps"
    return {"norm_eps": settings[key]} if key in settings else {}
