"""Token Mixing and its benchmark of fine-tuning methods over BLIP (Liu et al., Tables 1 to 6).

configs/token_mixing.py                     captions of moving shapes over the tiny BLIP
configs/token_mixing.py:all                 the same with all methods, Tables 3 and 4, and Figure 4
configs/token_mixing.py:DATASET_METHOD      captioning; one of `CAPTIONING` and of `METHODS`
configs/token_mixing.py:msvd_mix_NAME       Table 4, one of `PARTS`, and Figure 4, at_LAYER
configs/token_mixing.py:DATASET_ret_METHOD  retrieval; one of `RETRIEVAL` and of `RETRIEVAL_METHODS`
configs/token_mixing.py:msrvtt_qa           question answering
configs/token_mixing.py:..._l16             each of these over BLIP-L
configs/token_mixing.py:own                 captions of your videos, data.train.manifest

What is trained follows the released code. The paper counts only weights of the video encoder;
`vlt.inspect` prints these as trainable_weights_video. Two counts of the paper are not reproduced:
Full has 226.51 M there and 113.2 here, without the text model (226.49 with its layers); and BitFit
has 0.26 M there and 0 here, because biases are not weights (`trainable_params_video` and
`trainable_params` count them).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from vlt import configuration
from vlt.models.sizes import SIZES

from . import common

DECAY = {"weight_decay": 0.05}  # on every tensor, biases and norms too
FROZEN = (".*", "frozen")
# Figure 2's "linear projection", as in the released rule, and the language head, to which the
# embeddings are tied.
LP = r"visual/(patch_embedding/.*|class_embedding|position_embedding|post_norm/.*)"
LH = r"text/(token_embedding/.*|position_embedding|embedding_norm/.*|lm_head/.*)"
# For retrieval: the released rule never matches the text encoder, so all of it is trained.
RETRIEVAL_REST = r"visual/projection/.*|text/.*|text_projection/.*|itm_head/.*|temperature"
MIXING = {"token_mixing": {"keys": "all_cls", "cross_factor": 0.8, "layers": ()}}
OVER_TIME = {"temporal_transformer": {"layers": 4, "temporal_position": "none"}}
# whole_block=True has as many weights as the paper counts, 84.9 M.
DUAL = {"dual_attention": {"gate": "tanh", "whole_block": False, "temporal_position": "none"}}
# The rows of Table 1: methods with their options, and what each adds to what is trained; Full and
# fully fine-tuned mixing train everything.
METHODS: dict[str, tuple[dict[str, dict[str, Any]], str]] = {
    "mix": (MIXING, r"visual/blocks_{last}/.*"),
    "full_mix": (MIXING, ".*"),
    "full": (OVER_TIME, ".*"),
    "temporal": (OVER_TIME, r"visual/temporal_transformer/.*"),
    "dual": (DUAL, r"visual/.*/temporal_(attention|block|gate|position).*"),
    "st_adapter": (
        {"st_adapter": {"width": 384, "kernel": (3, 3, 3), "depthwise": False}},
        r"visual/.*/st_adapter/.*",
    ),
    "adapter": (
        {
            "adapter": {
                "positions": ("before_mlp",), "bottleneck": 96, "activation": "sigmoid",
                "middle": True, "init_std": 0.02, "towers": ("visual",),
            }
        },
        r"visual/.*/adapter_before_mlp/.*",
    ),
    "bitfit": ({}, ".*/bias"),
}  # fmt: skip
RETRIEVAL_METHODS = ("mix", "full", "temporal", "adapter", "bitfit", "full_mix")
# Table 4: what is trained beside or instead of the whole mixing block.
BLOCK = r"visual/blocks_{last}/"
PARTS: dict[str, tuple[str, ...]] = {
    "no_lp_lh": (rf"{BLOCK}.*",),
    "no_lh": (rf"{BLOCK}.*", LP),
    "no_lp": (rf"{BLOCK}.*", LH),
    "no_block": (LP, LH),
    "attn": (rf"{BLOCK}(norm1|attention)/.*", LP, LH),
    "ffn": (rf"{BLOCK}(norm2|mlp)/.*", LP, LH),
}


# By data set: manifests, protocol, and the run of its published config; the steps of an epoch are
# the pairs of a video and a caption divided by the batch size.
CAPTIONING: dict[str, dict[str, Any]] = {
    "msvd": {"folder": "msvd", "beams": 3, "epochs": 6, "epoch": 381},
    "msrvtt": {"folder": "msrvtt_captions", "beams": 5, "epochs": 5, "epoch": 1017},
    "vatex": {"folder": "vatex", "beams": 5, "epochs": 5, "epoch": 2030},
}
RETRIEVAL: dict[str, dict[str, Any]] = {
    "msrvtt": {"protocol": "msrvtt_1ka_9k", "train": "train_9k", "test": "test_1ka", "epoch": 2812},
    "lsmdc": {"protocol": "lsmdc", "train": "train", "test": "test", "epoch": 1579},
}
FRAMES = 8
RESIZE = {"resize": (224, 224)}


def rules(patterns: tuple[str, ...], last: int) -> tuple[tuple[str, Any], ...]:
    """Trains every leaf that matches, with weight decay; {last} stands for block `last`."""
    trained = tuple((pattern.replace("{last}", str(last)), DECAY) for pattern in patterns)
    return trained if ".*" in patterns else (*trained, FROZEN)


def trained_patterns(method: str, rest: tuple[str, ...]) -> tuple[str, ...]:
    """What a row of Table 1 trains: its own leaves and `rest`; BitFit trains only biases."""
    own = METHODS[method][1]
    return (own,) if own in (".*", ".*/bias") else (own, *rest)


def base(kind: str, large: bool, weights: str, methods: Mapping[str, Any]) -> ConfigDict:
    """Model and AdamW of the published runs; callers add decay on every tensor and the schedule."""
    config = common.base()
    config.seed = 42
    size = "l16" if large else "b16"
    config.model.update(
        checkpoint=f"checkpoints/{weights}_{size}",
        size=f"blip_{size}_{kind}",
        methods=tuple(methods),
        frames=FRAMES,
        context=40,
        dtype="auto",
        # The published code always uses 0.1 for the large model: `0.1 or rate`.
        drop_path=0.1 if large else 0.0,
        **{name: dict(options) for name, options in methods.items()},
    )
    config.optimizer.update(lr=1e-5, b2=0.999)
    config.data.workers = 16
    return config


def captioning(dataset: str, method: str, large: bool = False) -> ConfigDict:
    """A row of Table 1: fine-tuned from BLIP's COCO captioner, with prompt ''."""
    run = CAPTIONING[dataset]
    config = base("captioner", large, "blip_caption", METHODS[method][0])
    last = SIZES[config.model.size].visual.layers - 1
    config.rules = rules(trained_patterns(method, (LP, LH)), last)
    _schedule(config, run["epochs"], run["epoch"])
    config.task = common.captioning_task()
    text = {"clean": "blip_caption", "max_words": 30}
    data = f"data/{run['folder']}"
    config.data.train = common.videos(
        f"{data}/train.jsonl", "random_frames", FRAMES, 128, transform=RESIZE, **text
    )
    # Published: `published_uniform`, whose step is cut to whole frames, which drops a video's end;
    # and the best epoch by CIDEr + BLEU-4 on the test set itself.
    test = functools.partial(
        common.videos, sampler="segment_centre", frames=FRAMES, batch_size=32, transform=RESIZE
    )
    search = {"beams": run["beams"]}
    protocol = f"{dataset}_captions"
    config.evals = {dataset: common.captioning(protocol, test(f"{data}/test.jsonl"), **search)}
    config.train.best_metric = f"{dataset}/CIDEr"
    config.table = caption_table(dataset)
    return config


def caption_table(evaluation: str) -> tuple[tuple[str, str], ...]:
    """Columns of Table 1."""
    names = ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "protocol")
    return tuple((f"{evaluation}/{name}", name) for name in names)


def retrieval(dataset: str, method: str, large: bool = False) -> ConfigDict:
    """A row of Table 2: fine-tuned from BLIP's COCO retrieval model."""
    run = RETRIEVAL[dataset]
    config = base("retriever", large, "blip_retrieval", METHODS[method][0])
    config.model.context = 35
    last = SIZES[config.model.size].visual.layers - 1
    config.rules = rules(trained_patterns(method, (LP, RETRIEVAL_REST)), last)
    _schedule(config, 6, run["epoch"])
    config.task = common.matching_task(ramp=run["epoch"])
    videos = functools.partial(
        common.videos, frames=FRAMES, transform=RESIZE, clean="blip_caption", max_words=30
    )
    data = f"data/{dataset}"
    config.data.train = videos(f"{data}/{run['train']}.jsonl", "random_frames", batch_size=64)
    # Published: random frames in testing, too.
    test = videos(f"{data}/{run['test']}.jsonl", "segment_centre", batch_size=32)
    config.evals = {dataset: common.matching(run["protocol"], test)}
    config.train.best_metric = f"{dataset}/t2v_R@1"
    measures = ("R@1", "R@5", "R@10", "R-Sum")
    config.table = tuple(
        (f"{dataset}/{d}_{m}", f"{d} {m}") for d in ("t2v", "v2t") for m in measures
    )
    return config


def question_answering(large: bool = False) -> ConfigDict:
    """MSRVTT-QA, all weights trained, from BLIP's VQA model; not in the paper."""
    config = base("answerer", large, "blip_vqa", METHODS["full_mix"][0])
    config.model.update(context=35, drop_path=0.1)
    config.rules = rules((".*",), 0)
    config.optimizer.lr = 2e-5
    _schedule(config, 10, 1238)
    config.task = common.answering_task()
    videos = functools.partial(common.videos, frames=FRAMES, clean="blip_question", max_words=50)
    augment = {
        "random_resized_crop": {"size": 224, "area": (0.5, 1.0)},
        "flip": 0.5,
        "blip_augment": {},
        "per_frame": True,
    }
    config.data.train = videos(
        "data/msrvtt_qa/train.jsonl", "random_frames", batch_size=128, transform=augment
    )
    test = videos("data/msrvtt_qa/test.jsonl", "segment_centre", batch_size=64, transform=RESIZE)
    config.evals = {"msrvtt_qa": common.answering("msrvtt_qa", "data/msrvtt_qa/answers.txt", test)}
    config.train.best_metric = "msrvtt_qa/accuracy"
    config.table = (("msrvtt_qa/accuracy", "accuracy"),)
    return config


def own_videos() -> ConfigDict:
    """Captioning by Mix, trained on any manifest with `video` and `caption`; evaluated on the same
    videos unless `evals.own.manifest` names others."""
    config = captioning("msrvtt", "mix")
    test = common.videos(common.OWN, "segment_centre", FRAMES, 32, transform=RESIZE)
    common.own_data(config, 16, common.captioning("own_data", test))
    _schedule(config, 5, 200)
    config.train.best_metric = "own/CIDEr"
    config.table = caption_table("own")
    return config


def _schedule(config: ConfigDict, epochs: int, steps: int) -> None:
    config.optimizer.schedule = {"name": "cosine_by_epoch", "epochs": float(epochs)}
    config.train.update(steps=epochs * steps, eval_every=steps, checkpoint_every=steps)


def part(name: str, large: bool = False) -> ConfigDict:
    """A row of Table 4: on MSVD, only parts of what Mix trains."""
    config = captioning("msvd", "mix", large)
    config.rules = rules(PARTS[name], SIZES[config.model.size].visual.layers - 1)
    return config


def mixed_at(layer: int) -> ConfigDict:
    """A point in Figure 4: mixing in and training of another block, counted from 1."""
    config = captioning("msvd", "mix")
    config.model.token_mixing.layers = (layer - 1,)
    config.rules = rules((*trained_patterns("mix", (LP, LH)),), layer - 1)
    return config


def moving_shapes() -> ConfigDict:
    """Captions of generated clips; compares the benchmark's methods in minutes."""
    config = common.base()
    adapter = METHODS["adapter"][0]["adapter"]
    config.model.update(
        checkpoint="tiny_blip",
        size="tiny_blip",
        methods=("token_mixing",),
        context=16,
        **MIXING,
        adapter=adapter | {"bottleneck": 12},  # an eighth of the width, as at full size
        st_adapter={"width": 48, "kernel": (3, 3, 3), "depthwise": False},
        temporal_transformer={"layers": 2, "temporal_position": "none"},
    )
    config.rules = tiny_rules("mix")
    config.optimizer.update(lr=2e-3, b2=0.999, clip=1.0, schedule={"name": "cosine", "warmup": 0.1})
    config.task = common.captioning_task()
    config.data.train = common.moving_clips(frames=8)
    # If a quarter of captions tell looks, as for dual encoders, Mix tells 64% of twins, not 87%.
    config.data.train.captions = ("caption",)
    clips = common.captioning("moving_shapes", common.gallery(frames=8), max_length=16)
    config.evals = {"clips": clips, "twins": common.twins("caption_twins", frames=8)}
    config.table = (("peak_mb", "peak MB", ",.0f"), ("clips/CIDEr", "CIDEr"), *common.TWINS)
    config.more_tables = common.twins_by_family()
    config.train.update(steps=400, log_every=50, checkpoint_every=200)
    learned = {"model.temporal_transformer.temporal_position": "learned"}
    config.compare = (
        tiny_row("BitFit", "bitfit"),
        tiny_row("Adapter", "adapter"),
        tiny_row("ST-Adapter", "st_adapter"),
        tiny_row("Temporal FT", "temporal"),
        tiny_row("Temporal FT, learned positions", "temporal", learned),
        tiny_row("Mix", "mix"),
        tiny_row("Mix, full fine-tuning", "full_mix"),
    )
    return config


def tiny_row(title: str, method: str, changes: Mapping[str, Any] | None = None) -> tuple[str, Any]:
    """A row of the comparison on moving shapes."""
    row = {"model.methods": tuple(METHODS[method][0]), "rules": tiny_rules(method)}
    return title, row | dict(changes or {})


TINY_LAYERS = SIZES["tiny_blip"].visual.layers


def tiny_rules(method: str, last: int = TINY_LAYERS - 1) -> tuple[tuple[str, Any], ...]:
    """Rules as for Table 1, for the tiny BLIP. last: index of the block that mixes."""
    return rules(trained_patterns(method, (LP, LH)), last)


def every_row() -> ConfigDict:
    """`moving_shapes` with the methods that it leaves out and the paper's ablations."""
    config = moving_shapes()
    none = {"model.methods": ()}
    learned = {"model.dual_attention.temporal_position": "learned"}
    config.model.dual_attention = DUAL["dual_attention"]
    config.compare = (
        *config.compare,
        tiny_row("Dual-channel attention", "dual"),
        tiny_row("Dual-channel attention, learned positions", "dual", learned),
        tiny_row("ViViT, full fine-tuning", "full"),
        tiny_row("last block without mixing", "mix", none),  # Table 3
        tiny_row("full fine-tuning without mixing", "full_mix", none),
        *(  # Table 4
            (f"Mix, {name}", {"rules": rules(PARTS[name], TINY_LAYERS - 1)}) for name in PARTS
        ),
        *(  # Figure 4; the last block is Mix
            (
                f"Mix at block {layer + 1}",
                {"model.token_mixing.layers": (layer,), "rules": tiny_rules("mix", layer)},
            )
            for layer in range(TINY_LAYERS - 1)
        ),
    )
    return config


LARGE = {"": False, "_l16": True}  # by suffix
VARIANTS: dict[str, Callable[[], ConfigDict]] = {
    "": moving_shapes,
    "all": every_row,
    **{
        f"{dataset}_{method}{suffix}": functools.partial(captioning, dataset, method, large)
        for suffix, large in LARGE.items()
        for dataset in CAPTIONING
        for method in METHODS
    },
    **{
        f"msvd_mix_{name}{suffix}": functools.partial(part, name, large)
        for suffix, large in LARGE.items()
        for name in PARTS
    },
    **{f"msvd_mix_at_{layer}": functools.partial(mixed_at, layer) for layer in range(1, 13)},
    **{
        f"{dataset}_ret_{method}{suffix}": functools.partial(retrieval, dataset, method, large)
        for suffix, large in LARGE.items()
        for dataset in RETRIEVAL
        for method in RETRIEVAL_METHODS
    },
    **{
        f"msrvtt_qa{suffix}": functools.partial(question_answering, large)
        for suffix, large in LARGE.items()
    },
    "own": own_videos,
}


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant; `VARIANTS` lists them."""
    return configuration.choose_variant(VARIANTS, variant)
