"""Fields and defaults that every config shares."""

from typing import Any

from ml_collections import ConfigDict

OWN = "data/own/train.csv"  # replaced by the manifest of your own videos


def base() -> ConfigDict:
    """A config that trains nothing yet; callers fill in model, rules, data and evaluations."""
    return ConfigDict(
        {
            "seed": 0,  # seeds new leaves, masks, dropout, and random choices of data
            "model": {
                "checkpoint": "",  # model folder, or a bundled model such as "tiny_clip"
                "size": "",  # name from vlt/models/sizes.py, if there is no checkpoint
                "methods": (),  # method names; the options of each are in a section of its name
                "tokenizer": "",  # folder, if not the checkpoint's own
                "frames": 8,  # frames per clip
                "context": 77,  # text tokens, at most the tower's context
                # Type of activations; "auto": "bfloat16" on accelerators, "float32" on CPUs.
                # Accelerators also hold frozen matrices in it; trained leaves stay float32.
                "dtype": "float32",
                # "auto": a fused kernel on accelerators, where one exists for the pattern; "plain":
                # a softmax between two products; "fused": the TPU's, interpreted on CPUs. The same
                # holds for merging tokens, for which the TPU has a kernel, too.
                "attention": "auto",
                "cls_only": True,  # the last block computes only what is read (exact)
                "frame_norm": False,  # scale frame embeddings to unit length before averaging
                "renormalise": True,  # False: score by the mean as it is (PE-Core's retrieval)
                # What the backward pass recomputes: "none"; "block", all of each block; "dots", all
                # but dense layers; "offload", the same, with their outputs kept on the host.
                "remat": "none",
                "drop_path": 0.0,  # rate of stochastic depth in the vision tower's last block
            },
            # What is trained, (regex of a leaf's path, "frozen" or {"lr": multiplier,
            # "weight_decay": share}); the first match applies.
            "rules": ((".*", "frozen"),),
            "optimizer": {
                "name": "adamw",  # of optax, or "adamw_hf"; its options in a section of that name
                "lr": 1e-4,  # peak of the schedule; rules multiply it
                "b1": 0.9,  # decay of the mean of gradients
                "b2": 0.98,  # decay of the mean of squared gradients
                "eps": 1e-8,  # added to the root of the mean of squares
                "clip": 0.0,  # largest norm of all gradients together; 0: no limit
                "accumulate": 1,  # parts of a batch, computed one after another
                "schedule": {"name": "constant"},  # of vlt/training/schedules.py, or of optax
            },
            "task": {
                "name": "retrieval",  # a task of vlt/tasks, on which the other keys here depend
                # Weight of each loss: vtc, sigmoid, mbta, mbca, caption_reconstruction, diffrate.
                "losses": {},
                "scale": 100.0,  # 1 / temperature; 0: the model's own
                "mask_duplicates": False,  # equal texts are not each other's negatives
            },
            "data": {
                "workers": 2,  # processes that read videos
                "decode_timeout": 60.0,  # seconds allowed for one video
                "train": {},  # the training videos
            },
            "evals": {},  # sections by name, each with a `kind`
            "train": {
                "steps": 0,  # batches; 0: only evaluate the model folder
                "log_every": 50,  # steps
                "checkpoint_every": 1000,  # steps
                "eval_every": 0,  # steps; 0: only at the end
                "keep_last": 2,  # number of latest checkpoints kept, besides the best
                "best_metric": "",  # evaluation/metric of the best checkpoint; leading -: lowest
                "watchdog": 300.0,  # dump stacks after so many seconds without a step; 0: off
            },
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},  # devices by axis; -1: all that are left
            "sharding": sharding(),
            # Rows of the closing table, (name, overrides of dotted keys), each a run of its own.
            "compare": (),
            # Runs of each row, (name, overrides); the table shows their means.
            "repeats": (),
            "table": (),  # columns of the closing table, (metric, title) or (metric, title, format)
            "more_tables": {},  # further tables, {title: columns}
        }
    )


def sharding() -> ConfigDict:
    """Which mesh axes split which dimensions.

    `params`: (regex of a leaf's path, axes of each dimension), of which the first match applies; a
    leaf of at least `min_elements` is then split over fsdp along a dimension left. `activations`:
    dimensions of activations by name.
    """
    return ConfigDict(
        {
            # (regex of a leaf's path, axes of each of its dimensions); the first match applies.
            "params": (
                (r".*attention/(query|key|value)/kernel", (None, "tensor")),
                (r".*attention/(query|key|value)/bias", ("tensor",)),
                (r".*attention/out/kernel", ("tensor", None)),
                (r".*mlp/fc1/kernel", (None, "tensor")),
                (r".*mlp/fc1/bias", ("tensor",)),
                (r".*mlp/fc2/kernel", ("tensor", None)),
            ),
            "min_elements": 65_536,  # least size of a leaf that fsdp splits
            # Axes of each dimension of activations.
            "activations": {"batch": ("data", "fsdp"), "heads": "tensor", "hidden": "tensor"},
        }
    )


def videos(manifest: str, sampler: str, frames: int, batch_size: int, **options: Any) -> ConfigDict:
    """A data section. `transform` holds steps of vlt/data/video/transform.py."""
    section = ConfigDict(
        {
            "manifest": manifest,  # file of videos and texts; paths are relative to its folder
            "batch_size": batch_size,  # videos per batch, over all processes
            "sampler": {
                "name": sampler,  # rule of vlt/data/video/sample.py
                "frames": frames,  # frames per clip
            },
            "transform": {},  # steps of vlt/data/video/transform.py
            "captions": ("caption",),  # columns, of which one is drawn each time
            "clean": "",  # rule of vlt/data/text/captions.py for captions and questions
            "max_words": 0,  # words kept of a caption; 0: all
            "prefix": "",  # prompt before every caption
            "group": "",  # column whose equal values stay in one batch
            "cache": False,  # keep in memory the clips that are the same in every epoch
            "on_error": "raise",  # for a video that cannot be read; or "skip", or "replace" it
            "max_error_rate": 0.01,  # share of unreadable videos above which the run ends anyway
            "allow_truncated": False,  # read a truncated file as a video of the frames it has
            "backend": "pyav",  # or "decord", which refuses what it would decode differently
        }
    )
    section.update(options)
    return section


def retrieval(protocol: str, data: ConfigDict) -> ConfigDict:
    """Text-video retrieval on a data section, by a protocol of vlt/evaluation/protocols.py."""
    section = ConfigDict(
        {
            "kind": "retrieval",  # one of `KINDS` in vlt/evaluation
            "protocol": protocol,  # what the test set must hold; defined in vlt/evaluation
            "allow_subset": False,  # accept fewer videos and texts than the protocol's, labelled so
            "ties": "against",  # equal scores count against a query, or as papers "published"
        }
    )
    section.update(data)
    return section


def captioning_task() -> ConfigDict:
    """BLIP's captioning loss."""
    return ConfigDict(
        {
            "name": "captioning",
            "label_smoothing": 0.1,  # share of each word's target that is spread over all words
            "prompt": "",  # how captions begin; not learned
        }
    )


def matching_task(ramp: int) -> ConfigDict:
    """BLIP's retrieval losses."""
    return ConfigDict(
        {
            "name": "matching",
            "queue": 57_600,  # embeddings in each queue, a multiple of the batch
            "momentum": 0.995,  # share of the momentum copy that each step keeps
            "alpha": 0.4,  # share of the momentum encoders' predictions in the targets
            "ramp": ramp,  # steps over which `alpha` rises from 0
        }
    )


def batch_matching_task() -> ConfigDict:
    """UMT's retrieval losses."""
    return ConfigDict(
        {
            "name": "batch_matching",
            # Weight of each loss: vtc, of embeddings; vtm, of matching; mlm, of masked words.
            "losses": {"vtc": 1.0, "vtm": 1.0},
        }
    )


def answering_task() -> ConfigDict:
    """BLIP's question answering loss."""
    return ConfigDict(
        {
            "name": "question_answering",
            "label_smoothing": 0.1,  # share of each word's target that is spread over all words
            "answer_weight": 0.2,  # weight of the one answer to each question
            "denominator": "videos",  # or "frames", as in Token Mixing's published code
        }
    )


def conversation_task(template: str) -> ConfigDict:
    """Next-word prediction of what an assistant says about a video."""
    return ConfigDict(
        {
            "name": "conversation",
            "dialogue_template": template,  # a template of vlt/data/text/prompts.py
            "spacing": "train",  # of texts beside added tokens; or "fast" or "modern"
        }
    )


def recognition_task(classes: int = 0, **options: Any) -> ConfigDict:
    """Cross-entropy over all classes of data.train."""
    section = ConfigDict(
        {
            "name": "recognition",
            "class_count": classes,  # number of classes required; 0: any
            "template": "a video of {}.",  # text of a class; {} is its name
            "templates": "",  # file of several templates, instead of `template`
            # What a class is told from: "", all classes, each by the mean over its templates; or
            # those of the batch, by the "mean" or "sum" of both directions between its videos and
            # the texts of their classes, each in a drawn template.
            "contrast": "",
            "label_smoothing": 0.0,  # share of the target that is spread over all classes
            "mixup": 0.0,  # a of Beta(a, a), the distribution of mixing weights; 0: off
            "cutmix": 0.0,  # the same, for boxes taken from other clips; 0: off
            "switch": 0.5,  # probability of cutmix, if both are on
            "losses": {},  # weight of each of a method's outputs for training
            "largest_scale": 100.0,  # upper limit of the scale of logits; 0: none
            "descriptions": (),  # files in ETL4Video's layout, one for each kind
            "sentences": (),  # the same, for sentences that a method reads one by one
            "sentence_templates": (),  # one for each kind; {} is a sentence, {class} a class's name
            "consistency": 0.0,  # weight of the consistency loss, MSTA's alpha
            # `largest` and `ratio` of vlt/tasks/weight_interpolation.py (Open-VCLIP).
            "interpolation": {},
        }
    )
    section.update(options)
    return section


def classification_task(classes: int = 0) -> ConfigDict:
    """Cross-entropy of the class logits of a method on a vision tower without a text tower."""
    return ConfigDict(
        {
            "name": "classification",
            "class_count": classes,  # number of classes required; 0: any
            "label_smoothing": 0.0,  # share of the target that is spread over all classes
        }
    )


def matching(protocol: str, data: ConfigDict) -> ConfigDict:
    """Text-video retrieval in which matching reranks the nearest candidates by embeddings."""
    section = retrieval(protocol, data)
    section.update({"kind": "matching", "rerank": 128})  # candidates reranked by matching
    return section


def answering(protocol: str, answers: str, data: ConfigDict) -> ConfigDict:
    """Answers chosen from a file by ranking, as in BLIP, or generated."""
    section = ConfigDict(
        {
            "kind": "question_answering",
            "protocol": protocol,
            "allow_subset": False,
            "answers": answers,  # file of answers to choose from, one per line; "": generate them
            "rank": 128,  # answers compared in full: the likeliest by their first word
            "label_smoothing": 0.1,  # smoothing of the likelihoods that are compared
            # Fields of `Search` in vlt/models/generation.py, which has more.
            "search": {
                "method": "beam",  # or "greedy" or "nucleus"
                "beams": 3,  # texts kept at each step
                "max_length": 10,  # tokens, including the prompt's
                "min_length": 1,  # tokens, without the end token
            },
        }
    )
    section.update(data)
    return section


def answers(manifest: str, frames: int, protocol: str = "moving_shapes") -> ConfigDict:
    """How many greedy answers of a chat model match a manifest's exactly."""
    section = ConfigDict({"kind": "answers", "protocol": protocol, "allow_subset": False})
    section.update(videos(manifest, "linspace", frames, 40, cache=True))
    return section


def written_answers(protocol: str, data: ConfigDict, **search: Any) -> ConfigDict:
    """A chat model's answers to a benchmark's questions, for a judge. search: `Search`'s fields."""
    section = ConfigDict(
        {
            "kind": "written_answers",
            "protocol": protocol,
            "allow_subset": False,
            "template": "",  # of vlt/data/text/prompts.py, if not the one used in training
            "search": {"method": "greedy", "max_length": 64, "min_length": 0} | search,
        }
    )
    section.update(data)
    return section


def ranked_answers(protocol: str, answers: str, data: ConfigDict) -> ConfigDict:
    """The answer from a file that a chat model finds likeliest for each question."""
    section = ConfigDict(
        {
            "kind": "ranked_answers",
            "protocol": protocol,
            "allow_subset": False,
            "template": "",  # of vlt/data/text/prompts.py, if not the one used in training
            "answers": answers,  # file of answers to choose from, one per line
        }
    )
    section.update(data)
    return section


def answer_twins(manifest: str, frames: int) -> ConfigDict:
    """Twins told apart by the likelihood of their answers to one question."""
    section = ConfigDict({"kind": "answer_twins", "min_pairs": 500})
    section.update(videos(manifest, "linspace", frames, 40, cache=True))
    return section


def captioning(protocol: str, data: ConfigDict, **search: Any) -> ConfigDict:
    """Captions of a data section by beam search, and their scores. search: fields of `Search`."""
    section = ConfigDict(
        {
            "kind": "captioning",
            "protocol": protocol,
            "allow_subset": False,
            "prompt": "",  # how captions begin; not scored
            "search": {"method": "beam", "beams": 3, "max_length": 32, "min_length": 5} | search,
        }
    )
    section.update(data)
    return section


def recognition(data: ConfigDict, protocol: str = "own_data", clips: int = 1) -> ConfigDict:
    """Recognition of the labels of a data section, with class names as they are.

    clips: number of clips of `frames` frames; with the step `three_crops` each is read three times.
    """
    section = ConfigDict(
        {
            "kind": "recognition",
            "protocol": protocol,
            "allow_subset": False,
            "classes": "",  # file of class names in order, or "" for the labels that occur
            "template": "{}",  # text of a class; {} is its name
            "templates": "",  # file of several templates, instead of `template`
            # How several templates are combined: the mean of "cosines" or "probabilities", or the
            # cosine with the mean of unit "vectors".
            "combine": "cosines",
            "scale": 0.0,  # scale of cosines; 0: the model's own
            "sentences": (),  # files of sentences that describe the classes, as for the task
            "sentence_templates": (),  # the same, of their templates
        }
    )
    section.update(data)
    section.update({"sampler": {"clips": clips}})  # per video; their probabilities are added
    return section


def classification(data: ConfigDict, protocol: str = "own_data", clips: int = 1) -> ConfigDict:
    """Classification of a data section's labels by weights trained on them; else as
    `recognition`."""
    section = ConfigDict({"kind": "classification", "protocol": protocol, "allow_subset": False})
    section.update(data)
    section.update({"sampler": {"clips": clips}})
    return section


def msrvtt_1ka(frames: int) -> ConfigDict:
    """MSR-VTT's 1k-A test set as BT-Adapter reads it."""
    transform = {"resize": 224, "crop": 224}
    data = videos("data/msrvtt/test_1ka.jsonl", "segment_middle", frames, 32, transform=transform)
    return retrieval("msrvtt_1ka", data)


def own_data(config: ConfigDict, batch_size: int, evaluation: ConfigDict) -> None:
    """Sets training on any manifest, and `evaluation` on the same one unless `evals.own.manifest`
    names another. `model.frames` sets the number of frames per clip for both."""
    config.data.workers = 2
    config.data.train.update(manifest=OWN, batch_size=batch_size)
    config.evals = {"own": evaluation}
    config.evals.own.manifest = config.data.train.get_oneway_ref("manifest")
    for section in (config.data.train, config.evals.own):
        section.sampler.frames = config.model.get_oneway_ref("frames")


def own_retrieval(frames: int) -> ConfigDict:
    """Text-video retrieval on any manifest, with the same clips for every method."""
    transform = {"resize": 224, "crop": 224}
    return retrieval("own_data", videos(OWN, "segment_centre", frames, 32, transform=transform))


def train_on_own(config: ConfigDict) -> None:
    """Training for retrieval on any manifest with `video` and `caption`."""
    config.model.context = 77
    config.task.mask_duplicates = True
    config.data.train.sampler.name = "random_segments"
    own_data(config, 32, own_retrieval(config.model.frames))
    config.train.update(steps=1000, eval_every=250, checkpoint_every=250, best_metric="own/t2v_R@1")


def retrieval_table(evaluation: str, measures: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Columns of both directions, and the protocol."""
    directions = ("t2v", "v2t")
    columns = tuple((f"{evaluation}/{d}_{m}", f"{d} {m}") for d in directions for m in measures)
    return (*columns, (f"{evaluation}/protocol", "protocol"))


def twins(kind: str, frames: int) -> ConfigDict:
    """520 held-out pairs of moving shapes.

    kind: `twins`, by embeddings; `caption_twins`, by the likelihood of captions; `twin_captions`,
    the captions' own embeddings.
    """
    section = ConfigDict({"kind": kind, "min_pairs": 500})  # fewest pairs of twins required
    section.update(videos("moving_shapes:clips:test:520", "linspace", frames, 40, cache=True))
    return section


def moving_shapes(config: ConfigDict, frames: int = 8) -> None:
    """Training of a dual encoder on moving shapes, evaluations on held-out ones, and their tables.

    `static` retrieves clips of which no two agree in appearance and family, so it does not need
    the order of frames; `twins` needs nothing else.
    """
    config.data.train = moving_clips(frames)
    config.evals = {
        "static": retrieval("moving_shapes", gallery(frames)),
        "twins": twins("twins", frames),
    }
    config.table = (
        ("static/t2v_R@1", "static R@1 t2v"),
        ("static/v2t_R@1", "v2t"),
        *TWINS,
    )
    config.more_tables = twins_by_family()


def moving_clips(frames: int) -> ConfigDict:
    """3,000 pairs of moving shapes to train on."""
    return videos(
        "moving_shapes:clips:train:3000",
        "linspace",
        frames,
        batch_size=32,
        # Changes nothing in the generated clips; meant for your own videos.
        transform={"resize": 32, "crop": 32},
        group="pair",
        # Three parts captions of what happens, one part of what is visible.
        captions=("caption", "caption", "caption", "appearance"),
        cache=True,
    )


def gallery(frames: int) -> ConfigDict:
    """Held-out clips of which no two agree in appearance and family."""
    return videos("moving_shapes:clips:test:520:gallery.jsonl", "linspace", frames, 40, cache=True)


TWINS = (("twins/twins_v2t", "twins v2t"), ("twins/twins_t2v", "t2v"))
FAMILIES = ("horizontal", "vertical", "size", "presence", "orbit", "sequence")


def twins_by_family() -> dict[str, tuple[tuple[str, str], ...]]:
    """One table per direction: how many twins of each family are told apart."""
    return {
        f"Twins told apart by family, {direction} (%)": tuple(
            (f"twins/twins_{direction}/{family}", family) for family in FAMILIES
        )
        for direction in ("v2t", "t2v")
    }
