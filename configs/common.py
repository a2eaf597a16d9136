"""Fields and defaults that every config shares."""

from typing import Any

from ml_collections import ConfigDict

OWN = "data/own/train.csv"  # whoever has videos of their own gives another


def base() -> ConfigDict:
    """A config that trains nothing yet: model, rules, data and evaluations are to be filled in."""
    return ConfigDict(
        {
            "seed": 0,  # of new leaves, of masks and dropout, and of what is drawn of the data
            "model": {
                "checkpoint": "",  # model folder, or "tiny_clip", which the package holds
                "size": "",  # where there is no checkpoint: a name of vlt/models/sizes.py
                "methods": (),  # names; options in a section of that name
                "tokenizer": "",  # folder, where the checkpoint's own is not meant
                "frames": 8,  # of a clip
                "context": 77,  # text tokens, at most the tower's
                # Of activations; "auto": "bfloat16" on accelerators, "float32" on CPUs.
                # Accelerators hold frozen matrices so, too; what is trained stays float32.
                "dtype": "float32",
                # "auto": a fused kernel on accelerators, where there is one for the pattern;
                # "plain": a softmax between two products; "fused": the TPU's, on CPUs interpreted.
                # So with tokens that are merged: the TPU has a kernel for them, too.
                "attention": "auto",
                "cls_only": True,  # the last block computes only what is read (exact)
                "frame_norm": False,  # unit frame embeddings before their mean
                "renormalise": True,  # False: score by that mean as it is (PE-Core's retrieval)
                # What is computed again in the backward pass: "none"; "block", all of each block;
                # "dots", all but dense layers; "offload", the same, these on the host meanwhile.
                "remat": "none",
                "drop_path": 0.0,  # stochastic depth of the vision tower's last block
            },
            # What is trained, (regex of a leaf's path, "frozen" or {"lr": multiplier,
            # "weight_decay": share}): the first that matches.
            "rules": ((".*", "frozen"),),
            "optimizer": {
                "name": "adamw",  # "adamw_hf", or of optax; its options in a section of that name
                "lr": 1e-4,  # the highest of the schedule, which rules multiply
                "b1": 0.9,  # decay of the mean of gradients
                "b2": 0.98,  # decay of the mean of their squares
                "eps": 1e-8,  # added to the root of that mean
                "clip": 0.0,  # largest norm of all gradients together; 0: any
                "accumulate": 1,  # parts of a batch, one after another
                "schedule": {"name": "constant"},  # vlt/training/schedules.py, or of optax
            },
            "task": {
                "name": "retrieval",  # of vlt/tasks; what else is here depends on it
                # Weight by name: vtc, sigmoid, mbta, mbca, caption_reconstruction, diffrate.
                "losses": {},
                "scale": 100.0,  # 1 / temperature; 0: the model's own
                "mask_duplicates": False,  # equal texts are no negatives of each other
            },
            "data": {
                "workers": 2,  # processes that read videos
                "decode_timeout": 60.0,  # seconds for one video
                "train": {},  # the training videos
            },
            "evals": {},  # sections by name, each of a kind
            "train": {
                "steps": 0,  # batches; 0: evaluate what the model folder holds
                "log_every": 50,  # steps
                "checkpoint_every": 1000,  # steps
                "eval_every": 0,  # steps, or 0 for the end alone
                "keep_last": 2,  # checkpoints, and the best
                "best_metric": "",  # evaluation/metric, by which a checkpoint is kept; -: the least
                "watchdog": 300.0,  # dump stacks after so many seconds without a step; 0: off
            },
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},  # devices by axis, -1: all that are left
            "sharding": sharding(),
            # Rows of the closing table, (name, overrides of dotted keys), each a run of its own.
            "compare": (),
            # Runs of each row, (name, overrides), whose means are what the table shows.
            "repeats": (),
            "table": (),  # its columns, (metric, title) or (metric, title, format)
            "more_tables": {},  # further ones, {title: columns}
        }
    )


def sharding() -> ConfigDict:
    """Which axes of the mesh split what.

    `params`: (regex of a leaf's path, axes of each dimension), the first that matches; a leaf of
    at least `min_elements` is then split over fsdp along what is left. `activations`: dimensions of
    activations by name.
    """
    return ConfigDict(
        {
            # (regex of a leaf's path, axes of each of its dimensions): the first that matches.
            "params": (
                (r".*attention/(query|key|value)/kernel", (None, "tensor")),
                (r".*attention/(query|key|value)/bias", ("tensor",)),
                (r".*attention/out/kernel", ("tensor", None)),
                (r".*mlp/fc1/kernel", (None, "tensor")),
                (r".*mlp/fc1/bias", ("tensor",)),
                (r".*mlp/fc2/kernel", ("tensor", None)),
            ),
            "min_elements": 65_536,  # of a leaf that fsdp splits
            # Axes of each dimension of activations.
            "activations": {"batch": ("data", "fsdp"), "heads": "tensor", "hidden": "tensor"},
        }
    )


def videos(manifest: str, sampler: str, frames: int, batch_size: int, **options: Any) -> ConfigDict:
    """A data section. `transform` holds steps of vlt/data/transform.py."""
    section = ConfigDict(
        {
            "manifest": manifest,  # file of videos and texts; paths are relative to it
            "batch_size": batch_size,  # videos, of all processes together
            "sampler": {
                "name": sampler,  # rule of vlt/data/sample.py
                "frames": frames,  # of a clip
            },
            "transform": {},  # steps of vlt/data/transform.py
            "captions": ("caption",),  # columns, one of which is drawn each time
            "clean": "",  # rule of vlt/data/captions.py for captions and questions
            "max_words": 0,  # of a caption that are kept, or 0 for all
            "prefix": "",  # prompt before every caption
            "group": "",  # column whose equal values stay in one batch
            "cache": False,  # keep clips in memory that are the same in every epoch
            "on_error": "raise",  # at a video that cannot be read; or "skip", or "replace" it
            "max_error_rate": 0.01,  # share of the videos, above which the run ends all the same
            "allow_truncated": False,  # a file that was cut is the video of the frames it has
            "backend": "pyav",  # or "decord", which refuses what it would decode otherwise
        }
    )
    section.update(options)
    return section


def retrieval(protocol: str, data: ConfigDict) -> ConfigDict:
    """Text-video retrieval on a data section, by a protocol of vlt/evaluation/protocols.py."""
    section = ConfigDict(
        {
            "kind": "retrieval",  # of `KINDS` in vlt/evaluation
            "protocol": protocol,  # what the test set must hold; of vlt/evaluation
            "allow_subset": False,  # fewer videos and texts than the protocol's, and labelled so
            "ties": "against",  # equal scores rank a query behind, or as the papers "published"
        }
    )
    section.update(data)
    return section


def captioning_task() -> ConfigDict:
    """BLIP's captioning loss."""
    return ConfigDict(
        {
            "name": "captioning",
            "label_smoothing": 0.1,  # share of each word's target that all words have
            "prompt": "",  # how captions begin, which is not learned
        }
    )


def matching_task(ramp: int) -> ConfigDict:
    """BLIP's retrieval losses."""
    return ConfigDict(
        {
            "name": "matching",
            "queue": 57_600,  # embeddings in each queue, a multiple of the batch
            "momentum": 0.995,  # share of the momentum copy that each step keeps
            "alpha": 0.4,  # share of the momentum's own finding in the targets
            "ramp": ramp,  # steps in which that share rises from 0
        }
    )


def batch_matching_task() -> ConfigDict:
    """UMT's retrieval losses."""
    return ConfigDict(
        {
            "name": "batch_matching",
            # Weight by name: vtc, of embeddings; vtm, of matching; mlm, of masked words.
            "losses": {"vtc": 1.0, "vtm": 1.0},
        }
    )


def answering_task() -> ConfigDict:
    """BLIP's question answering loss."""
    return ConfigDict(
        {
            "name": "question_answering",
            "label_smoothing": 0.1,  # share of each word's target that all words have
            "answer_weight": 0.2,  # of the one answer to each question
            "denominator": "videos",  # or "frames", Token Mixing's published one
        }
    )


def conversation_task(template: str) -> ConfigDict:
    """The next word of what an assistant says about a video."""
    return ConfigDict(
        {
            "name": "conversation",
            "dialogue_template": template,  # of vlt/data/prompts.py
            "spacing": "train",  # of texts beside added tokens, "fast" or "modern"
        }
    )


def recognition_task(classes: int = 0, **options: Any) -> ConfigDict:
    """Cross-entropy over all classes of data.train."""
    section = ConfigDict(
        {
            "name": "recognition",
            "class_count": classes,  # how many there must be, 0 for any
            "template": "a video of {}.",  # the text of a class, {} its name
            "templates": "",  # file of several, in the place of `template`
            # Among what: "", all classes, of whose templates the mean counts; or "mean" or "sum"
            # of both directions between a batch's videos and its classes' texts, each in a template
            # that is drawn.
            "contrast": "",
            "label_smoothing": 0.0,  # share of the target that all classes have
            "mixup": 0.0,  # a of Beta(a, a), by which clips are mixed with others; 0: not
            "cutmix": 0.0,  # the same, of boxes that are taken from others; 0: not
            "switch": 0.5,  # how often it is cutmix, where there are both
            "losses": {},  # weight by name of what a method puts out for training
            "largest_scale": 100.0,  # of logits; 0: any
            "descriptions": (),  # files of ETL4Video's layout, one for each kind
            "sentences": (),  # the same, of sentences that a method reads one by one
            "sentence_templates": (),  # of each kind, {} a sentence and {class} the class's name
            "consistency": 0.0,  # weight of the consistency loss, MSTA's alpha
            # `largest` and `ratio` of vlt/tasks/weight_interpolation.py (Open-VCLIP).
            "interpolation": {},
        }
    )
    section.update(options)
    return section


def classification_task(classes: int = 0) -> ConfigDict:
    """Cross-entropy of what a method over a vision tower alone puts out of each class."""
    return ConfigDict(
        {
            "name": "classification",
            "class_count": classes,  # how many there must be, 0 for any
            "label_smoothing": 0.0,  # share of the target that all classes have
        }
    )


def matching(protocol: str, data: ConfigDict) -> ConfigDict:
    """Text-video retrieval whose nearest candidates by embeddings are ranked by matching."""
    section = retrieval(protocol, data)
    section.update({"kind": "matching", "rerank": 128})  # candidates that are ranked by matching
    return section


def answering(protocol: str, answers: str, data: ConfigDict) -> ConfigDict:
    """Answers chosen from a file of them, as BLIP ranks them, or written."""
    section = ConfigDict(
        {
            "kind": "question_answering",
            "protocol": protocol,
            "allow_subset": False,
            "answers": answers,  # file of answers to choose from, one a line; "" for written ones
            "rank": 128,  # answers, the likeliest by their first word, that are compared whole
            "label_smoothing": 0.1,  # of the likelihoods that are compared
            # Of `Search` in vlt/models/generation.py, which has more.
            "search": {
                "method": "beam",  # or "greedy", "nucleus"
                "beams": 3,  # texts that are kept beside each other
                "max_length": 10,  # tokens, the prompt's included
                "min_length": 1,  # without the end token
            },
        }
    )
    section.update(data)
    return section


def answers(manifest: str, frames: int, protocol: str = "moving_shapes") -> ConfigDict:
    """How many greedy answers of a chat model are, to the letter, those of a manifest."""
    section = ConfigDict({"kind": "answers", "protocol": protocol, "allow_subset": False})
    section.update(videos(manifest, "linspace", frames, 40, cache=True))
    return section


def written_answers(protocol: str, data: ConfigDict, **search: Any) -> ConfigDict:
    """A chat model's answers to a benchmark's questions, for a judge. search: of `Search`'s."""
    section = ConfigDict(
        {
            "kind": "written_answers",
            "protocol": protocol,
            "allow_subset": False,
            "template": "",  # of vlt/data/prompts.py, where not the one that is trained with
            "search": {"method": "greedy", "max_length": 64, "min_length": 0} | search,
        }
    )
    section.update(data)
    return section


def ranked_answers(protocol: str, answers: str, data: ConfigDict) -> ConfigDict:
    """The likeliest of a file's answers to each question, as a chat model has it."""
    section = ConfigDict(
        {
            "kind": "ranked_answers",
            "protocol": protocol,
            "allow_subset": False,
            "template": "",  # of vlt/data/prompts.py, where not the one that is trained with
            "answers": answers,  # file of answers to choose from, one a line
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
    """Captions of a data section by beam search, and their scores. search: of `Search`'s fields."""
    section = ConfigDict(
        {
            "kind": "captioning",
            "protocol": protocol,
            "allow_subset": False,
            "prompt": "",  # how captions begin; it is not scored
            "search": {"method": "beam", "beams": 3, "max_length": 32, "min_length": 5} | search,
        }
    )
    section.update(data)
    return section


def recognition(data: ConfigDict, protocol: str = "own_data", clips: int = 1) -> ConfigDict:
    """Recognition of the labels of a data section, class names as they stand.

    clips: of `frames` frames each; with the step `three_crops` each is looked at three times.
    """
    section = ConfigDict(
        {
            "kind": "recognition",
            "protocol": protocol,
            "allow_subset": False,
            "classes": "",  # file of their names in order, or "" for the labels that occur
            "template": "{}",  # the text of a class, {} its name
            "templates": "",  # file of several, in the place of `template`
            # What is made of several: the mean of "cosines" or of "probabilities", or the cosine
            # with the mean of unit "vectors".
            "combine": "cosines",
            "scale": 0.0,  # of cosines; 0: the model's own
            "sentences": (),  # files of what describes the classes, as of the task
            "sentence_templates": (),
        }
    )
    section.update(data)
    section.update({"sampler": {"clips": clips}})  # of a video, whose probabilities are added
    return section


def classification(data: ConfigDict, protocol: str = "own_data", clips: int = 1) -> ConfigDict:
    """The labels of a data section, told apart by what was trained on them; else as
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
    """Training on any manifest, and `evaluation` on the same one where `evals.own.manifest` names
    no other. `model.frames` says for both how many frames a clip has."""
    config.data.workers = 2
    config.data.train.update(manifest=OWN, batch_size=batch_size)
    config.evals = {"own": evaluation}
    config.evals.own.manifest = config.data.train.get_oneway_ref("manifest")
    for section in (config.data.train, config.evals.own):
        section.sampler.frames = config.model.get_oneway_ref("frames")


def own_retrieval(frames: int) -> ConfigDict:
    """Text-video retrieval on any manifest; the same clips whatever the method is."""
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
    section = ConfigDict({"kind": kind, "min_pairs": 500})  # of twins, that there must be at least
    section.update(videos("moving_shapes:clips:test:520", "linspace", frames, 40, cache=True))
    return section


def moving_shapes(config: ConfigDict, frames: int = 8) -> None:
    """Training of a dual encoder on moving shapes, evaluations on held-out ones, and their tables.

    `static` retrieves clips of which no two agree in appearance and family, so it needs no order of
    frames; `twins` needs nothing else.
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
        # Nothing to do for the generated clips; for anybody's own videos.
        transform={"resize": 32, "crop": 32},
        group="pair",
        # Three parts what happens, one part what is to be seen.
        captions=("caption", "caption", "caption", "appearance"),
        cache=True,
    )


def gallery(frames: int) -> ConfigDict:
    """Held-out clips of which no two agree in appearance and family."""
    return videos("moving_shapes:clips:test:520:gallery.jsonl", "linspace", frames, 40, cache=True)


TWINS = (("twins/twins_v2t", "twins v2t"), ("twins/twins_t2v", "t2v"))
FAMILIES = ("horizontal", "vertical", "size", "presence", "orbit", "sequence")


def twins_by_family() -> dict[str, tuple[tuple[str, str], ...]]:
    """A table a direction: how many twins of each family are told apart."""
    return {
        f"Twins told apart by family, {direction} (%)": tuple(
            (f"twins/twins_{direction}/{family}", family) for family in FAMILIES
        )
        for direction in ("v2t", "t2v")
    }
