"""Sizes of a model, read off its leaves."""

import collections
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlt.convert.errors import ConversionError
from vlt.convert.tables.family import Family
from vlt.convert.tables.resize import FEWEST_FRAMES
from vlt.convert.tables.table import Row
from vlt.models.leaf_names import FRAMES
from vlt.models.spec import (
    BertSpec,
    BlipSpec,
    DualEncoderSpec,
    EncoderSpec,
    PoolerSpec,
    Spec,
    TextSpec,
    VisionSpec,
)
from vlt.models.spec_reading import check_question_width

Leaves = Mapping[str, Any]  # only their shapes are read
Settings = Mapping[str, Any]

_ACTIVATIONS = ("quick_gelu", "gelu", "gelu_tanh", "relu")
_POOLER = "visual.pooler"  # as settings call it
# ViT-H, g and bigG have 16 heads; a text tower of width 1280, bigG's, has heads of 64.
_LARGE_VISION = {1280: 80, 1408: 88, 1664: 104}
FIXED_SIDE = 224  # pixels, where no table of positions gives it
_NORMS = r"(blocks_\d+/(norm\d|\w+_norm)|\w+_norm)/(scale|bias)"


def told_heads(rows: Iterable[Row]) -> dict[str, int]:
    """{setting: number of attention heads}, for layouts whose tensors have an axis of heads.

    Raises ConversionError: layers of one tower have different numbers of heads.
    """
    told: dict[str, int] = {}
    for row in rows:
        if (axis := row.rule.transform.heads) is None:
            continue
        tower = _POOLER if row.targets[0].startswith("visual/pooler/") else row.targets[0]
        key, heads = f"{tower.partition('/')[0]}.heads", row.shape[axis]
        if told.setdefault(key, heads) != heads:
            raise ConversionError(f"{row.source}: of {heads} heads, others of {told[key]}")
    return told


def heads_at(spec: Spec, path: str) -> int:
    """Number of heads of the attention layer that the leaf at `path` belongs to."""
    pooler = spec.visual.pooler
    if pooler is not None and path.startswith("visual/pooler/"):
        return pooler.heads
    heads: int = (spec.visual if path.startswith("visual/") else spec.text).heads
    return heads


def infer_spec(
    leaves: Leaves, family: Family, settings: Settings, told: Mapping[str, int] | None = None
) -> tuple[Spec, list[str]]:
    """The spec, and a note on each thing in it that tensors can't tell.

    told: what `told_heads` returns for the tensors.

    A size whose leaf is absent becomes 1 (`FEWEST_FRAMES` for frame embeddings); the leaf is then
    reported as missing.
    Raises ConversionError when heads or activation must be set, or are set wrongly.
    """
    notes: list[str] = []
    for key, heads in (told or {}).items():
        if settings.get(key, heads) != heads:
            raise ConversionError(f"--set {key}={settings[key]}: the tensors are of {heads}")
    settings = {**settings, **(told or {})}
    visual = infer_vision(leaves, family, settings, notes)
    if family.kind == EncoderSpec.kind:
        return EncoderSpec(visual), notes
    embed_dim = common_size(leaves, "((visual|text)/|text_)projection/kernel")
    if family.model == "umt":
        return _umt_spec(leaves, family, visual, settings, notes), notes
    text = _text_sizes(leaves, family, settings, notes)
    if family.model == "blip":
        bert = _bert_spec(text, visual.width, settings, notes)
        joint = embed_dim if family.kind == "retriever" else 0
        return BlipSpec(family.kind, visual, bert, joint), notes
    text_spec = TextSpec(**family.text | text)
    if not visual.projection:
        embed_dim = visual.width
    return DualEncoderSpec(visual, text_spec, embed_dim, family.has("logit_bias")), notes


def _umt_spec(
    leaves: Leaves, family: Family, visual: VisionSpec, settings: Settings, notes: list[str]
) -> BlipSpec:
    """The spec, by sizes of the text model that reads the video; a decoder's follow from them."""
    tower = "question" if family.kind == "answerer" else "text"
    sizes = _text_sizes(leaves, family, settings, notes, tower)
    if "text.dropout" in settings:
        sizes["dropout"] = settings["text.dropout"]
    crossing = [layer for path in leaves if (layer := _crossing_layer(path, tower)) is not None]
    text = BertSpec(
        source_width=visual.width,
        # BERT's, until a tokenizer gives them.
        decode_id=101,
        encode_id=101,
        fusion_layer=min(crossing, default=0),
        token_types=common_size(leaves, f"{tower}/type_embedding", axis=0),
        **sizes,
    )
    if family.kind == "answerer":
        try:
            check_question_width(text.width, visual.width)
        except ValueError as error:
            raise ConversionError(str(error)) from error
        return BlipSpec(family.kind, visual, text)
    joint = common_size(leaves, "text_projection/kernel")
    return BlipSpec(family.kind, visual, text, joint, True, "text/lm_head/bias" in leaves)


def _crossing_layer(path: str, tower: str) -> int | None:
    found = re.match(rf"{tower}/blocks_([0-9]+)/cross_attention/", path)
    return int(found[1]) if found else None


def infer_vision(
    leaves: Leaves, family: Family, settings: Settings, notes: list[str]
) -> VisionSpec:
    """The vision tower's spec; adds to the notes.

    Raises ConversionError as `infer_spec` does.
    """
    width = common_size(leaves, f"visual/{_NORMS}")
    patch = common_size(leaves, "visual/patch_embedding/kernel", axis=0)
    positions = common_size(leaves, "visual/position_embedding", axis=0)
    frames = max(common_size(leaves, FRAMES, axis=0), FEWEST_FRAMES)
    together = any(FRAMES in rule.targets for rule in family.rules)
    attention = family.visual.get("pool") == "attention"
    own = family.visual.get("pool", "cls") == "cls"
    cls = own or "visual/class_embedding" in leaves
    row = math.isqrt(max(positions - cls, 1))
    side = family.image_sizes.get((row, patch), row * patch)
    if family.visual.get("positions") == "sinusoid":
        side = settings.get("visual.image_size", FIXED_SIDE)
        notes.append(f"visual.image_size: {side}, which no tensor tells")
        if not side or side % patch:
            raise ConversionError(
                f"--set visual.image_size={side}: not a multiple of the patches' {patch}"
            )
    told: dict[str, Any] = {
        "image_size": side,
        "patch_size": patch,
        "width": width,
        "layers": max(count_layers(leaves, "visual/blocks_"), 1),
        "heads": heads_of("visual", width, _head_width(family, width), settings, notes),
        "mlp_width": common_size(leaves, r"visual/blocks_\d+/mlp/fc1/(kernel|bias)"),
        "temporal_frames": frames if together else 0,
    }
    told["activation"] = _activation("visual", family, settings, notes)
    if attention:
        told["class_token"] = cls
        told["pooler"] = _pooler(leaves, family, settings, told["heads"])
    return VisionSpec(**told | family.visual | _norm_eps("visual", settings))


def _pooler(leaves: Leaves, family: Family, settings: Settings, heads: int) -> PoolerSpec:
    attention, mlp = "visual/pooler/cross_attention", "visual/pooler/mlp/fc1"
    width = common_size(leaves, f"{attention}/query/(kernel|bias)")
    heads = settings.get(f"{_POOLER}.heads", family.pool_heads or heads)
    if not heads or width % heads:
        raise ConversionError(f"the pooler can't have {heads} heads at width {width}")
    return PoolerSpec(
        heads,
        width,
        common_size(leaves, f"{mlp}/(kernel|bias)") if family.has(f"{mlp}/kernel") else 0,
        family.has(f"{attention}/channel_scale"),
    )


def _text_sizes(
    leaves: Leaves, family: Family, settings: Settings, notes: list[str], tower: str = "text"
) -> dict[str, Any]:
    """Fields that a `TextSpec` and a `BertSpec` share. tower: the one whose leaves give them."""
    width = common_size(leaves, f"{tower}/{_NORMS}")
    return {
        "context": family.text.get("context")
        or common_size(leaves, f"{tower}/position_embedding", axis=0),
        "vocab": common_size(leaves, f"{tower}/token_embedding/embedding", axis=0),
        "width": width,
        "layers": max(count_layers(leaves, f"{tower}/blocks_"), 1),
        "heads": heads_of("text", width, family.head_widths.get(width, 64), settings, notes),
        "mlp_width": common_size(leaves, rf"{tower}/blocks_\d+/mlp/fc1/(kernel|bias)"),
        "activation": _activation("text", family, settings, notes),
        **_norm_eps("text", settings),
    }


def _bert_spec(
    sizes: dict[str, Any], source_width: int, settings: Settings, notes: list[str]
) -> BertSpec:
    """The spec of BLIP's text model, whose two tokens are at the end of BERT's vocabulary."""
    decode, encode = sizes["vocab"] - 2, sizes["vocab"] - 1
    notes.append(f"text: [DEC] {decode}, [ENC] {encode}, the last two of the vocabulary")
    if "text.dropout" in settings:
        sizes["dropout"] = settings["text.dropout"]
    return BertSpec(source_width=source_width, decode_id=decode, encode_id=encode, **sizes)


def common_size(leaves: Leaves, pattern: str, axis: int = -1) -> int:
    """Size of `axis` that most leaves at matching paths share (one may differ); 1 if none match."""
    sizes = collections.Counter(
        leaf.shape[axis]
        for path, leaf in leaves.items()
        if leaf.ndim and re.fullmatch(pattern, path)
    )
    return max(sizes.most_common(1)[0][0], 1) if sizes else 1


def count_layers(leaves: Mapping[str, Any], prefix: str) -> int:
    """Number of layers under `prefix`, by the highest index: a gap then shows as missing tensors.

    Raises ConversionError: the gap is so wide that the index must be a mistake.
    """
    pattern = re.compile(re.escape(prefix) + r"([0-9]+)[/.]")
    layers = {int(m[1]) for path in leaves if (m := pattern.match(path))}
    highest = max(layers, default=-1)
    if _too_many(highest + 1, len(layers)):
        raise ConversionError(f"a tensor for {prefix}{highest}, but only {len(layers)} layers")
    return highest + 1


def count_stages(stages: Sequence[str], names: Iterable[str]) -> tuple[int, ...]:
    """Number of blocks in each stage, by tensor names; 1 where all are missing, to be reported."""
    found = dict.fromkeys(names)
    return tuple(max(count_layers(found, stage), 1) for stage in stages)


def check_sizes(path: object, spec: Spec, leaves: Leaves) -> None:
    """Raises ConversionError where a config claims far more layers or patches than the tensors are
    for, so that nothing is built for a mere number."""
    layers = ((f"{name} layers", f"{name}/blocks_") for name in ("visual", "text"))
    present = {what: count_layers(leaves, prefix) for what, prefix in layers}
    present["patches"] = common_size(leaves, "visual/position_embedding", axis=0) - 1
    claimed = {"visual layers": spec.visual.layers, "patches": spec.visual.patches}
    if not isinstance(spec, EncoderSpec):
        claimed["text layers"] = spec.text.layers
    for what, count in claimed.items():
        if _too_many(count, present[what]):
            raise ConversionError(
                f"{path}: says {count} {what}, the tensors are for {present[what]}"
            )


def check_layers(path: object, claimed: int, leaves: Leaves, prefix: str) -> None:
    """Raises ConversionError likewise, for the layers under one prefix."""
    present = count_layers(leaves, prefix)
    if _too_many(claimed, present):
        tower = prefix.partition("/")[0]
        raise ConversionError(
            f"{path}: says {claimed} {tower} layers, the tensors are for {present}"
        )


def _too_many(claimed: int, present: int) -> bool:
    return claimed > 2 * present + 8


def heads_of(tower: str, width: int, head_width: int, settings: Settings, notes: list[str]) -> int:
    """Number of attention heads, as set or by their usual width; adds to the notes.

    Raises ConversionError: they do not divide the width.
    """
    key = f"{tower}.heads"
    heads = settings.get(key, width // head_width)
    if heads < 1 or width % heads or (key not in settings and width % head_width):
        raise ConversionError(
            f"{tower} heads can't be {settings.get(key, f'width/{head_width}')} at width {width}; "
            f"--set {key}=N"
        )
    notes.append(f"{key}: {heads} ({'set' if key in settings else f'width/{head_width}'})")
    return heads


def _head_width(family: Family, width: int) -> int:
    """Columns of an attention head in the layout's vision tower of this width."""
    usual = _LARGE_VISION.get(width, family.head_width)
    return family.head_widths.get(width, usual)


def _activation(tower: str, family: Family, settings: Settings, notes: list[str]) -> str:
    key = f"{tower}.activation"
    fixed = family.visual.get("activation") if tower == "visual" else None
    if fixed:
        if settings.get(key, fixed) != fixed:
            raise ConversionError(f"--set {key}: layout {family.name} fixes it at {fixed}")
        return str(fixed)
    activation = settings.get(key, family.activation)
    if activation is None:
        raise ConversionError(
            f"layout {family.name}: tensors can't tell the activation; --set activation=quick_gelu "
            "(OpenAI's weights, models named -quickgelu) or --set activation=gelu"
        )
    if activation not in _ACTIVATIONS:
        raise ConversionError(f"--set {key}={activation}: {' or '.join(_ACTIVATIONS)}")
    notes.append(f"{key}: {activation} ({'set' if key in settings else f'as in {family.name}'})")
    return activation


def _norm_eps(tower: str, settings: Settings) -> dict[str, float]:
    key = f"{tower}.norm_eps"
    return {"norm_eps": settings[key]} if key in settings else {}
