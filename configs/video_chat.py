"""Video conversation: BT-Adapter in LLaVA, MiniGPT-4 and InstructBLIP (Liu et al., Section 3.4).

configs/video_chat.py   questions about moving shapes, over the tiny chat model of the package
"""

from typing import Any

from ml_collections import ConfigDict

from vlt import configuration

from . import common

FROZEN = (".*", "frozen")
# What is tuned on questions about videos: the branch with its gates, as in btadapter.py, and the
# connector; the language model never.
CONNECTOR = (r"connector/.*", {"lr": 0.3, "weight_decay": 0.05})
BRANCH = (
    ("visual/btadapter/final_gate", {"lr": 5e-4}),
    ("visual/btadapter/layer_gate", {"lr": 5e-2}),
    ("visual/btadapter/.*", {"lr": 1.0, "weight_decay": 0.05}),
)
TOWER = (r"visual/.*", {"lr": 0.3, "weight_decay": 0.05})
ALL_FRAMES = {"tokens": "frames", "cls": "none"}
MOVING = "moving_shapes:clips:test:520:{}_questions.jsonl"
FRAMES = 8
STEPS = 400


def moving_shapes() -> ConfigDict:
    """An image chat model becomes a video chat model, without video instruction tuning and with."""
    config = common.base()
    config.model.update(
        checkpoint="tiny_chat",
        size="tiny_chat",
        methods=("btadapter",),
        frames=FRAMES,
        context=48,
        # The branch that configs/tiny_chat.py:branch trains on captions, as it stands.
        parts=(("visual/btadapter", "tiny_branch"),),
        spec={},
        btadapter={"depth": 3, "spare": 0, "drop_path": 0.0, "alignment": "none"},
        separate_st={"layers": (0, 1, 2, 3)},
    )
    config.rules = (*BRANCH, CONNECTOR, FROZEN)
    config.optimizer.update(lr=2e-3, b2=0.999, clip=1.0, schedule={"name": "cosine", "warmup": 0.1})
    config.task = common.conversation_task(template="plain")
    config.data.train = common.videos(
        "moving_shapes:clips:train:3000:questions.jsonl",
        "linspace",
        frames=FRAMES,
        batch_size=32,
        cache=True,
    )
    config.evals = {
        "looks": common.answers(MOVING.format("look"), FRAMES),
        "twins": common.answer_twins(MOVING.format("motion"), FRAMES),
    }
    config.train.update(steps=STEPS, log_every=50, checkpoint_every=200)
    config.table = (
        ("inspect/tokens_to_llm", "tokens", ",d"),
        ("peak_mb", "peak MB", ",.0f"),
        ("looks/exact", "looks"),
        *common.TWINS,
    )
    config.more_tables = common.twins_by_family()
    config.compare = (
        ("image chat, mean of frames", plain({}, steps=0)),
        ("ST pooling, tuned", plain({"tokens": "st_pool", "cls": "none"}, CONNECTOR, context=160)),
        ("BT-Adapter, not tuned", {"rules": (FROZEN,), "train.steps": 0}),
        ("BT-Adapter, tuned", {}),
        (
            "Separate-ST, tuned",
            plain(ALL_FRAMES, TOWER, CONNECTOR, context=176) | {"model.methods": ("separate_st",)},
        ),
        (
            "Joint-ST, tuned",
            plain(
                ALL_FRAMES | {"visual": {"temporal_frames": FRAMES}}, TOWER, CONNECTOR, context=176
            ),
        ),
    )
    return config


def plain(spec: dict[str, Any], *rules: Any, context: int = 48, steps: int = STEPS) -> dict:
    """A row without the branch. spec: what of the chat model is other."""
    return {
        "model.methods": (),
        "model.parts": (),
        "model.spec": spec,
        "model.context": context,
        "rules": (*rules, FROZEN),
        "train.steps": steps,
    }


VARIANTS = {"": moving_shapes}


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant; `VARIANTS` lists them."""
    return configuration.choose_variant(VARIANTS, variant)
