"""BT-Adapter: training of the branch on video-text pairs (Liu et al., Section 3.3).

configs/btadapter.py                  moving shapes over the tiny CLIP of the package
configs/btadapter.py:webvid_l14       WebVid-2M over CLIP ViT-L/14, as published
configs/btadapter.py:webvid_eva_g     the same over EVA-CLIP-G
configs/btadapter.py:webvid_l14_stan  STAN, its predecessor, on the same data; _stan_conv with
                                      convolution, _stan_mug with Mug's scores
configs/btadapter.py:bench            webvid_l14 at half its width, for benchmarks
configs/btadapter.py:webvid_l14_NAME  an ablation of `ABLATIONS`
configs/btadapter.py:own              your videos, data.train.manifest, over CLIP ViT-B/32
"""

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from vlt import configuration

from . import common

FROZEN = ((".*", "frozen"),)
# The branch alone is trained, its temporal layers and gates at ten times the rate of the others.
RULES = (
    ("visual/btadapter/(temporal_.*|.*_gate)", {"lr": 100.0, "weight_decay": 0.05}),
    ("visual/btadapter/.*", {"lr": 10.0, "weight_decay": 0.05}),
    *FROZEN,
)

# Table 6: temporal attention before each of four layers, instead of a branch.
SEPARATE_ST = {"model.methods": ("separate_st",), "task.losses": {"vtc": 1.0}}
SEPARATE_ST_RULES = (
    ("visual/.*(separate_st/.*|time_embedding)", {"lr": 100.0, "weight_decay": 0.05}),
    (".*", "frozen"),
)
VTC_ONLY = {"task.losses": {"vtc": 1.0}, "model.btadapter.alignment": "none"}

ABLATIONS: dict[str, dict] = {
    # Table 6, all with VTC alone
    "sep_st4": SEPARATE_ST | {"rules": SEPARATE_ST_RULES},
    "branch_no_interaction": VTC_ONLY
    | {"model.btadapter.interaction": False, "model.btadapter.gates": "none"},
    "full_vtc": VTC_ONLY,
    # Table 7
    "vtc_mbta": {"task.losses": {"vtc": 1.0, "mbta": 0.1}},
    "vtc_mbca": {"task.losses": {"vtc": 1.0, "mbca": 0.1}, "model.btadapter.alignment": "none"},
    # Figure 3: layers of the branch
    **{f"depth{depth}": {"model.btadapter.depth": depth} for depth in (1, 2, 3, 4, 5, 6, 8)},
    # Figure 4: share of masked patches
    **{
        f"mask{rate}": {"model.btadapter.mask_rate": rate / 100} for rate in (0, 30, 50, 70, 80, 90)
    },
    # The paper's reading, where the published code departs from it
    "paper": {
        "model.btadapter.gates": "scalar",
        "model.btadapter.inputs": "last_k_plus_1",
        "model.btadapter.video_cls": "learned",
        "model.btadapter.pool": "mean_then_project",
        "model.btadapter.alignment": "linear",
        "task.losses": {"vtc": 1.0, "mbta": 1.0, "mbca": 1.0},
    },
}


def moving_shapes() -> ConfigDict:
    """Trains on generated clips in minutes and compares three models in one table."""
    config = common.base()
    config.model.update(
        checkpoint="tiny_clip",
        size="tiny_clip",
        methods=("btadapter",),
        context=16,
        # Three layers beside the tower's four. Where and when a shape is must meet in the MLP of
        # one layer for the CLS of the next to read a direction; two layers learn this too slowly.
        btadapter={"depth": 3, "drop_path": 0.0, "mask_rate": 0.0},
    )
    # The gates' published slopes, 100 and 10,000, multiply what a step does to them: at the rate
    # of the other leaves they would saturate in one step, and a saturated gate learns no more.
    config.rules = (
        ("visual/btadapter/final_gate", {"lr": 5e-4}),
        ("visual/btadapter/layer_gate", {"lr": 5e-2}),
        ("visual/btadapter/.*", {"lr": 1.0, "weight_decay": 0.05}),
        (".*", "frozen"),
    )
    config.optimizer.update(lr=3e-3, schedule={"name": "cosine", "warmup": 0.1})
    config.task.update(losses={"vtc": 1.0, "mbta": 0.1, "mbca": 0.1}, mask_duplicates=True)
    common.moving_shapes(config)
    config.train.update(steps=300, log_every=20, eval_every=100, checkpoint_every=100)
    config.compare = (
        ("zero-shot tiny CLIP", {"model.methods": (), "rules": FROZEN, "train.steps": 0}),
        ("BT-Adapter", {}),
        ("BT-Adapter, 70% masked", {"model.btadapter.mask_rate": 0.7}),
    )
    return config


def webvid(size: str) -> ConfigDict:
    """Published recipe: AdamW 2e-6, one epoch of WebVid-2M, 8 frames, 70% of the patches masked."""
    config = common.base()
    config.model.update(
        checkpoint=f"checkpoints/{size}",
        size=size,
        methods=("btadapter",),
        # The published code truncates texts to 64 tokens and drops the end token of longer ones;
        # here the end token is kept.
        context=64,
        btadapter={"mask_rate": 0.7},
        dtype="bfloat16",
        remat="block",
    )
    config.optimizer.update(lr=2e-6, clip=5.0, schedule={"name": "btadapter", "epochs": 1.0})
    config.task.losses = {"vtc": 1.0, "mbta": 0.1, "mbca": 0.1}
    config.data.workers = 16
    config.data.train = common.videos(
        "data/webvid2m/train.jsonl",
        "uniform_segments",
        frames=8,
        batch_size=416,
        transform={"resize": 256, "random_resized_crop": 224},
        on_error="replace",
    )
    config.evals = {"msrvtt_1ka": common.msrvtt_1ka(frames=12)}
    config.train.update(steps=6010, eval_every=6010, checkpoint_every=500)  # 2.5M pairs / 416
    config.train.best_metric = "msrvtt_1ka/t2v_R@1"
    return config


def webvid_l14() -> ConfigDict:
    """CLIP ViT-L/14: 72,242,432 trained parameters, the alignment projection included."""
    config = webvid("clip_l14")
    config.rules = RULES
    return config


def webvid_l14_stan(module: str = "attention", mug: bool = False) -> ConfigDict:
    """STAN: both towers trained, the branch at ten times their rate, VTC alone, nothing masked.

    Its papers train on MSR-VTT and similar sets, or on WebVid-10M; data, batch and schedule here
    are BT-Adapter's, so that the two can be compared. Rates, decay and b2 are STAN's own.
    """
    config = webvid("clip_l14")
    config.model.methods = ("btadapter", "mug") if mug else ("btadapter",)
    config.model.btadapter = {
        "gates": "none",
        "class_token": "backbone",
        "time_module": module,
        "alignment": "none",
        "mask_rate": 0.0,
    }
    flat = r"(.*/)?(bias|scale)"
    config.rules = (
        ("logit_scale", "frozen"),  # the config sets the temperature
        (f"visual/btadapter/{flat}", {"lr": 10.0}),
        ("visual/btadapter/.*", {"lr": 10.0, "weight_decay": 0.2}),
        (flat, {"lr": 1.0}),
        (".*", {"lr": 1.0, "weight_decay": 0.2}),
    )
    config.task.losses = {"vtc": 1.0}
    return config


def webvid_eva_g() -> ConfigDict:
    """EVA-CLIP-G: no gates and no MBTA, one multiplier for the whole branch, as published."""
    config = webvid("eva_clip_g")
    config.model.context = 77
    config.model.btadapter.update(gates="none", alignment="none")
    config.task.losses = {"vtc": 1.0, "mbca": 0.1}
    config.rules = (
        ("visual/btadapter/.*", {"lr": 10.0, "weight_decay": 0.05}),
        (".*", "frozen"),
    )
    config.data.train.batch_size = 128
    config.train.update(steps=19531, eval_every=19531, checkpoint_every=1000)
    return config


def own_videos() -> ConfigDict:
    """Trains on any manifest with `video` and `caption`; evaluates on the same videos unless
    `evals.own.manifest` names others. Rates and losses are those of `webvid_l14`."""
    config = webvid_l14()
    config.model.update(
        checkpoint="checkpoints/clip_b32",
        size="clip_b32",
        frames=12,
        dtype="float32",
        remat="none",
    )
    config.optimizer.schedule = {"name": "cosine", "warmup": 0.1}
    config.data.train.on_error = "raise"
    common.train_on_own(config)
    config.table = common.retrieval_table("own", ("R@1", "R@5", "R@10", "MnR"))
    return config


def bench() -> ConfigDict:
    """The step of `webvid_l14` at half its width, for `vlt.bench`."""
    config = webvid_l14()
    config.model.update(checkpoint="", size="clip_l14_narrow", dtype="float32", remat="none")
    return config


def ablation(name: str) -> ConfigDict:
    """`webvid_l14` with the overrides of `ABLATIONS[name]`."""
    config = webvid_l14()
    # Spelled out, because an override may only change keys that exist.
    config.model.btadapter = {
        "mask_rate": 0.7, "alignment": "normalized", "interaction": True, "gates": "vector",
        "depth": 4, "inputs": "last_k", "video_cls": "mixed", "pool": "project_then_mean",
    }  # fmt: skip
    return configuration.apply_overrides(config, ABLATIONS[name])


VARIANTS: dict[str, Callable[[], ConfigDict]] = {
    "": moving_shapes,
    "webvid_l14": webvid_l14,
    "webvid_eva_g": webvid_eva_g,
    "bench": bench,
    **{f"webvid_l14_{name}": functools.partial(ablation, name) for name in ABLATIONS},
    "own": own_videos,
    "webvid_l14_stan": webvid_l14_stan,
    "webvid_l14_stan_conv": functools.partial(webvid_l14_stan, "conv"),
    "webvid_l14_stan_mug": functools.partial(webvid_l14_stan, mug=True),
}


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant; `VARIANTS` lists them."""
    return configuration.choose_variant(VARIANTS, variant)
