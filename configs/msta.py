"""MSTA and its comparisons: action recognition in four protocols (Chen et al., Tables 1 to 8).

configs/msta.py                                      base-to-novel on actions of moving shapes
configs/msta.py:all                                  the same, with every method compared
configs/msta.py:zeroshot_k400, full_k400             trained on all of Kinetics-400
configs/msta.py:fewshot_DATA[_kK]                    K videos per class, of `SHOTS`; or 16
configs/msta.py:base2novel_DATA                      16 videos of each base class, three samplings
configs/msta.py:..._METHOD                           each with another method, of `METHODS`
configs/msta.py:base2novel_k400_NAME                 Tables 6 and 7, one of `ABLATIONS`
configs/msta.py:full_k400_NAME                       published weights, one of `PUBLISHED`
configs/msta.py:own                                  your videos, data.train.manifest

The paper has no published code. Hyper-parameters are those of its Table 1.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from vlt import configuration

from . import common
from .recognition_methods import (
    ADAPTFORMER,
    CLIP,
    DESCRIBED,
    FROZEN,
    LORA,
    METHODS,
    NO_DESCRIPTIONS,
    NO_LOSS,
    RECIPES,
    ST_ADAPTER,
    trained,
)

FRAMES = 8
ADAPTERS = r".*/msta/.*|shared_MSTA/.*"
TEMPLATE = "a video of {}."
# Data set: number of classes, and of those in its base half.
CLASSES = {"hmdb51": (51, 26), "ucf101": (101, 51), "ssv2": (174, 87), "k400": (400, 200)}
FEW_SHOT = ("hmdb51", "ucf101", "ssv2")
SHOTS = (2, 4, 8, 16)
K400_STEPS = 939  # per epoch: about 240,400 videos / 256

AUGMENTATION = {
    "random_resized_crop": {"size": 224},
    "flip": 0.5,
    "jitter": {
        "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1,
        "probability": 0.8, "per_frame": True,
    },
    "grayscale": 0.2,
}  # fmt: skip
ONE_VIEW = {"resize": 256, "crop": 224}
THREE_CROPS = {"resize": 224, "three_crops": 224}


def base(
    bottleneck: int, scale: float, layers: tuple[int, ...], classes: int, described: str
) -> ConfigDict:
    """MSTA over ViCLIP-B/16. described: part of the names of the files of descriptions."""
    config = common.base()
    config.model.update(
        checkpoint="checkpoints/viclip_b16",
        size="viclip_b16",
        methods=("msta",),
        msta={
            "bottleneck": bottleneck,
            "scale": scale,
            "layers": layers,
            "text_layers": (),
            "shared": True,
            "towers": ("visual", "text"),
        },
        adaptformer=ADAPTFORMER,
        lora=LORA,
        st_adapter=ST_ADAPTER,
        neighbour_attention={},
        frames=FRAMES,
        context=32,
        dtype="auto",
    )
    config.rules = trained(ADAPTERS)
    config.task = common.recognition_task(
        classes,
        template=TEMPLATE,
        descriptions=descriptions(described),
        consistency=1.0,
    )
    return config


def descriptions(described: str, kinds: str = "st", sentences: int = 2) -> tuple[str, ...]:
    """Files of spatial (s) and temporal (t) descriptions, as ETL4Video names them."""
    return tuple(
        f"data/descriptions/{sentences}_{kind}_description_{described}.json" for kind in kinds
    )


def train_on(config: ConfigDict, data: str, batch: int, epochs: int, steps: int) -> None:
    """Sets training. data: manifest without its suffix. steps: steps of an epoch."""
    config.data.train = common.videos(
        f"{data}.jsonl", "random_segments", FRAMES, batch, transform=AUGMENTATION
    )
    config.data.workers = 16
    warmup = 5 / epochs
    config.optimizer.schedule = {"name": "cosine", "warmup": warmup, "final": 0.01}
    config.train.update(steps=epochs * steps, checkpoint_every=steps)


def test_on(data: str, protocol: str, classes: str, **options: Any) -> ConfigDict:
    """One central view, as in all protocols but `k400`."""
    section = {"transform": ONE_VIEW, "classes": classes} | options
    clips, sampler = section.pop("clips", 1), section.pop("sampler", "segment_centre")
    videos = common.videos(f"{data}.jsonl", sampler, FRAMES, 32 // clips, **section)
    found = common.recognition(videos, protocol, clips=clips)
    found.template = TEMPLATE
    return found


def kinetics() -> ConfigDict:
    """Trained on all of Kinetics-400."""
    config = base(128, 0.001, (), CLASSES["k400"][0], "k400")
    config.optimizer.update(lr=8e-3)
    train_on(config, "data/k400/train", batch=256, epochs=100, steps=K400_STEPS)
    config.data.train.classes = "data/k400/classes.txt"
    return config


def zero_shot() -> ConfigDict:
    """Tested on data sets that it was not trained on: three splits of each of three."""
    config = kinetics()
    for split in (1, 2, 3):
        for data in ("hmdb51", "ucf101"):
            config.evals[f"{data}_{split}"] = test_on(
                f"data/{data}/val{split}", f"{data}_zero_shot_{split}", f"data/{data}/classes.txt"
            )
        test = f"data/k400/zero_shot_{split}"
        config.evals[f"k600_{split}"] = test_on(
            test, f"k600_zero_shot_{split}", f"{test}_classes.txt"
        )
    config.table = tuple(
        (f"{data}_zero_shot/{number}", f"{data} {number}")
        for data in ("hmdb51", "ucf101", "k600")
        for number in ("mean", "deviation")
    )
    return config


def fully_supervised() -> ConfigDict:
    """Tested on Kinetics-400 itself: 4 clips, drawn as in training, x 3 crops."""
    config = kinetics()
    config.evals.k400 = test_on(
        "data/k400/val",
        "k400",
        "data/k400/classes.txt",
        clips=4,
        sampler="random_segments",
        transform=THREE_CROPS,
    )
    config.table = (("k400/top1", "top-1"), ("k400/top5", "top-5"), ("k400/protocol", "protocol"))
    return config


def few_shot(data: str, shots: int = 16) -> ConfigDict:
    """A few videos of every class."""
    classes = CLASSES[data][0]
    config = base(128, 0.005, (7, 8, 9, 10, 11), classes, DESCRIBED[data])
    config.optimizer.update(lr=1e-3)
    folder, names = f"data/{data}", f"data/{data}/classes.txt"
    train_on(config, f"{folder}/few_shot_{shots}", 32, epochs=50, steps=classes * shots // 32)
    config.data.train.classes = names
    test = "val" if data == "ssv2" else "val1"
    config.evals[data] = test_on(f"{folder}/{test}", f"{data}_few_shot_{shots}", names)
    config.table = ((f"{data}/top1", "top-1"), (f"{data}/top5", "top-5"))
    return config


def base_to_novel(data: str) -> ConfigDict:
    """Trained on base classes; tested on both halves, each over its own classes."""
    classes = CLASSES[data][1]
    config = base(256, 0.005, (), classes, f"{DESCRIBED[data]}_base")
    config.optimizer.update(lr=1e-3)
    folder = f"data/{data}"
    train_on(config, f"{folder}/base_train_s1", 32, epochs=11, steps=classes * 16 // 32)
    config.data.train.classes = f"{folder}/base_classes.txt"
    for part in ("base", "novel"):
        config.evals[part] = test_on(
            f"{folder}/{part}_val", f"{data}_{part}", f"{folder}/{part}_classes.txt"
        )
    config.repeats = tuple(
        (f"s{n}", {"data.train.manifest": f"{folder}/base_train_s{n}.jsonl"}) for n in (1, 2, 3)
    )
    config.table = base_to_novel_table(data)
    return config


def base_to_novel_table(data: str) -> tuple[tuple[str, str], ...]:
    """Columns: both halves and their harmonic mean."""
    return (
        ("base/top1", "base"),
        ("novel/top1", "novel"),
        (f"{data}_base_to_novel/harmonic_mean", "HM"),
    )


def own_videos() -> ConfigDict:
    """Trains on any manifest with `video` and `label`, whose labels are the classes; tests on the
    same videos unless `evals.own.manifest` names others."""
    config = base(128, 0.005, (7, 8, 9, 10, 11), 0, "")
    config.task.update(NO_DESCRIPTIONS)
    config.optimizer.update(lr=1e-3, schedule={"name": "cosine", "warmup": 0.1, "final": 0.01})
    config.data.train = common.videos(
        common.OWN, "random_segments", FRAMES, 16, transform=AUGMENTATION
    )
    common.own_data(config, 16, test_on("data/own/train", "own_data", ""))
    config.train.update(steps=1000, checkpoint_every=500)
    config.table = (("own/top1", "top-1"), ("own/top5", "top-5"), ("own/mean_class", "mean class"))
    return config


K400_BASE = "k400_base"
ABLATIONS: dict[str, dict[str, Any]] = {
    "clip": CLIP,
    "l_only": {"model.msta.towers": ("text",)},
    "v_only": NO_LOSS | {"model.msta.towers": ("visual",)},
    "no_shared": {"model.msta.shared": False},
    **{f"m{width}": {"model.msta.bottleneck": width} for width in (64, 128, 512)},
    **{f"lam{name}": {"model.msta.scale": scale} for name, scale in
       (("001", 0.001), ("01", 0.01), ("05", 0.05))},
    **{f"alpha{name}": {"task.consistency": alpha} for name, alpha in (("01", 0.1), ("50", 5.0))},
    **{f"n{n}": {"task.descriptions": descriptions(K400_BASE, sentences=n)} for n in (4, 8)},
    **{f"layers{first}_{last}": {"model.msta.layers": tuple(range(first - 1, last))}
       for first, last in ((1, 6), (7, 12), (8, 12), (10, 12))},
    "no_des": NO_LOSS,
    "no_spatio": {"task.descriptions": descriptions(K400_BASE, "t")},
    "no_temporal": {"task.descriptions": descriptions(K400_BASE, "s")},
}  # fmt: skip


def changed(make: Callable[[], ConfigDict], overrides: Mapping[str, Any]) -> ConfigDict:
    """The config that `make` returns, with overrides."""
    return configuration.apply_overrides(make(), dict(overrides))


def compared(protocol: str, name: str) -> ConfigDict:
    """A protocol with another method of `METHODS`, by that method's recipe if it has one."""
    config = changed(PROTOCOLS[protocol], METHODS[name])
    recipe = RECIPES.get(name)
    return configuration.apply_overrides(config, recipe(protocol, config)) if recipe else config


# Weights for Kinetics-400 published by their authors: method whose recipe evaluates them, folder,
# and size.
PUBLISHED = {
    "xclip_published": ("xclip", "xclip_b16", "clip_b16"),
    "vitaclip_weights": ("vitaclip_published", "vita_clip_b16", "vita_clip_b16"),
    "actionclip_published": ("actionclip", "actionclip_b16", "clip_b16"),
}


def published(name: str) -> ConfigDict:
    """Weights of `PUBLISHED`, evaluated as they are."""
    method, folder, size = PUBLISHED[name]
    model = {"checkpoint": f"checkpoints/{folder}", "size": size, "methods": ()}
    overrides = {f"model.{key}": value for key, value in model.items()}
    still = {"rules": (FROZEN,), "train.steps": 0}
    return configuration.apply_overrides(compared("full_k400", method), overrides | still)


SHAPES = "moving_shapes:actions"


def moving_shapes() -> ConfigDict:
    """Actions of moving shapes: trained on base classes; novel ones have the same motions."""
    config = base(48, 1.0, (), 24, "")
    config.model.update(checkpoint="tiny_viclip", size="tiny_viclip", context=16, dtype="float32")
    # The text tower has two blocks, the vision tower four.
    config.model.msta.update(layers=(2, 3), text_layers=(0, 1))
    config.model.adaptformer.bottleneck = 48
    config.model.lora.rank = 16
    config.task.update(template="{}", **NO_DESCRIPTIONS)
    config.optimizer.update(lr=6e-3, b2=0.999, clip=1.0, schedule={"name": "cosine", "warmup": 0.1})
    data = f"{SHAPES}:train:2160"
    config.data.train = common.videos(
        f"{data}:base.jsonl", "linspace", FRAMES, 32,
        # Changes nothing in the generated clips; meant for your own videos.
        transform={"resize": 32, "crop": 32},
        classes=f"{data}:base_classes.txt", cache=True,
    )  # fmt: skip
    test = f"{SHAPES}:test:900"
    for part in ("base", "novel"):
        videos = common.videos(f"{test}:{part}.jsonl", "linspace", FRAMES, 40, cache=True)
        config.evals[part] = common.recognition(videos, f"moving_shapes_{part}")
        config.evals[part].classes = f"{test}:{part}_classes.txt"
    config.train.update(steps=500, log_every=50, checkpoint_every=500)
    config.table = base_to_novel_table("moving_shapes")
    config.repeats = tuple((f"seed {seed}", {"seed": seed}) for seed in (0, 1, 2))
    told = tuple(f"{data}:base_{kind}.json" for kind in ("spatial", "temporal"))
    config.compare = (
        ("zero-shot tiny ViCLIP", METHODS["frozen"]),
        ("AdaptFormer", METHODS["adaptformer"]),
        ("LoRA", METHODS["lora"]),
        ("MSTA", {}),
        ("MSTA, consistency loss", {"task.descriptions": told, "task.consistency": 1.0}),
    )
    return config


TINY_CLIP = {"model.size": "tiny_clip", "model.checkpoint": "tiny_clip"}


def on_tiny_clip(name: str, lr: float, **options: Any) -> dict[str, Any]:
    """A method of `METHODS` over the tiny CLIP, with its own rate and options that fit its sizes,
    given as overrides with `__` for a dot. Clips of so few pixels are not mixed."""
    own = {key.replace("__", "."): value for key, value in options.items()}
    plain = {"task.mixup": 0.0, "task.cutmix": 0.0, "task.template": "{}", "model.context": 16}
    return METHODS[name] | TINY_CLIP | plain | {"optimizer.lr": lr} | own


def described_shapes() -> dict[str, Any]:
    """Sentences of each kind about the classes of moving shapes, as options of `on_tiny_clip`."""
    parts = {"task": f"{SHAPES}:train:2160:base"}
    parts |= {f"evals__{part}": f"{SHAPES}:test:900:{part}" for part in ("base", "novel")}
    found: dict[str, Any] = {}
    for section, part in parts.items():
        files = tuple(f"{part}_{kind}.json" for kind in ("spatial", "temporal"))
        found |= {f"{section}__sentences": files, f"{section}__sentence_templates": ("{}", "{}")}
    return found


def every_method() -> ConfigDict:
    """All recognition methods on actions of moving shapes; those made for CLIP use the tiny CLIP.

    Rates are ours: 3e-4 for whole towers, 3e-3 for new leaves beside them. Prompts for videos need
    a CLIP that was first trained on videos; here it was trained on stills.
    """
    config = moving_shapes()
    config.table = (("inspect/video_gmacs", "GMACs", ".4f"), *config.table)
    prompts = {f"model__vificlip__{t}_{k}": n for t in ("visual", "text")
               for k, n in (("tokens", 4), ("depth", 2))}  # fmt: skip
    rows = {
        "zero-shot tiny CLIP": METHODS["frozen"] | TINY_CLIP,
        "ViFi-CLIP": on_tiny_clip("vificlip", 3e-4),
        "ViFi-CLIP's prompts": on_tiny_clip("vificlip_prompts", 3e-3, model__context=12, **prompts),
        "Open-VCLIP": on_tiny_clip("openvclip", 3e-4, task__templates=""),
        "ActionCLIP": on_tiny_clip(
            "actionclip", 3e-4, task__templates="", model__actionclip__layers=2
        ),
        "X-CLIP": on_tiny_clip("xclip", 3e-4),
        "Vita-CLIP": on_tiny_clip(
            "vitaclip", 3e-3, model__vita_clip__text_prompts=4, model__context=12
        ),
        "MoTE": on_tiny_clip(
            "mote", 3e-4, task__templates="", model__mote__classes=24, model__mote__layers=2
        ),
        "OST": on_tiny_clip("ost", 3e-4, **described_shapes()),
    }
    config.compare = (*config.compare, *rows.items())
    return config


PROTOCOLS: dict[str, Callable[[], ConfigDict]] = {
    "zeroshot_k400": zero_shot,
    "full_k400": fully_supervised,
    **{
        f"fewshot_{data}" + ("" if shots == 16 else f"_k{shots}"): functools.partial(
            few_shot, data, shots
        )
        for data in FEW_SHOT
        for shots in SHOTS
    },
    **{f"base2novel_{data}": functools.partial(base_to_novel, data) for data in CLASSES},
}
VARIANTS: dict[str, Callable[[], ConfigDict]] = {
    "": moving_shapes,
    "all": every_method,
    "own": own_videos,
    **PROTOCOLS,
    **{
        f"{protocol}_{name}": functools.partial(compared, protocol, name)
        for protocol in PROTOCOLS
        for name in METHODS
    },
    **{
        f"base2novel_k400_{name}": functools.partial(
            changed, PROTOCOLS["base2novel_k400"], overrides
        )
        for name, overrides in ABLATIONS.items()
    },
    **{f"full_k400_{name}": functools.partial(published, name) for name in PUBLISHED},
}


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant; `VARIANTS` lists them."""
    return configuration.choose_variant(VARIANTS, variant)
