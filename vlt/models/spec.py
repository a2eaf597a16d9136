"""Sizes of the towers: what a checkpoint's tensors, and its config, say about a model."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn

from vlt.models.rotary import Rotary

POOLED_FRAMES = 100  # rows that `st_pool` has for frames


@dataclasses.dataclass(frozen=True)
class PoolerSpec:
    """Attention of one learned query to the tokens of a frame (Lee et al., arXiv:1810.00825).

    width: width of queries, keys and values, all heads together. mlp_width: that of the MLP which,
    after a LayerNorm, is added to attention's output; 0 for the LayerNorm alone (VideoPrism).
    channel_scale: whether the query's channels have learned scales, the same in every head
    (VideoPrism).
    """

    heads: int
    width: int
    mlp_width: int = 0
    channel_scale: bool = False


@dataclasses.dataclass(frozen=True)
class VisionSpec:
    """One ViT. The defaults are CLIP's; EVA-CLIP-G, BLIP and other families differ in some.

    init_std: standard deviation of new class and position embeddings; 0 for CLIP's 1 / sqrt(width).
    pool: what makes the embedding of a frame: `cls`, its class token; in a tower without class
        token (UMT) `mean`, over patches, each as often as it counts (`Tokens.size`), or
        `token_mean`, over tokens, however many patches merged into each; or `attention`, that of
        a `pooler` to all of them (SigLIP). pool_norm: whether a second LayerNorm follows the pool.
    class_token: whether attention pooling has a class token among what it reads (PE).
    projection: whether the pooled output is projected into the joint space, or has its width
        already (SigLIP). projection_bias: whether that layer has a bias.
    temporal_frames: rows of the table of frame embeddings, with which the patches of all frames
        attend together, beside one CLS token (ViCLIP); 0 for separate frames.
    positions: `learned`, for a frame's tokens, or `sinusoid`, a fixed table (UMT). joint: whether
        the patches of all frames attend together, with a fixed table that continues over frames.
    logit_cap: bound of attention's logits, as in `Attention`.
    rope: how attention turns queries and keys by a patch's place in its frame, beside the table:
        `pe`, by column, then row, counted in patches whatever the image's size (PE); `eva`, by row,
        then column, scaled to a grid of 16 whatever the patches (EVA02). Class tokens do not turn.
    gated_mlp: whether a third layer gates the MLP's hidden units (SwiGLU). sub_norm: whether
        LayerNorms follow these and the output of all heads, each before the last layer (EVA02).
    stages: how many blocks attend within a frame, then along time at each place, then, if there is
        a third number, over all patches of all frames (VideoPrism). Each of the first two stages
        ends with its LayerNorm, and there is no final one; between them `temporal_frames` rows are
        added, interpolated for more or fewer frames. () for one stage.

    The last rows and columns of pixels are not read where they do not fill a patch.
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
    pool_norm: bool = False
    positions: str = "learned"
    joint: bool = False
    logit_cap: float = 0.0
    rope: str = ""
    gated_mlp: bool = False
    sub_norm: bool = False
    pooler: PoolerSpec | None = None
    class_token: bool = False
    projection: bool = True
    stages: tuple[int, ...] = ()

    @property
    def cls(self) -> int:
        """Number of class tokens of one frame: 1 or 0."""
        return int(self.pool == "cls" or self.class_token)

    @property
    def together(self) -> bool:
        """Whether the patches of all frames attend together."""
        return self.joint or self.temporal_frames > 0

    @property
    def side(self) -> int:
        """Number of patches along one side of a frame."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Number of patches of one frame, n - `cls`."""
        return self.side**2

    @property
    def rotary(self) -> Rotary | None:
        """How attention turns queries and keys by places; None where it does not."""
        return Rotary(neighbours=True) if self.rope else None


@dataclasses.dataclass(frozen=True)
class TextSpec:
    """One text transformer. The defaults are CLIP's: causal, read at the token of the highest id.

    causal: tokens see only themselves and those before. mask_padding: no token sees those of id
        `pad_id`, which pads a text to its context.
    readout: which token is read in the end: `highest`, that of the highest id, CLIP's EOT; `last`,
        the last, whatever its id (SigLIP); or `end`, the first of id `end_id` (MetaCLIP 2).
    projection: whether it is projected into the joint space, or has its width already.
    projection_bias: whether that layer has a bias.
    logit_cap: as in `VisionSpec`.
    positions: `learned`, or `sinusoid`, a fixed table (VideoPrism); embedding_scale: whether words
        are first multiplied by the root of the width. class_token: whether a learned one, without
        position, follows the last word or padding; readout `last` reads it.
    """

    context: int
    vocab: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str = "quick_gelu"
    norm_eps: float = 1e-5
    logit_cap: float = 0.0
    causal: bool = True
    mask_padding: bool = False
    pad_id: int = 0
    readout: str = "highest"
    end_id: int = 0
    projection: bool = True
    projection_bias: bool = False
    positions: str = "learned"
    embedding_scale: bool = False
    class_token: bool = False

    @property
    def whole(self) -> bool:
        """Whether a text must fill the context, whose last token is read, padding or not."""
        return self.readout == "last" and not self.class_token


@dataclasses.dataclass(frozen=True)
class BertSpec:
    """BLIP's text model: BERT with cross-attention to tokens of `source_width` channels.

    decode_id, encode_id: the tokens [DEC] and [ENC] that replace the first and tell the model to
    write or to match; [CLS] where the first stays what it is (UMT). end_id: [SEP].
    mask_id: [MASK], for words to be found. init_std: standard deviation of new weights.
    fusion_layer: the first layer with cross-attention; those before it read only the text (UMT).
    token_types: rows of the table of token types, the first of which every token gets.
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
    fusion_layer: int = 0
    token_types: int = 0
    mask_id: int = 103

    @property
    def init(self) -> nn.initializers.Initializer:
        """Initialiser of weights and embeddings; biases start at 0."""
        return nn.initializers.normal(self.init_std)

    @property
    def text_layers(self) -> int:
        """Number of layers that a text passes through by itself."""
        return self.fusion_layer or self.layers

    @property
    def writer(self) -> "BertSpec":
        """Spec of the answers' decoder: the layers with cross-attention, to states of `width`."""
        if not self.fusion_layer:
            return self
        layers = self.layers - self.fusion_layer
        return dataclasses.replace(self, layers=layers, fusion_layer=0, source_width=self.width)


@dataclasses.dataclass(frozen=True)
class LlamaSpec:
    """A LLaMA decoder (Touvron et al., arXiv:2302.13971), 7B or 13B, also of Vicuna and LLaMA-2.

    context: positions it was trained on; rotary attention has no table, so more can be computed.
    rotary_base: base of the frequencies. start_id, end_id: the tokens <s> and </s>. init_std:
    standard deviation of a new head and new embeddings. No layer has a bias, and the head does not
    share the embeddings.
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
        """Initialiser of the head, the embeddings and the layer that makes tokens of a video."""
        return nn.initializers.normal(self.init_std)


@dataclasses.dataclass(frozen=True)
class DualEncoderSpec:
    """A vision and a text tower that share an embedding space of `embed_dim` dimensions.

    logit_bias: whether a bias is added to scaled cosines, for the sigmoid loss (SigLIP).
    fixed_scale: scale of cosines, where no leaf of the model holds it (VideoPrism); else 0.
    """

    kind: ClassVar[str] = "dual_encoder"

    visual: VisionSpec
    text: TextSpec
    embed_dim: int
    logit_bias: bool = False
    fixed_scale: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, as stored in a model folder's config.json."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class BlipSpec:
    """BLIP, or UMT, for one of its tasks.

    kind: `captioner`, `retriever` (with a joint space of `embed_dim` dimensions) or `answerer`
    (whose question encoder has the sizes `text` and whose answer decoder those of `text.writer`).
    frame_scores: whether a retriever's score is the mean over frames of their cosines with the
    text (UMT): a video's embedding is the mean of unit vectors and not one itself.
    masked_words: whether a retriever's text model also has a head that finds masked words.
    """

    kind: str
    visual: VisionSpec
    text: BertSpec
    embed_dim: int = 0
    frame_scores: bool = False
    masked_words: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, as stored in a model folder's config.json."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class QFormerSpec:
    """BLIP-2's Q-Former (Li et al., arXiv:2301.12597): a BERT whose learned queries read an image.

    queries: number of queries, q. source_width, source_norm_eps: width of the image's tokens, and
    epsilon of the LayerNorm that they pass first. cross_every: one in this many layers, beginning
    with the first, reads the image. vocab, context: for the instruction that stands beside the
    queries (InstructBLIP); 0 if there is none (MiniGPT-4).
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
        """Initialiser of weights and embeddings; biases start at 0."""
        return nn.initializers.normal(self.init_std)


@dataclasses.dataclass(frozen=True)
class ChatSpec:
    """A vision tower, a connector that hands its tokens on, and a language model that reads them.

    connector: `linear` or `mlp` on each token (LLaVA, LLaVA-1.5), or `qformer` (MiniGPT-4,
        InstructBLIP). qformer: its sizes.
    read: which states of the tower are passed on, without the final LayerNorm: 1 for the last
        block's, in a tower without this LayerNorm; 2 for those of the block before (LLaVA).
    tokens: what of a video is passed on: `mean` over frames of each token; `st_pool`, means over
        space and over time (Video-ChatGPT); `frames`, all of each frame. If a method outputs
        tokens for language (BT-Adapter), those instead.
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
        """Number of the tower's blocks after which features are cached: all but the three whose
        states a BT-Adapter reads, and those that nothing reads."""
        return max(self.visual.layers - self.read - 2, 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, as stored in a model folder's config.json."""
        return {"kind": self.kind} | dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
    """A vision tower alone, used for its tokens (VideoPrism's video encoders)."""

    kind: ClassVar[str] = "encoder"
    embed_dim: ClassVar[int] = 0

    visual: VisionSpec

    @property
    def text(self) -> Any:
        """There is no text tower: raises ValueError."""
        raise ValueError(f"a model of kind {self.kind} is a vision tower alone and reads no text")

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, as stored in a model folder's config.json."""
        return {"kind": self.kind} | dataclasses.asdict(self)


Spec = DualEncoderSpec | BlipSpec | ChatSpec | EncoderSpec
BLIP_KINDS = {"captioner": 0, "retriever": 256, "answerer": 0}  # and their joint spaces' widths
MODEL_KINDS = (DualEncoderSpec.kind, *BLIP_KINDS, ChatSpec.kind, EncoderSpec.kind)
JOINT_KINDS = (DualEncoderSpec.kind, "retriever")  # these embed videos and texts


def with_visual(spec: Spec, **fields: Any) -> Spec:
    """The spec with these fields of its vision tower replaced."""
    return dataclasses.replace(spec, visual=dataclasses.replace(spec.visual, **fields))
