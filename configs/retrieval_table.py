"""Every method of text-video retrieval in one table on moving shapes, `configs/tempme.py:all`.

All share one recipe, that of TempMe's own run, with sizes that suit the tiny CLIP; none of them is
tuned, so the table compares what they can tell apart rather than how well each can do.

A row's `sees_order` follows from the construction of its method. Without it the video's embedding
is the same for every order of frames, so twins tie, which scores 50%.
"""

import dataclasses
from typing import Any

from vlt.merging.diffrate import linear_schedule

from .retrieval_methods import LEAVES

FRAMES = 8
_FROZEN = (".*", "frozen")
_DECAYED = {"weight_decay": 0.05}
_LORA = (LEAVES["lora"], _DECAYED)


@dataclasses.dataclass(frozen=True)
class Row:
    """name: name of the row. sees_order: whether embeddings depend on the order of frames.
    methods: options by method. trained: rules for what is trained; the rest is frozen.
    overrides: whatever else differs from the base config, by dotted key."""

    name: str
    sees_order: bool
    methods: dict[str, dict[str, Any]]
    trained: tuple[tuple[str, Any], ...]
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def changes(self) -> dict[str, Any]:
        """Overrides of the base config."""
        options = {
            f"model.{name}.{option}": value
            for name, section in self.methods.items()
            for option, value in section.items()
        }
        rules = self.trained if self.trained[-1][0] == ".*" else (*self.trained, _FROZEN)
        chosen = {"model.methods": tuple(self.methods), "rules": rules}
        return chosen | options | self.overrides

    @property
    def entry(self) -> tuple[str, dict[str, Any]]:
        """The row as an entry of `compare`; its name says whether the method sees order."""
        return self.name + (", sees order" if self.sees_order else ""), self.changes


def _with_lora(name: str, sees_order: bool, method: str, **options: Any) -> Row:
    """A method that merges or removes tokens of a CLIP with LoRA."""
    return Row(name, sees_order, {"lora": {}, method: options}, (_LORA,))


def _vop(variant: str) -> Row:
    """A variant of VoP. The longest captions of moving shapes fill all positions of the tiny text
    tower, so its one text prompt costs them a word."""
    leaves = r".*/vop_\w+|shared_VoP/.*"
    options = {
        "variant": variant, "tokens": 4, "specific": 2, "prefix": 1, "suffix": 0, "frames_apart": 2,
    }  # fmt: skip
    name = f"VoP {variant}".removesuffix(" basic")
    return Row(
        name, variant != "basic", {"vop": options}, ((leaves, _DECAYED),), {"model.context": 15}
    )


def _dgl(name: str, sees_order: bool, **options: Any) -> Row:
    leaves = "visual/global_prompt|shared_DGL/.*"
    return Row(name, sees_order, {"dgl": options}, ((leaves, _DECAYED),))


_KEPT, _MERGED = linear_schedule(16, 8, layers=4)
_TEMPME = (LEAVES["tempme"], {"lr": 10.0})
ROWS = (
    Row("CLIP4Clip mean, all trained", False, {}, ((".*", {"lr": 0.03, "weight_decay": 0.05}),)),
    Row(
        "CLIP4Clip LSTM",
        True,
        {"clip4clip": {"sim_header": "seqLSTM"}},
        (("visual/clip4clip/.*", _DECAYED),),
    ),
    Row("BitFit", False, {}, ((".*/bias", {}),)),
    Row("Prompt", False, {"prompt": {"tokens": 5}}, ((LEAVES["prompt"], _DECAYED),)),
    Row("Adapter", False, {"adapter": {"bottleneck": 8}}, ((LEAVES["adapter"], _DECAYED),)),
    Row(
        "AdaptFormer",
        False,
        {"adaptformer": {"bottleneck": 8, "towers": ("visual", "text")}},
        ((".*/adaptformer/.*", _DECAYED),),
    ),
    Row("LoRA", False, {"lora": {}}, (_LORA,)),
    _with_lora("LoRA + EViT", False, "evit", layers=(1, 2)),
    _with_lora("LoRA + DiffRate", False, "diffrate", kept=_KEPT, merged=_MERGED),
    _with_lora("LoRA + ToMe", False, "tome"),
    _with_lora("LoRA + STA", True, "sta", layers=(1, 2)),
    _with_lora("LoRA + TESTA", True, "testa", layers=(1, 2), r=1),
    _with_lora("TempMe without clip positions", True, "tempme", positions=False),
    Row("TempMe", True, {"lora": {}, "tempme": {}}, (_TEMPME, _LORA)),
    _vop("basic"),
    _vop("P"),
    _vop("C"),
    _vop("F"),
    _vop("F+P"),
    _vop("F+C"),
    _dgl("DGL linear", False, latent="linear"),
    _dgl("DGL transformer", True, latent="transformer", frames=FRAMES),
    Row(
        "PLEVU",
        True,
        {"plevu": {"prefix": 0, "postfix": 0}},
        (("(visual|text)/plevu.*", _DECAYED),),
        {"model.frame_norm": False},
    ),
    Row(
        "MV-Adapter",
        True,
        {
            "mv_adapter": {
                "bottleneck": 16, "frames": FRAMES, "words": 16, "tied_layers": (0, 1), "tie": "out"
            }
        },
        (
            (".*/mv_adapter/.*|shared_MVAdapter/.*", _DECAYED),
            (".*/bias", {"lr": 0.02}),
        ),
    ),
)  # fmt: skip
