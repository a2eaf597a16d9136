"""Action recognition methods that MSTA is compared with, as overrides of its recipe.

Where the paper states no learning rate, adapters take MSTA's and whole towers take 1e-5. A method
with a published recipe of its own has it in `RECIPES`.
"""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

# Names in the files of descriptions; each zero-shot split of K600 has 160 classes of its own.
DESCRIBED = {"hmdb51": "hmdb", "ucf101": "ucf_101", "ssv2": "ssv2", "k400": "k400"}
DESCRIBED |= {split: split for split in ("k600_1", "k600_2", "k600_3")}
KINETICS = ("zeroshot_k400", "full_k400")  # protocols that train on all of it
SENTENCES = ("This is a video about {}", "A video of {class} usually includes {}")  # OST's
DECAY = {"weight_decay": 1e-3}  # on every tensor, as in the code that MSTA's is built on
FROZEN = (".*", "frozen")
CLIP = {"model.size": "clip_b16", "model.checkpoint": "checkpoints/clip_b16"}


def trained(pattern: str) -> tuple[tuple[str, Any], ...]:
    """Rules that train only the leaves that match."""
    return ((pattern, DECAY),) if pattern == ".*" else ((pattern, DECAY), FROZEN)


# Options of the adapters at full size; the tiny model uses a fraction of these widths.
ADAPTFORMER = {"bottleneck": 256, "scale": 0.1, "dropout": 0.1, "towers": ("visual", "text")}
# The paper's 9.4M parameters do not determine a setting; this one, ours, has 9,437,184.
LORA = {"rank": 256, "targets": ("query", "value"), "share_a": False, "towers": ("visual",)}
ST_ADAPTER = {
    "width": 384, "kernel": (3, 1, 1), "depthwise": True, "positions": ("before_mlp",)
}  # fmt: skip
NO_DESCRIPTIONS: dict[str, Any] = {"descriptions": (), "consistency": 0.0}
NO_LOSS: dict[str, Any] = {f"task.{key}": value for key, value in NO_DESCRIPTIONS.items()}
BARE: dict[str, Any] = NO_LOSS | {"model.methods": ()}
WHOLE: dict[str, Any] = BARE | {"rules": trained(".*"), "optimizer.lr": 1e-5}
STILL: dict[str, Any] = BARE | {"rules": (FROZEN,), "train.steps": 0, "repeats": ()}


def instead(name: str, pattern: str) -> dict[str, Any]:
    """Overrides that put another adapter in MSTA's place."""
    return NO_LOSS | {"model.methods": (name,), "rules": trained(pattern)}


# X-CLIP also trains the vision tower, at a tenth of the new leaves' rate; one-dimensional leaves,
# biases and position tables have no decay.
XCLIP_NEW = r"visual/blocks_\d+/xclip/|visual/xclip_\w+/|xclip_prompts/"
FLAT = r"(.*/)?(bias|scale|alpha|class_embedding|position_embedding)"
XCLIP_RULES: tuple[tuple[str, Any], ...] = (
    (f"({XCLIP_NEW}){FLAT}", {"lr": 10.0}),
    (f"({XCLIP_NEW}).*", {"lr": 10.0} | DECAY),
    (f"visual/{FLAT}", {}),
    ("visual/.*", DECAY),
    FROZEN,
)

# MoTE freezes two leaves: the weights that merge experts, zeros, and the texts of the classes.
MOTE_DECAY = {"weight_decay": 0.2}
MOTE_RULES = (
    (r"visual/mote/.*/fusion_weight|mote/classes", "frozen"),
    ("visual/mote/.*", MOTE_DECAY),
    ("visual/.*|logit_scale", MOTE_DECAY | {"lr": 0.07}),
    FROZEN,
)
VITA_DECAY = {"weight_decay": 0.05}
VITA_RULES = ((".*/vita_clip/.*|logit_scale", VITA_DECAY), FROZEN)
VITACLIP: dict[str, Any] = (
    BARE
    | CLIP
    | {
        "model.methods": ("vita_clip",),
        "model.vita_clip.text_prompts": 16,
        "model.context": 61,  # leaves room for 16 prompts
        "rules": VITA_RULES,
        "optimizer.b2": 0.999,
        "task.template": "{}.",
        "task.largest_scale": 0.0,
    }
)

# The text tower's word embedding; one-dimensional leaves of the vision tower have no decay.
WORDS = ("text/token_embedding/embedding", "frozen")
OPENVCLIP_RULES: tuple[Any, ...] = (
    (r"visual/(.*/)?(bias|scale|class_embedding)|logit_scale", {}),
    ("visual/.*", {"weight_decay": 0.01}),
    FROZEN,
)
A_PHOTO = "a photo of a {}."
TOWERS = ("visual", "text")
PERSON, ACTIONS = "person_templates.txt", "actionclip_templates.txt"
SOFT = {
    "task.label_smoothing": 0.1, "task.mixup": 0.8, "task.cutmix": 1.0, "task.largest_scale": 0.0,
}  # fmt: skip

METHODS: dict[str, dict[str, Any]] = {
    "nocc": NO_LOSS,
    "adaptformer": instead("adaptformer", ".*/adaptformer/.*"),
    "lora": instead("lora", ".*/lora_[ab]"),
    "st_adapter": instead("st_adapter", "visual/.*/st_adapter_mlp/.*"),
    "full": WHOLE | {"rules": (WORDS, (".*", DECAY))},  # all but the word embedding: 124.3M
    # The image model on separate frames: all of it trained but the word embedding, as the published
    # code starts from embedded words; or the vision tower with neighbours' keys and values.
    "vificlip": BARE | CLIP | SOFT | {"rules": (WORDS, (".*", DECAY)), "task.template": A_PHOTO},
    # Published with clips of 8 frames, 16 apart; here clips span the video, as in MSTA.
    "openvclip": BARE
    | CLIP
    | {
        "model.methods": ("neighbour_attention",),
        "rules": OPENVCLIP_RULES,
        "optimizer.clip": 1.0,
        "task.interpolation": {"largest": 0.6, "ratio": 0.5},
        "task.templates": PERSON,
        "task.largest_scale": 0.0,
    },
    "frozen": STILL,
    "frozen_clip": STILL | CLIP,
    # Published with ImageNet's pixel mean and deviation; here they are the checkpoint's.
    "xclip": BARE
    | CLIP
    | SOFT
    | {
        "model.methods": ("xclip",),
        "model.context": 77,
        "rules": XCLIP_RULES,
        "task.template": "{}",
    },
    "vitaclip": VITACLIP,
    # Its code trains by words in names, and cls_proj has none of them. Its default is 8 prompts.
    "vitaclip_published": VITACLIP
    | {
        "model.vita_clip.text_prompts": 8,
        "model.context": 69,
        "rules": ((r".*/vita_clip/cls_proj/.*", "frozen"), *VITA_RULES),
    },
    # Its zero-shot test takes 0.2 of CLIP's weights: vlt export --blend=checkpoints/clip_b16:0.2.
    "ost": WHOLE
    | CLIP
    | {
        "model.methods": ("ost",),
        "model.context": 77,
        "task.contrast": "sum",
        "task.largest_scale": 0.0,
        "task.sentence_templates": SENTENCES,
    },
    # Its tests take 0.01 of CLIP's weights: vlt export --blend=checkpoints/clip_b16:0.01.
    "mote": BARE
    | CLIP
    | {
        "model.methods": ("mote",),
        "model.context": 77,
        "rules": MOTE_RULES,
        "optimizer.b2": 0.999,
        "task.templates": PERSON,
        "task.losses": {"mote_merged": 0.5, "mote_distance": 0.1},
        "task.largest_scale": 0.0,
    },
    # ViFi-CLIP's second stage, which trains only prompts.
    "vificlip_prompts": BARE
    | CLIP
    | SOFT
    | {
        "model.checkpoint": "checkpoints/vificlip_b16_k400",
        "model.methods": ("vificlip",),
        "rules": trained(r".*/vificlip_prompt"),
        "task.template": A_PHOTO,
    },
    # MSTA's rows name no head; this is ActionCLIP's authors' choice.
    "actionclip": BARE
    | CLIP
    | {
        "model.methods": ("actionclip",),
        "model.context": 77,
        "rules": (
            (r"visual/actionclip/.*", {"lr": 10.0, "weight_decay": 0.2}),
            (".*", {"weight_decay": 0.2}),
        ),
        "task.templates": ACTIONS,
        "task.contrast": "mean",
        "task.largest_scale": 0.0,
    },
    # MoTE's published weights for Kinetics-400.
    "mote_published": STILL
    | CLIP
    | {"model.checkpoint": "checkpoints/mote_b16", "model.context": 77},
}


def schedule(
    config: ConfigDict, batch: int, epochs: int, lr: float, warmup: int = 5, final: float = 0.01
) -> dict[str, Any]:
    """Overrides of batch, length and rate: `warmup` epochs, then a cosine to `final` times `lr`."""
    epoch = config.train.checkpoint_every * config.data.train.batch_size // batch
    return {
        "data.train.batch_size": batch,
        "train.steps": epochs * epoch,
        "train.checkpoint_every": epoch,
        "optimizer.lr": lr,
        "optimizer.schedule": {"name": "cosine", "warmup": warmup / epochs, "final": final},
    }


def few_epochs(protocol: str) -> int:
    """ViFi-CLIP's number of epochs for 16 or fewer videos per class."""
    return 11 if protocol.startswith("base2novel") else 50


def named(config: ConfigDict, template: str) -> dict[str, Any]:
    """Overrides: all evaluations name classes in one template."""
    return {f"evals.{name}.template": template for name in config.evals}


def named_by_all(config: ConfigDict, templates: str, combine: str) -> dict[str, Any]:
    """Overrides: all evaluations name classes in a file of templates."""
    values = {"templates": templates, "combine": combine}
    return {f"evals.{name}.{key}": x for name in config.evals for key, x in values.items()}


def of_frames(config: ConfigDict, count: int) -> dict[str, Any]:
    """Overrides: another number of frames, everywhere."""
    sections = ("data.train", *(f"evals.{name}" for name in config.evals))
    return {"model.frames": count, **{f"{s}.sampler.frames": count for s in sections}}


def frames_of_table(protocol: str, config: ConfigDict) -> dict[str, Any]:
    """Overrides: 32 frames where MSTA's table has them for other methods, zero-shot."""
    return of_frames(config, 32) if protocol == "zeroshot_k400" else {}


def crops_of_scales(config: ConfigDict) -> dict[str, Any]:
    """Overrides: ViFi-CLIP's training crops, instead of `random_resized_crop`."""
    crop = {"resize": 256, "multi_scale_crop": 224}
    drawn = {k: v for k, v in config.data.train.transform.items() if k != "random_resized_crop"}
    return {"data.train.transform": crop | drawn}


def views(name: str, clips: int, transform: dict[str, Any]) -> dict[str, Any]:
    """Overrides: an evaluation reads `clips` evenly spaced clips of each video, one view each."""
    return {
        f"evals.{name}.sampler.clips": clips,
        f"evals.{name}.sampler.name": "segment_centre",
        f"evals.{name}.transform": transform,
    }


def sentence_files(described: str) -> tuple[str, ...]:
    """Files of spatial and temporal sentences, four of each per class."""
    return tuple(f"data/descriptions/4_{kind}_description_{described}.json" for kind in "st")


def xclip(protocol: str, config: ConfigDict) -> dict[str, Any]:
    """50 epochs on few-shot sets, and 32 frames zero-shot, as MSTA's table says; base-to-novel, for
    which nothing is published, is trained like few-shot but for MSTA's 11. Rates of new leaves end
    at a hundredth of their own peak; in the published code, at a hundredth of the tower's."""
    if protocol in KINETICS:
        trained = schedule(config, 256, 30, 8e-6)
    else:
        trained = schedule(config, 64, few_epochs(protocol), 2e-6)
    return (
        trained | frames_of_table(protocol, config) | named(config, "{}") | crops_of_scales(config)
    )


def vitaclip(protocol: str, config: ConfigDict) -> dict[str, Any]:
    """30,000 steps on Kinetics, without warm-up; on fewer videos, for which nothing is published,
    as many as MSTA. Published clips are 8 frames, 16 apart; MSTA's table has 32 zero-shot. Classes
    that are trained on have contexts; evaluations on other classes keep their usual template."""
    known = [n for n, test in config.evals.items() if test.classes == config.data.train.classes]
    found = {
        "model.vita_clip.classes": config.task.class_count,
        "optimizer.lr": 4e-4,
        "optimizer.schedule": {"name": "cosine"},
        "data.train.transform": {
            "rand_augment": {"ops": 4, "magnitude": 7, "deviation": 0.5},
            "random_resized_crop": {"size": 224},
            "interpolation": "bicubic",
        },
    } | {f"evals.{name}.template": "{}." for name in known}
    found |= frames_of_table(protocol, config)
    if protocol in KINETICS:
        found["train.steps"] = 30_000
    if protocol == "full_k400":
        view = {"resize": 224, "crop": 224, "interpolation": "bilinear"}
        found |= views("k400", 3, view)
    return found


def ost(protocol: str, config: ConfigDict) -> dict[str, Any]:
    """Four sentences of each kind; published with 32 frames, with 8 in MSTA's tables. Nothing is
    published for base-to-novel."""
    data = DESCRIBED[protocol.split("_")[1]]
    halves = {half: f"{data}_{half}" for half in ("base", "novel")}
    trained = halves["base"] if "base" in config.evals else data
    found = crops_of_scales(config) | {"task.sentences": sentence_files(trained)}
    for name in config.evals:
        described = halves.get(name) or DESCRIBED.get(name) or DESCRIBED[name.partition("_")[0]]
        found |= {
            f"evals.{name}.sentences": sentence_files(described),
            f"evals.{name}.sentence_templates": SENTENCES,
        }
    if protocol in KINETICS:
        return found | schedule(config, 256, 10, 8e-6)
    return found | schedule(config, 64, 11 if trained != data else 50, 5e-6)


def mote_tests(protocol: str, config: ConfigDict) -> dict[str, Any]:
    """MoTE's evaluations; zero-shot, of three clips per video."""
    found: dict[str, Any] = {}
    for name in config.evals:
        found |= {
            f"evals.{name}.templates": "person_templates.txt",
            f"evals.{name}.combine": "vectors",
            f"evals.{name}.scale": 1.0,
        }
        if protocol == "zeroshot_k400":
            found |= views(name, 3, {"resize": 224, "crop": 224})
    return found


def mote(protocol: str, config: ConfigDict) -> dict[str, Any]:
    """Texts in 28 templates; in each view, a softmax of unscaled cosines over classes. On fewer
    videos, for which nothing is published: 50 epochs, or 11 for base-to-novel."""
    found = mote_tests(protocol, config) | {
        "model.mote.classes": config.task.class_count,
        "data.train.transform": {
            "resize": 256, "random_resized_crop": {"size": 224}, "flip": 0.5, "grayscale": 0.2,
        },
    }  # fmt: skip
    if protocol in KINETICS:
        found |= schedule(config, 256, 30, 5e-5)
    else:
        found |= schedule(config, 64, 11 if protocol.startswith("base2novel") else 50, 5e-5)
    found["optimizer.schedule"] = found["optimizer.schedule"] | {"final": 0.0}
    return found


def vificlip(protocol: str, config: ConfigDict) -> dict[str, Any]:
    """Published with 32 frames; here with 32 where MSTA's table says so, zero-shot, and otherwise
    with as many as the other methods."""
    if protocol in KINETICS:
        trained = schedule(config, 256, 10, 8e-6)
    else:
        trained = schedule(config, 64, few_epochs(protocol), 2e-6)
    frames = frames_of_table(protocol, config)
    return trained | frames | named(config, A_PHOTO) | crops_of_scales(config)


def vificlip_prompts(protocol: str, config: ConfigDict) -> dict[str, Any]:
    """Base-to-novel has more prompts in fewer blocks. Starts from the first stage on Kinetics-400,
    unless the novel classes are Kinetics' own, which that stage has seen: then from an export of
    `base2novel_k400_vificlip`. On all of Kinetics nothing is published; options are few-shot's."""
    base = protocol.startswith("base2novel")
    tokens, depth, lr = (16, 9, 4e-2) if base else (10, 12, 8e-3)
    sizes = {"tokens": tokens, "depth": depth}
    prompts = {
        f"model.vificlip.{tower}_{key}": x
        for tower in ("visual", "text")
        for key, x in sizes.items()
    }
    stage = {"model.checkpoint": "checkpoints/vificlip_b16_k400_base"}
    own = stage if protocol == "base2novel_k400" else {}
    return vificlip(protocol, config) | {"optimizer.lr": lr} | prompts | own


def openvclip(protocol: str, config: ConfigDict) -> dict[str, Any]:
    """Published on all of Kinetics-400, with a rate for the batch of each machine, and tested on
    three clips per video. Its weights are then the mean over epochs (vlt export --average)."""
    epochs = 22 if protocol in KINETICS else few_epochs(protocol)
    trained = schedule(config, 64, epochs, 3.33e-6, warmup=2) | {"train.keep_last": epochs}
    tested = named_by_all(config, PERSON, "vectors")
    if protocol == "full_k400":
        tested |= views("k400", 3, {"resize": 224, "crop": 224})
    return trained | tested


def actionclip(protocol: str, config: ConfigDict) -> dict[str, Any]:
    """Published on all of Kinetics-400, tested in one view; on few videos it is trained like the
    methods around it."""
    kinetics = protocol in KINETICS
    batch, epochs = (128, 50) if kinetics else (64, few_epochs(protocol))
    trained = schedule(config, batch, epochs, 5e-6, final=0.0)
    drawn = {"rand_augment": {"ops": 2, "magnitude": 9.0, "deviation": 0.0}} if kinetics else {}
    tested = named_by_all(config, ACTIONS, "probabilities")
    scale = {f"evals.{name}.scale": 100.0 for name in config.evals}
    if protocol == "full_k400":
        tested |= views("k400", 1, {"resize": 256, "crop": 224})
    crops = {"data.train.transform": drawn | crops_of_scales(config)["data.train.transform"]}
    return trained | tested | scale | crops


# By method: overrides of its own recipe in a protocol of configs/msta.py.
RECIPES: dict[str, Callable[[str, ConfigDict], dict[str, Any]]] = {
    "frozen_clip": frames_of_table,
    "actionclip": actionclip,
    "openvclip": openvclip,
    "vificlip": vificlip,
    "vificlip_prompts": vificlip_prompts,
    "xclip": xclip,
    "vitaclip": vitaclip,
    "vitaclip_published": vitaclip,
    "ost": ost,
    "mote": mote,
    "mote_published": mote_tests,
}
