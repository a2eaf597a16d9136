"""Sizes of the towers: what a checkpoint's tensors, and its config, say about a model."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn

from vlt.models.activations import ACTIVATIONS
from vlt.pytrees.fields import from_values, near, shown

# Least and greatest of what a file may ask for: far beyond any model, and built in seconds.
LIMITS: dict[str, tuple[float, float]] = {
    "image_size": (1, 4096),
    "patch_size": (1, 4096),
    "width": (1, 2**16),
    "layers": (1, 128),
    "heads": (1, 2**10),
    "mlp_width": (1, 2**18),
    "temporal_frames": (0, 2**12),
    "context": (2, 2**14),
    "vocab": (2, 2**22),
    "source_width": (1, 2**16),
    "embed_dim": (0, 2**16),
    "norm_eps": (0, 1),
    "init_std": (0, 100),
    "dropout": (0, 0.99),
    "rotary_base": (1, 1e9),
    "queries": (1, 2**12),
    "cross_every": (1, 128),
    "source_norm_eps": (0, 1),
    "read": (1, 128),
}
POOLS = ("cls", "mean")
CONNECTORS = ("linear", "mlp", "qformer")
VIDEO_TOKENS = ("mean", "st_pool", "frames")
CLASS_PLACES = ("first", "last", "none")
CHOICES = {
    "pool": POOLS,
    "activation": tuple(ACTIVATIONS),
    "connector": CONNECTORS,
    "tokens": VIDEO_TOKENS,
    "cls": CLASS_PLACES,
}
POOLED_FRAMES = 100  # rows that `st_pool` has for frames
MOST_TOKENS = 2**20  # patches of a video


@dataclasses.dataclass(frozen=True)
class VisionSpec:
    """One ViT. CLIP is the default; EVA-CLIP-G and BLIP differ in the last fields.

    init_std: of fresh class and position embeddings, 0 for CLIP's 1 / sqrt(width).
    pool: what makes the embedding of a frame: `cls`, its class token, or `mean`, of its patches,
        each as often as it counts (`Tokens.size`), in a tower without class token (UMT).
    temporal_frames: rows of the table of frame embeddings, with which the patches of all frames
        attend together, beside one CLS (ViCLIP); 0 for frames apart.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str = "quick_gelu"
    norm_eps: float = 1e-5
    pre_norm: bool = True
    patch_bias: bool = False
    key_bias: bool = True
    projection_bias: bool = False
    init_std: float = 0.0
    temporal_frames: int = 0
    pool: str = "cls"

    @property
    def cls(self) -> int:
        """Class tokens of one frame: 1 or 0."""
        return int(self.pool == "cls")

    @property
    def patches(self) -> int:
        """Patches of one frame, n - `cls`."""
        return (self.image_size // self.patch_size) ** 2


@dataclasses.dataclass(frozen=True)
class TextSpec:
    """One causal text transformer, pooled at the token of the highest id (CLIP's EOT)."""

    context: int
    vocab: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str = "quick_gelu"
    norm_eps: float = 1e-5


@dataclasses.dataclass(frozen=True)
class BertSpec:
    """BLIP's text model: BERT with cross-attention to tokens of `source_width` channels.

    decode_id, encode_id: the tokens [DEC] and [ENC] in the place of the first, by which the model
    is told to write or to match. end_id: [SEP]. init_std: of fresh weights.
    """

    context: int
    vocab: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    source_width: int
    decode_id: int = 30522
    encode_id: int = 30523
    end_id: int = 102
    activation: str = "gelu"
    norm_eps: float = 1e-12
    dropout: float = 0.1
    init_std: float = 0.02

    @property
    def init(self) -> nn.initializers.Initializer:
        """Of weights and embeddings; biases start at 0."""
        return nn.initializers.normal(self.init_std)


@dataclasses.dataclass(frozen=True)
class LlamaSpec:
    """A LLaMA decoder (Touvron et al., arXiv:2302.13971), Vicuna and LLaMA-2 of 7B and 13B.

    context: positions it was trained on; rotary attention has no table, so more can be computed.
    rotary_base: of the frequencies. start_id, end_id: the tokens <s> and </s>. init_std: of fresh
    weights. No layer has a bias, and the embeddings are not those of the head.
    """

    context: int
    vocab: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    norm_eps: float = 1e-6
    activation: str = "silu"
    rotary_base: float = 10000.0
    start_id: int = 1
    end_id: int = 2
    init_std: float = 0.02

    @property
    def init(self) -> nn.initializers.Initializer:
        """Of weights and embeddings."""
        return nn.initializers.normal(self.init_std)


@dataclasses.dataclass(frozen=True)
class DualEncoderSpec:
    """A vision and a text tower that share an embedding space of `embed_dim` dimensions."""

    kind: ClassVar[str] = "dual_encoder"

    visual: VisionSpec
    text: TextSpec
    embed_dim: int

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, as stored in a model folder's config.json."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class BlipSpec:
    """BLIP for one of its tasks.

    kind: `captioner`, `retriever` (with a joint space of `embed_dim` dimensions) or `answerer`
    (whose question encoder and answer decoder are both of the size `text`).
    """

    kind: str
    visual: VisionSpec
    text: BertSpec
    embed_dim: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, as stored in a model folder's config.json."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class QFormerSpec:
    """BLIP-2's Q-Former (Li et al., arXiv:2301.12597): a BERT whose learned queries read an image.

    queries: q. source_width, source_norm_eps: of the image's tokens, and of the LayerNorm that they
    pass before. cross_every: layers from one that reads the image to the next, the first included.
    vocab, context: of the instruction that stands beside the queries (InstructBLIP); 0 where it
    takes none (MiniGPT-4).
    """

    queries: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    source_width: int
    cross_every: int = 2
    vocab: int = 0
    context: int = 0
    activation: str = "gelu"
    norm_eps: float = 1e-12
    source_norm_eps: float = 1e-5
    dropout: float = 0.1
    init_std: float = 0.02

    @property
    def init(self) -> nn.initializers.Initializer:
        """Of weights and embeddings; biases start at 0."""
        return nn.initializers.normal(self.init_std)


@dataclasses.dataclass(frozen=True)
class ChatSpec:
    """A vision tower, a connector that hands its tokens on, and a language model that reads them.

    connector: `linear` or `mlp` of each token (LLaVA, LLaVA-1.5), or `qformer` (MiniGPT-4,
        InstructBLIP). qformer: its sizes.
    read: which states of the tower go on, without the final LayerNorm: 1 for the last block's, of a
        tower that has no such LayerNorm; 2 for those of the block before (LLaVA).
    tokens: what of a video goes on: `mean` over frames of each token; `st_pool`, means over space
        and over time (Video-ChatGPT); `frames`, all of each frame. Of methods that put out tokens
        for language (BT-Adapter), those.
    cls: where the class token stands among the patches: `first`, `last` or `none`.
    """

    kind: ClassVar[str] = "chat"
    embed_dim: ClassVar[int] = 0

    visual: VisionSpec
    text: LlamaSpec
    connector: str = "linear"
    qformer: QFormerSpec | None = None
    read: int = 2
    tokens: str = "mean"
    cls: str = "last"

    @property
    def instructed(self) -> bool:
        """Whether the Q-Former reads an instruction beside the video."""
        return self.qformer is not None and self.qformer.vocab > 0

    @property
    def feature_blocks(self) -> int:
        """Blocks of the tower behind which features are cached: all but the three whose states a
        BT-Adapter reads, and those that nothing reads."""
        return max(self.visual.layers - self.read - 2, 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, as stored in a model folder's config.json."""
        return {"kind": self.kind} | dataclasses.asdict(self)


Spec = DualEncoderSpec | BlipSpec | ChatSpec


def spec_from_dict(fields: Any) -> Spec:
    """Inverse of `to_dict`.

    Raises:
        ValueError: a field is missing, unknown, of another type or out of range; names it.
    """
    kind: type[Spec] = DualEncoderSpec
    if isinstance(fields, Mapping) and fields.get("kind") == ChatSpec.kind:
        kind, fields = ChatSpec, {name: x for name, x in fields.items() if name != "kind"}
    elif isinstance(fields, Mapping) and "kind" in fields:
        kind = BlipSpec
    spec = from_values(kind, fields, "spec")
    _check_numbers("spec", spec)
    _check_vision(spec.visual)
    _check_text(spec)
    if isinstance(spec, ChatSpec):
        _check_chat(spec)
    if spec.kind not in MODEL_KINDS:
        known = (*BLIP_KINDS, ChatSpec.kind)
        raise ValueError(f"spec.kind={shown(spec.kind)}{near(spec.kind, known)}")
    if bool(spec.embed_dim) != (spec.kind in JOINT_KINDS):
        raise ValueError(
            f"spec.embed_dim={spec.embed_dim}: a {spec.kind} has "
            + ("1 or more" if spec.kind in JOINT_KINDS else "0, no joint space")
        )
    return spec


def _check_numbers(where: str, part: Any) -> None:
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            _check_numbers(f"{where}.{field.name}", value)
        low, high = LIMITS.get(field.name, (None, None))
        absent = isinstance(part, QFormerSpec) and (part.vocab, part.context) == (0, 0)
        if absent and field.name in ("vocab", "context"):
            continue
        if low is not None and not low <= value <= high:
            raise ValueError(f"{where}.{field.name}={shown(value)}: {low} to {high}")
        if field.name == "heads" and part.width % value:
            raise ValueError(f"{where}.heads={value} does not divide width={part.width}")
        if field.name in CHOICES and value not in CHOICES[field.name]:
            raise ValueError(
                f"{where}.{field.name}={shown(value)}{near(value, CHOICES[field.name])}"
            )


def _check_vision(visual: VisionSpec) -> None:
    if visual.image_size % visual.patch_size:
        raise ValueError(
            f"spec.visual.patch_size={visual.patch_size} does not divide "
            f"image_size={visual.image_size}"
        )
    if visual.patches * max(visual.temporal_frames, 1) > MOST_TOKENS:
        raise ValueError(
            f"spec.visual: image_size={visual.image_size} and patch_size={visual.patch_size} make "
            f"{visual.patches} patches of each frame; at most {MOST_TOKENS} of a video are taken"
        )


def _check_text(spec: Spec) -> None:
    text = spec.text
    if not isinstance(text, BertSpec):
        return
    if text.source_width != spec.visual.width:
        raise ValueError(
            f"spec.text.source_width={text.source_width}: the vision tower's width is "
            f"{spec.visual.width}"
        )
    for name in ("decode_id", "encode_id", "end_id"):
        if not 0 <= getattr(text, name) < text.vocab:
            raise ValueError(f"spec.text.{name}={getattr(text, name)}: 0 to {text.vocab - 1}")


def _check_chat(spec: ChatSpec) -> None:
    """Raises ValueError where the parts of a chat model do not fit each other."""
    visual, text = spec.visual, spec.text
    if text.width // text.heads % 2:
        raise ValueError(
            f"spec.text.heads={text.heads}: heads of {text.width // text.heads} channels; rotary "
            "attention turns pairs of them"
        )
    for name in ("start_id", "end_id"):
        if not 0 <= getattr(text, name) < text.vocab:
            raise ValueError(f"spec.text.{name}={getattr(text, name)}: 0 to {text.vocab - 1}")
    if (spec.connector == "qformer") != (spec.qformer is not None):
        needed = "needs its sizes, spec.qformer" if spec.qformer is None else "has no spec.qformer"
        raise ValueError(f"spec.connector={spec.connector!r} {needed}")
    if spec.qformer is not None and spec.qformer.source_width != visual.width:
        raise ValueError(
            f"spec.qformer.source_width={spec.qformer.source_width}: the vision tower's width is "
            f"{visual.width}"
        )
    if spec.read > visual.layers:
        raise ValueError(f"spec.read={spec.read}: the vision tower has {visual.layers} blocks")
    if spec.cls != "none" and (not visual.cls or spec.tokens == "st_pool"):
        why = "means over patches" if visual.cls else "a tower without class token"
        raise ValueError(f"spec.cls={spec.cls!r}: {why} take spec.cls='none'")
    if spec.tokens != "frames" and visual.temporal_frames:
        raise ValueError(
            f"spec.tokens={spec.tokens!r}: a tower that holds the patches of all frames in one "
            "group takes spec.tokens='frames'"
        )


def _clip(
    patch: int,
    width: int,
    layers: int,
    text_width: int,
    embed_dim: int,
    context: int = 77,
    temporal_frames: int = 0,
) -> DualEncoderSpec:
    visual = VisionSpec(
        224, patch, width, layers, width // 64, 4 * width, temporal_frames=temporal_frames
    )
    text = TextSpec(context, 49408, text_width, 12, text_width // 64, 4 * text_width)
    return DualEncoderSpec(visual, text, embed_dim)


def _blip_vision(image: int, patch: int, width: int, layers: int, heads: int) -> VisionSpec:
    return VisionSpec(
        image,
        patch,
        width,
        layers,
        heads,
        4 * width,
        activation="gelu",
        norm_eps=1e-6,
        pre_norm=False,
        patch_bias=True,
        projection_bias=True,
    )


def _blip(kind: str, width: int, layers: int, embed_dim: int) -> BlipSpec:
    """BLIP base (768, 12) and large (1024, 24); the text model is the same."""
    visual = _blip_vision(224, 16, width, layers, width // 64)
    return BlipSpec(
        kind, visual, BertSpec(512, 30524, 768, 12, 12, 3072, source_width=width), embed_dim
    )


def _eva_g(layers: int) -> VisionSpec:
    """EVA-CLIP-G, of 40 blocks; language models read it without its last."""
    return VisionSpec(
        image_size=224,
        patch_size=14,
        width=1408,
        layers=layers,
        heads=16,
        mlp_width=6144,
        activation="gelu",
        norm_eps=1e-6,
        pre_norm=False,
        patch_bias=True,
        key_bias=False,
        projection_bias=True,
    )


def _llama(size: str, vocab: int, context: int = 2048, norm_eps: float = 1e-6) -> LlamaSpec:
    """LLaMA and Vicuna of `7b` and `13b`; their second versions differ in the last two."""
    width, layers, mlp_width = {"7b": (4096, 32, 11008), "13b": (5120, 40, 13824)}[size]
    return LlamaSpec(context, vocab, width, layers, width // 128, mlp_width, norm_eps)


def _llava(size: str, vocab: int) -> ChatSpec:
    """LLaVA, on Vicuna, with its tokens around an image and BT-Adapter's around a video."""
    return ChatSpec(_clip(14, 1024, 24, 768, 768).visual, _llama(size, vocab))


def _llava_15(size: str) -> ChatSpec:
    """LLaVA-1.5: an MLP, frames of 336 pixels, Vicuna 1.5, no tokens of its own."""
    visual = dataclasses.replace(_clip(14, 1024, 24, 768, 768).visual, image_size=336)
    return ChatSpec(visual, _llama(size, 32000, 4096, 1e-5), "mlp", cls="none")


def _queried(size: str, vocab: int, instruction: int) -> ChatSpec:
    """MiniGPT-4, and InstructBLIP, whose Q-Former knows so many words of an instruction."""
    qformer = QFormerSpec(
        32, 768, 12, 12, 3072, 1408, vocab=instruction, context=512 * (instruction > 0)
    )
    return ChatSpec(_eva_g(39), _llama(size, vocab), "qformer", qformer, read=1, cls="first")


BLIP_KINDS = {"captioner": 0, "retriever": 256, "answerer": 0}  # and their joint spaces
MODEL_KINDS = (DualEncoderSpec.kind, *BLIP_KINDS, ChatSpec.kind)
JOINT_KINDS = (DualEncoderSpec.kind, "retriever")  # have embeddings of videos and texts

SIZES: dict[str, Spec] = {
    "tiny_clip": DualEncoderSpec(
        VisionSpec(32, 8, 96, 4, 3, 384), TextSpec(16, 43, 96, 2, 3, 384), embed_dim=64
    ),
    "tiny_viclip": DualEncoderSpec(
        VisionSpec(32, 8, 96, 4, 3, 384, init_std=0.5, temporal_frames=8),
        TextSpec(16, 43, 96, 2, 3, 384),
        embed_dim=64,
    ),
    "clip_b32": _clip(32, 768, 12, 512, 512),
    "clip_b16": _clip(16, 768, 12, 512, 512),
    "clip_l14": _clip(14, 1024, 24, 768, 768),
    "viclip_b16": _clip(16, 768, 12, 512, 512, context=32, temporal_frames=8),
    "viclip_l14": _clip(14, 1024, 24, 768, 768, context=32, temporal_frames=8),
    # Proportions of ViT-L/14 at half its width, for benchmarks on small machines.
    "clip_l14_narrow": DualEncoderSpec(
        VisionSpec(224, 14, 512, 24, 8, 2048), TextSpec(77, 49408, 384, 12, 6, 1536), embed_dim=384
    ),
    "eva_clip_g": DualEncoderSpec(
        _eva_g(40),
        TextSpec(77, 49408, 768, 12, 12, 3072, activation="gelu"),
        embed_dim=1024,
    ),
    "tiny_blip": BlipSpec(
        "captioner",
        # Of CLIP's deviation, 0.1, training leaves left and right alike to all that follows.
        dataclasses.replace(_blip_vision(32, 8, 96, 4, 3), init_std=0.5),
        # Moving shapes have one token to start a text with, whatever it is for.
        BertSpec(
            16,
            43,
            96,
            2,
            3,
            384,
            96,
            decode_id=41,
            encode_id=41,
            end_id=42,
            dropout=0.0,
            init_std=0.1,
        ),
    ),
    **{
        f"blip_{size}_{kind}": _blip(kind, width, layers, embed_dim)
        for size, width, layers in (("b16", 768, 12), ("l16", 1024, 24))
        for kind, embed_dim in BLIP_KINDS.items()
    },
    "tiny_chat": ChatSpec(
        VisionSpec(32, 8, 96, 4, 3, 384), LlamaSpec(128, 64, 96, 2, 3, 256, init_std=0.1)
    ),
    **{
        name: sizes
        for size in ("7b", "13b")
        for name, sizes in {
            f"llava_{size}": _llava(size, 32006),
            f"llava_image_{size}": _llava(size, 32003),
            f"llava15_{size}": _llava_15(size),
            f"minigpt4_{size}": _queried(size, 32000, 0),
            f"instructblip_{size}": _queried(size, 32001, 30523),
        }.items()
    },
}


def with_video(spec: Spec, section: Mapping[str, Any], frames: int) -> Spec:
    """A chat model's spec that reads a video as a config's `model.video` says.

    section: `tokens` and `cls` as `ChatSpec` has them; `joint`, whether the patches of all `frames`
    attend together. Empty: the spec as it is.

    Raises:
        ValueError: an unknown field or value, or a model of another kind.
    """
    changed = dict(section)
    if not changed:
        return spec
    if not isinstance(spec, ChatSpec):
        raise ValueError(f"model.video={changed} is for chat models, this is a {spec.kind}")
    joint = changed.pop("joint", False)
    if unknown := sorted(changed.keys() - {"tokens", "cls"}):
        raise ValueError(f"model.video.{unknown[0]}{near(unknown[0], ('tokens', 'cls', 'joint'))}")
    spec = dataclasses.replace(spec, **changed)
    return spec_from_dict((with_visual(spec, temporal_frames=frames) if joint else spec).to_dict())


def with_visual(spec: Spec, **fields: Any) -> Spec:
    """The spec with other fields of its vision tower."""
    return dataclasses.replace(spec, visual=dataclasses.replace(spec.visual, **fields))
