"""Conversation about videos: BT-Adapter in LLaVA, MiniGPT-4 and InstructBLIP (Section 3.4).

configs/video_chat.py                    questions about moving shapes, over the tiny chat model
configs/video_chat.py:llava_tune         BT-Adapter and projector on VideoInstruct-100K, LLaVA 7B
configs/video_chat.py:llava_stage1       LLaVA's first stage: its projector, on images
configs/video_chat.py:videochatgpt       Video-ChatGPT: means over space and time, no branch
configs/video_chat.py:minigpt4           MiniGPT-4's first stage with a frozen branch
configs/video_chat.py:minigpt4_stage2    its second stage
configs/video_chat.py:instructblip       InstructBLIP with a branch, nothing trained
configs/video_chat.py:instructblip_tune  instruction tuning of its Q-Former
configs/video_chat.py:instructblip_frames  as it reads videos itself: 32 tokens per frame
configs/video_chat.py:llava_benchmarks   LLaVA's answers to Tables 2 and 3's questions, for a judge
configs/video_chat.py:minigpt4_benchmarks, instructblip_benchmarks  those of Table 4
configs/video_chat.py:llava_NAME         a row of Table 1, of `TABLE_1`
"""

import functools
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from vlt import configuration

from . import common

ROWS = ("text/token_rows", {"lr": 1.0})  # embeddings of the tokens around a video
PROJECTOR = ("connector/.*", {"lr": 1.0})
FROZEN = (".*", "frozen")
# Three of the branch's four layers run, and no gate weights their tokens.
BRANCH = (
    (r"visual/btadapter/(temporal|spatial)_3/.*", "frozen"),
    ("visual/btadapter/.*_gate", "frozen"),
    ("visual/btadapter/.*", {"lr": 1.0}),
)
# What follows the states that LLaVA reads.
UNREAD = (r"visual/(blocks_23|post_norm)/.*", "frozen")
# Templates in which the published models were tuned.
TEMPLATES = {
    "llava": "vicuna_v1_1", "minigpt4": "minigpt4_training", "instructblip": "instructblip",
}  # fmt: skip
# In addition to what all towers split. A vocabulary with added tokens has few divisors.
LLAMA = (
    (".*mlp/gate/kernel", (None, "tensor")),
    ("text/token_embedding/embedding", (None, "tensor")),
    ("text/head/kernel", ("tensor", None)),
)
# The MLPs that a Q-Former has for queries; its attention is split as in all towers.
QFORMER = (
    ("connector/.*mlp_queries/fc1/kernel", (None, "tensor")),
    ("connector/.*mlp_queries/fc1/bias", ("tensor",)),
    ("connector/.*mlp_queries/fc2/kernel", ("tensor", None)),
)
VIDEOS = 100_000  # of VideoInstruct-100K, rounded

# Overrides of `llava_tune`; all of them leave the branch out.
TABLE_1: dict[str, dict] = {
    # The paper does not define it; here, frames are encoded separately and averaged.
    "mean": {"model.video": {"tokens": "mean", "cls": "none"}},
    "st_pooling": {"model.video": {"tokens": "st_pool", "cls": "none"}},
    "joint_st": {
        "model.video": {"tokens": "frames", "cls": "none", "joint": True},
        "rules": (UNREAD, ("visual/.*", {"lr": 1.0}), PROJECTOR, ROWS, FROZEN),
    },
    "separate_st": {
        "model.methods": ("separate_st", "token_rows"),
        "rules": (UNREAD, ("visual/.*", {"lr": 1.0}), PROJECTOR, ROWS, FROZEN),
    },
    "separate_st_frozen": {
        "model.methods": ("separate_st", "token_rows"),
        "rules": (
            ("visual/.*(separate_st/.*|time_embedding)", {"lr": 1.0}),
            PROJECTOR,
            ROWS,
            FROZEN,
        ),
    },
}
# With every patch of every frame, 8 or more frames would leave no room in 2,048 positions for a
# conversation; the paper does not say how many it used.
FEW_FRAMES = 4

# Tuned on questions about videos: the branch with its gates, as in btadapter.py, and the connector,
# but never the language model.
TINY_CONNECTOR = (r"connector/.*", {"lr": 0.3, "weight_decay": 0.05})
TINY_BRANCH = (
    ("visual/btadapter/final_gate", {"lr": 5e-4}),
    ("visual/btadapter/layer_gate", {"lr": 5e-2}),
    ("visual/btadapter/.*", {"lr": 1.0, "weight_decay": 0.05}),
)
TINY_TOWER = (r"visual/.*", {"lr": 0.3, "weight_decay": 0.05})
POOLED = {"tokens": "st_pool", "cls": "none"}
ALL_FRAMES = {"tokens": "frames", "cls": "none"}
MOVING = "moving_shapes:clips:test:520:{}_questions.jsonl"
FRAMES = 8
STEPS = 320


def moving_shapes() -> ConfigDict:
    """An image chat model becomes a video chat model, with and without video instruction tuning."""
    config = common.base()
    config.model.update(
        checkpoint="tiny_chat",
        size="tiny_chat",
        methods=("btadapter",),
        frames=FRAMES,
        context=48,
        # The branch that configs/tiny_chat.py:branch trains on captions, as it is.
        parts=(("visual/btadapter", "tiny_branch"),),
        video={"tokens": "mean", "cls": "last", "joint": False},
        btadapter={"depth": 3, "spare": 0, "drop_path": 0.0, "alignment": "none"},
        separate_st={"layers": (0, 1, 2, 3)},
    )
    config.rules = (*TINY_BRANCH, TINY_CONNECTOR, FROZEN)
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
        (
            "ST pooling, tuned",
            plain(POOLED, TINY_CONNECTOR, context=160),
        ),
        ("BT-Adapter, not tuned", {"rules": (FROZEN,), "train.steps": 0}),
        ("BT-Adapter, tuned", {}),
        (
            "Separate-ST, tuned",
            plain(ALL_FRAMES, TINY_TOWER, TINY_CONNECTOR, context=176)
            | {"model.methods": ("separate_st",)},
        ),
        (
            "Joint-ST, tuned",
            plain(ALL_FRAMES | {"joint": True}, TINY_TOWER, TINY_CONNECTOR, context=176),
        ),
    )
    return config


def plain(video: dict[str, Any], *rules: Any, context: int = 48, steps: int = STEPS) -> dict:
    """A row without the branch. video: what the language model reads of a video."""
    return {
        "model.methods": (),
        "model.parts": (),
        "model.video": video,
        "model.context": context,
        "rules": (*rules, FROZEN),
        "train.steps": steps,
    }


def conversation(size: str, frames: int) -> ConfigDict:
    """What all these configs share; nothing is trained yet."""
    config = common.base()
    config.model.update(
        checkpoint=f"checkpoints/{size}",
        size=size,
        frames=frames,
        context=2048,
        # Tokens beside the video's in the prompt whose cost `vlt inspect` counts: the model's own
        # prompt with the question "What is the person doing in the video?".
        prompt_tokens=79,
        dtype="bfloat16",
        weights="",  # of the language model: "", as stored; or "bfloat16" or "int8"
        remat="block",
    )
    config.optimizer.update(b2=0.999, schedule={"name": "cosine", "warmup": 0.03})
    config.task = common.conversation_task(TEMPLATES[size.partition("_")[0]])
    config.data.workers = 16
    config.sharding.params = (*config.sharding.params, *LLAMA)
    return config


def llava_tune() -> ConfigDict:
    """57,803,776 trained parameters in branch and projector, and two rows of the word embedding.

    Published: AdamW 2e-5, 3 epochs of VideoInstruct-100K in batches of 8, 100 frames in 50 pairs.
    """
    config = conversation("llava_7b", frames=100)
    config.model.update(methods=("btadapter", "token_rows"), btadapter={"alignment": "none"})
    config.rules = (*BRANCH, PROJECTOR, ROWS, FROZEN)
    config.optimizer.lr = 2e-5
    video_instruct(config, batch_size=8, epochs=3)
    return config


def video_instruct(config: ConfigDict, batch_size: int, epochs: int) -> None:
    """Sets training on VideoInstruct-100K."""
    config.data.train = common.videos(
        "data/video_instruct/train.jsonl",
        "conversation_middle",
        config.model.frames,
        batch_size,
        transform={"resize": 256, "crop": 224},
        on_error="replace",
    )
    steps = epochs * VIDEOS // batch_size
    config.train.update(steps=steps, checkpoint_every=1000)


def videochatgpt() -> ConfigDict:
    """Projector and rows: 4,198,400 and 8,192 parameters. A video has 356 tokens."""
    config = conversation("llava_7b", frames=100)
    config.model.update(methods=("token_rows",), video={"tokens": "st_pool", "cls": "none"})
    config.rules = (PROJECTOR, ROWS, FROZEN)
    config.optimizer.lr = 2e-5
    video_instruct(config, batch_size=32, epochs=3)
    return config


def llava_stage1() -> ConfigDict:
    """LLaVA's alignment: projector and two rows, on 595K image captions once, in batches of 128."""
    config = conversation("llava_image_7b", frames=1)
    config.model.update(methods=("token_rows",), video={"tokens": "mean", "cls": "none"})
    config.rules = (PROJECTOR, ROWS, FROZEN)
    config.optimizer.lr = 2e-3
    images(config, "data/llava_cc3m/train.jsonl", batch_size=128, steps=4650)
    return config


def images(config: ConfigDict, manifest: str, batch_size: int, steps: int) -> None:
    """Sets training on images, or on videos instead, at the tower's size."""
    llava = config.model.size.startswith("llava")
    transform = {"resize": 224, "crop": 224} if llava else {"resize": (224, 224)}
    frames = config.model.frames
    config.data.train = common.videos(
        manifest, "uniform_segments", frames, batch_size, transform=transform, on_error="replace"
    )
    config.train.update(steps=steps, checkpoint_every=1000)


def with_queries(size: str, prompt_tokens: int) -> ConfigDict:
    """MiniGPT-4 or InstructBLIP with the branch of an EVA-CLIP, which has no gates."""
    config = conversation(size, frames=8)
    config.model.update(
        methods=("btadapter",),
        btadapter={"gates": "none", "alignment": "none"},
        prompt_tokens=prompt_tokens,
        context=512,
    )
    config.rules = (FROZEN,)
    config.sharding.params = (*config.sharding.params, *QFORMER)
    return config


def rising(config: ConfigDict, first: float, highest: float, last: float, warmup: int) -> None:
    """LAVIS' learning rate: linear from `first` over `warmup` steps, then a cosine to `last`."""
    config.optimizer.lr = highest
    config.optimizer.schedule = {
        "name": "warmup_cosine_decay_schedule",
        "init_value": first / highest,
        "warmup_steps": warmup,
        "end_value": last / highest,
    }


def minigpt4() -> ConfigDict:
    """3,149,824 trained parameters, published on image captions: 4 x 5,000 steps."""
    config = with_queries("minigpt4_7b", prompt_tokens=60)
    config.rules = (("connector/projection/.*", {"lr": 1.0, "weight_decay": 0.05}), FROZEN)
    rising(config, 1e-6, 1e-4, 8e-5, warmup=5000)
    images(config, "data/webvid2m/train.jsonl", batch_size=256, steps=20_000)
    return config


def minigpt4_stage2() -> ConfigDict:
    """The same parameters on instructions, 5 x 200 steps of 12."""
    config = minigpt4()
    rising(config, 1e-6, 3e-5, 1e-5, warmup=200)
    images(config, "data/video_instruct/train.jsonl", batch_size=12, steps=1000)
    return config


def instructblip() -> ConfigDict:
    """InstructBLIP with the branch, without any training."""
    return with_queries("instructblip_7b", prompt_tokens=10)


def instructblip_frames() -> ConfigDict:
    """InstructBLIP on separate frames, without a branch."""
    config = instructblip()
    config.model.methods = ()
    config.model.video = {"tokens": "frames", "cls": "first"}
    del config.model.btadapter
    return config


def instructblip_tune() -> ConfigDict:
    """Q-Former, queries, their LayerNorm and projection: 188,837,376 trained parameters."""
    config = instructblip()
    config.task.dialogue_template = "instructblip_training"
    config.rules = (("connector/.*", {"lr": 1.0, "weight_decay": 0.05}), FROZEN)
    rising(config, 1e-8, 1e-5, 0.0, warmup=1000)
    images(config, "data/video_instruct/train.jsonl", batch_size=128, steps=60_000)
    return config


def benchmarks(
    recipe: Callable[[], ConfigDict], template: str, *names: str, **search: Any
) -> ConfigDict:
    """A recipe's model, not trained here, answers the questions of the paper's Tables 2 to 4.

    `vlt judge` reads the answers; `model.checkpoint` may be the export of a tuned run.
    template: that of inference, if it differs from that of training. search: the published
    system's, but for sampling; its longest answer counts no start token.
    """
    config = recipe()
    config.rules = (FROZEN,)
    config.train.steps = 0
    data = config.data.train
    for name in names:
        section = common.written_answers(name, data, **search)
        section.update(template=template, manifest=f"data/{name}/test.jsonl", on_error="skip")
        section.update(batch_size=8)
        config.evals[name] = section
    return config


def table_1(name: str) -> ConfigDict:
    """`llava_tune` without the branch, with the overrides of `TABLE_1[name]`."""
    config = llava_tune()
    del config.model.btadapter
    config.model.methods = ("token_rows",)
    config.rules = (PROJECTOR, ROWS, FROZEN)
    config.model.video = {"tokens": "frames", "cls": "none", "joint": False}
    if name in ("joint_st", "separate_st", "separate_st_frozen"):
        config.model.frames = config.data.train.sampler.frames = FEW_FRAMES
    if "separate" in name:
        # Before each layer whose output is read.
        config.model.separate_st = {"layers": tuple(range(23))}
    if not name.endswith("frozen") and "_st" in name:
        config.mesh.update(data=1, fsdp=-1)
    return configuration.apply_overrides(config, TABLE_1[name])


VARIANTS: dict[str, Callable[[], ConfigDict]] = {
    "": moving_shapes,
    "llava_tune": llava_tune,
    "llava_stage1": llava_stage1,
    "videochatgpt": videochatgpt,
    "minigpt4": minigpt4,
    "minigpt4_stage2": minigpt4_stage2,
    "instructblip": instructblip,
    "instructblip_tune": instructblip_tune,
    "instructblip_frames": instructblip_frames,
    "llava_benchmarks": functools.partial(
        benchmarks,
        llava_tune,
        "video_chatgpt_v1",
        "videochatgpt",
        "msvd_qa",
        "msrvtt_qa",
        "activitynet_qa",
        max_length=1024,
    ),
    "minigpt4_benchmarks": functools.partial(
        benchmarks,
        minigpt4,
        "minigpt4",
        "videochatgpt",
        max_length=300,
        repetition_penalty=1.05,
    ),
    "instructblip_benchmarks": functools.partial(
        benchmarks,
        instructblip_tune,
        "instructblip",
        "videochatgpt",
        method="beam",
        beams=5,
        max_length=255,
        min_length=1,
        repetition_penalty=1.5,
    ),
    **{f"llava_{name}": functools.partial(table_1, name) for name in TABLE_1},
}


def get_config(variant: str = "llava_tune") -> ConfigDict:
    """The config of a variant; `VARIANTS` lists them."""
    return configuration.choose_variant(VARIANTS, variant)
