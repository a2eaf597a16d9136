"""TempMe: text-video retrieval with few trained parameters and few tokens (Shen et al., Section 4).

configs/tempme.py                    moving shapes over the tiny CLIP of the package
configs/tempme.py:all                the same with every method of text-video retrieval
configs/tempme.py:BASE               LoRA and TempMe; BASE is one of `BASES`
configs/tempme.py:BASE_METHOD        a method that the paper compares with, one of `METHODS`
configs/tempme.py:msrvtt_BACKBONE_METHOD   a method of text-video retrieval, one of `COMPARED`
configs/tempme.py:msrvtt_b32_vop_published   evaluates VoP's own weights
configs/tempme.py:BASE_dgl_published evaluates DGL's; BASE is one of `DGL_PUBLISHED`
configs/tempme.py:msrvtt_b32_NAME    an ablation of `ABLATIONS`, or a schedule of `SCHEDULES`
configs/tempme.py:msrvtt_UMT         a row of Table 6; UMT is one of `MODELS` of configs/umt.py
configs/tempme.py:own[_METHOD]       your videos, data.train.manifest

Layers count from 0 here, from 1 in the paper. Figure 5 takes overrides, for example
--config.model.tempme.layers="(5, 6, 7)" or --config.model.tempme.keep_cross=50.
"""

import functools
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from vlt import configuration

from . import common
from .retrieval_methods import COMPARED, LEAVES, METHODS, options, rules
from .retrieval_table import ROWS
from .umt import RETRIEVAL as UMT

# Frames and words, the protocol, manifests of data_pipelines/, and steps of an epoch.
SHORT, LONG = {"frames": 12, "words": 32}, {"frames": 64, "words": 64}
DATASETS: dict[str, dict[str, Any]] = {
    "msrvtt": SHORT
    | {"protocol": "msrvtt_1ka_9k", "train": "train_9k", "test": "test_1ka", "epoch": 1406},
    "activitynet": LONG
    | {"protocol": "activitynet_val1", "train": "train", "test": "val1", "epoch": 78},
    "didemo": LONG | {"protocol": "didemo", "train": "train", "test": "test", "epoch": 65},
    "lsmdc": SHORT | {"protocol": "lsmdc", "train": "train", "test": "test", "epoch": 789},
}
# (data set, size, weights) of each base.
BASES = {
    "msrvtt_b32": ("msrvtt", "clip_b32", "clip_b32"),
    "msrvtt_b16": ("msrvtt", "clip_b16", "clip_b16"),
    # Table 14: B/16 trained on other texts
    "msrvtt_b16_laclip": ("msrvtt", "clip_b16", "laclip_b16"),
    "msrvtt_b16_metaclip": ("msrvtt", "clip_b16", "metaclip_b16"),
    "activitynet_b32": ("activitynet", "clip_b32", "clip_b32"),
    "didemo_b32": ("didemo", "clip_b32", "clip_b32"),
    "lsmdc_b32": ("lsmdc", "clip_b32", "clip_b32"),
}
# Bases for which DGL's authors published weights
DGL_PUBLISHED = ("msrvtt_b32", "msrvtt_b16", "lsmdc_b32", "activitynet_b32")
TABLE_14 = ("", "lora", "tome")
MEASURES = ("R@1", "R@5", "R@10", "R-Sum", "MnR")


def retrieval(base: str, method: str, frames: int = 0) -> ConfigDict:
    """Published recipe: AdamW 6e-4, batch 128, 5 epochs. frames: other than the data set's."""
    name, size, weights = BASES[base]
    dataset, methods = DATASETS[name], METHODS[method]
    frames = frames or dataset["frames"]
    config = common.base()
    config.seed = 42
    config.model.update(
        checkpoint=f"checkpoints/{weights}",
        size=size,
        methods=methods,
        frames=frames,
        context=dataset["words"],
        dtype="auto",
        frame_norm=True,
    )
    for each in methods:
        config.model[each] = options(each, size, frames)
    full = method.startswith("full")
    config.rules = rules(methods, full)
    optimizer(config, 1e-4 if full else 6e-4)
    # The loss is the mean of both directions. The scale is CLIP's own, frozen with it.
    config.task.update(losses={"vtc": 0.5}, scale=0.0)
    videos = functools.partial(common.videos, sampler="fps1_linspace", frames=frames)
    crop = {"resize": 224, "crop": 224}
    augment = {"rand_augment": {"ops": 4, "magnitude": 7.0, "deviation": 0.5}}
    config.data.workers = 16
    config.data.train = videos(
        f"data/{name}/{dataset['train']}.jsonl", batch_size=128, transform=augment | crop
    )
    test = videos(f"data/{name}/{dataset['test']}.jsonl", batch_size=128, transform=crop)
    config.evals = {name: common.retrieval(dataset["protocol"], test)}
    five_epochs(config, name, dataset["epoch"])
    return config


def optimizer(config: ConfigDict, lr: float) -> None:
    """Sets the optimizer of Appendix B. lr: peak learning rate."""
    config.optimizer.update(
        name="adamw_hf",
        lr=lr,
        b2=0.999,
        eps=1e-6,
        # Published on four GPUs, whose gradients come out a quarter as large; clip=4.0 and
        # eps=4e-6 would do the same here.
        clip=1.0,
        schedule={"name": "cosine", "warmup": 0.1},
    )


def five_epochs(config: ConfigDict, name: str, epoch: int) -> None:
    """Sets steps, evaluations and table of a data set. epoch: its length in steps."""
    # Published: the best step on the test set itself, evaluated every 150 steps.
    config.train.update(
        steps=5 * epoch,
        eval_every=epoch,
        checkpoint_every=500,
        best_metric=f"{name}/t2v_R@1",
    )
    config.table = paper_table(name)


def paper_table(name: str) -> tuple[tuple[str, ...], ...]:
    """Columns of Tables 2, 3, 11 and 12."""
    model = (("inspect/video_gmacs", "GMACs"), ("inspect/output_tokens", "tokens", ",d"))
    return (*model, *common.retrieval_table(name, MEASURES))


def own_videos(method: str) -> ConfigDict:
    """Trains on any manifest with `video` and `caption`; evaluates on the same videos unless
    `evals.own.manifest` names others. The recipe is that of `msrvtt_b32`."""
    config = retrieval("msrvtt_b32", method)
    common.train_on_own(config)
    config.table = paper_table("own")
    return config


def compared(base: str, method: str) -> ConfigDict:
    """A method of `COMPARED` on the CLIP of a base, or on your own videos."""
    config = own_videos("full") if base == "own" else retrieval(base, "full")
    config = configuration.apply_overrides(config, COMPARED[method])
    for name in config.model.methods:
        options = config.model.get(name, {})
        for option, size in (("frames", "frames"), ("words", "context")):
            if option in options:
                options[option] = config.model.get_oneway_ref(size)
    return config


def vop_published() -> ConfigDict:
    """The weights for MSR-VTT's 9k that VoP's authors published, evaluated as in their code: on one
    frame of each of equal intervals."""
    config = compared("msrvtt_b32", "vop")
    config.model.update(checkpoint="checkpoints/vop_b32", methods=())
    config.rules = ((".*", "frozen"),)
    config.evals.msrvtt.sampler.name = "segment_centre"
    config.train.update(steps=0, eval_every=0)
    return config


def dgl_published(base: str) -> ConfigDict:
    """The weights that DGL's authors published for a base, evaluated as in their code: on one frame
    of each of equal intervals."""
    name, size, _ = BASES[base]
    config = retrieval(base, "full")
    config.model.update(checkpoint=f"checkpoints/dgl_{base}", methods=(), frame_norm=False)
    config.rules = ((".*", "frozen"),)
    config.evals[name].sampler.name = "segment_centre"
    config.train.update(steps=0, eval_every=0)
    return config


NO_POSITIONS = {"model.tempme.positions": False, "rules": rules(("lora",), full=False)}
ABLATIONS: dict[str, dict[str, Any]] = {
    "no_cpe": NO_POSITIONS,  # Table 15
    # Table 9: clips are joined but nothing is merged; the same merging without joining
    "temporal_only": {
        "model.tempme.r": 0,
        "model.tempme.keep_cross": 100,
        "model.tempme.keep_intra": 100,
    },
    "reduction_only": NO_POSITIONS | {"model.tempme.join": (1, 1, 1)},
}
# Table 10, as (clips, layer counted from 1); the base is 6 at 9, 3 at 10, 1 at 11.
SCHEDULES = (
    ((4, 9), (1, 10)),
    ((1, 9),),
    ((6, 9), (3, 10)),
    ((4, 9),),
    ((6, 7), (3, 9), (1, 11)),
    ((6, 4), (3, 7), (1, 10)),
    ((6, 1), (3, 5), (1, 9)),
)


def ablation(name: str) -> ConfigDict:
    """`msrvtt_b32` with the overrides of `ABLATIONS[name]`."""
    return configuration.apply_overrides(retrieval("msrvtt_b32", ""), ABLATIONS[name])


def schedule(stages: tuple[tuple[int, int], ...]) -> ConfigDict:
    """`msrvtt_b32` with clips joined as a row of Table 10 says."""
    clips = (12, *(count for count, _ in stages))
    overrides = {
        "model.tempme.layers": tuple(layer - 1 for _, layer in stages),
        "model.tempme.join": tuple(a // b for a, b in zip(clips, clips[1:], strict=False)),
    }
    return configuration.apply_overrides(retrieval("msrvtt_b32", ""), overrides)


def schedule_name(stages: tuple[tuple[int, int], ...]) -> str:
    """The variant's name, such as 6_at_9_3_at_10_1_at_11."""
    return "_".join(f"{clips}_at_{layer}" for clips, layer in stages)


def moving_shapes() -> ConfigDict:
    """Trains on generated clips in minutes and compares four models in one table."""
    config = common.base()
    config.model.update(
        checkpoint="tiny_clip",
        size="tiny_clip",
        methods=("lora", "tempme"),
        context=16,
        frame_norm=True,
        lora={"rank": 8},
        # 8 clips of one frame become 4 in the second of four layers, and one in the third.
        tempme={
            "layers": (1, 2), "join": (2, 4), "positions": True,
            "r": 1, "keep_cross": 70, "keep_intra": 90,
        },
        tome={"r": 1, "proportional": True},
    )  # fmt: skip
    decayed = {"weight_decay": 0.05}
    frozen = (".*", "frozen")
    lora = (LEAVES["lora"], decayed)
    # Positions start at zero and alone tell frames apart: they must grow to the size of the tokens
    # that they are added to.
    config.rules = ((LEAVES["tempme"], {"lr": 10.0}), lora, frozen)
    config.optimizer.update(lr=3e-3, clip=1.0, schedule={"name": "cosine", "warmup": 0.1})
    config.task.update(losses={"vtc": 0.5}, mask_duplicates=True)
    common.moving_shapes(config)
    config.table = (
        ("inspect/video_gmacs", "GMACs", ".4f"),
        ("inspect/output_tokens", "tokens", ",d"),
        ("bench/videos_per_s", "videos/s", ",.0f"),
        *config.table,
    )
    config.train.update(steps=600, log_every=50, checkpoint_every=200)
    config.compare = (
        ("LoRA", {"model.methods": ("lora",), "rules": (lora, frozen)}),
        ("LoRA + ToMe", {"model.methods": ("lora", "tome"), "rules": (lora, frozen)}),
        ("TempMe", {}),
        (
            "TempMe without clip positions",
            {"model.tempme.positions": False, "rules": (lora, frozen)},
        ),
    )
    return config


def every_method() -> ConfigDict:
    """`moving_shapes` with a row for every method of text-video retrieval."""
    config = moving_shapes()
    config.compare = tuple(row.entry for row in ROWS)
    return config


VARIANTS: dict[str, Callable[[], ConfigDict]] = {
    "": moving_shapes,
    "all": every_method,
    **{
        "_".join(filter(None, (base, method))): functools.partial(retrieval, base, method)
        for base in BASES
        for method in (TABLE_14 if base.startswith("msrvtt_b16_") else METHODS)
    },
    "msrvtt_b32_f8": functools.partial(retrieval, "msrvtt_b32", "", frames=8),  # Table 16
    "msrvtt_b32_lora_f8": functools.partial(retrieval, "msrvtt_b32", "lora", frames=8),
    **{f"msrvtt_b32_{name}": functools.partial(ablation, name) for name in ABLATIONS},
    **{f"msrvtt_b32_{schedule_name(s)}": functools.partial(schedule, s) for s in SCHEDULES},
    **UMT,
    **{"_".join(filter(None, ("own", m))): functools.partial(own_videos, m) for m in METHODS},
    **{
        f"{base}_{method}": functools.partial(compared, base, method)
        for base in ("msrvtt_b32", "msrvtt_b16", "own")
        for method in COMPARED
    },
    "msrvtt_b32_vop_published": vop_published,
    **{f"{base}_dgl_published": functools.partial(dgl_published, base) for base in DGL_PUBLISHED},
}


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant; `VARIANTS` lists them."""
    return configuration.choose_variant(VARIANTS, variant)
