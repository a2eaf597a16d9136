"""Trains the package's tiny chat model: a LLaMA that answers questions about a frame.

First a language model learns the words of moving shapes; then, as in LLaVA, it is tuned on single
frames together with a linear projection of the tiny CLIP's tokens. Of what happens, it learns only
what the end of a clip looks like; it never sees two frames of one clip together.

A branch is trained beside the same CLIP on captions alone, as BT-Adapter's is.

    python -m vlt.main --config=configs/tiny_chat.py:words
    python -m vlt.export --workdir=runs/tiny_chat-words runs/tiny_chat-words/model
    python -m vlt.main --config=configs/tiny_chat.py
    python -m vlt.export --workdir=runs/tiny_chat vlt/assets/tiny_chat --overwrite
    python -m vlt.main --config=configs/tiny_chat.py:branch
    python -m vlt.export --workdir=runs/tiny_chat-branch vlt/assets/tiny_branch --overwrite
"""

from ml_collections import ConfigDict

from vlt import configuration

from . import btadapter, common

WORDS = "runs/tiny_chat-words/model"


def tiny_chat() -> ConfigDict:
    """Questions about single frames: what happens, a description, and what is visible."""
    config = common.base()
    config.model.update(
        size="tiny_chat",
        checkpoint=WORDS,
        tokenizer="moving_shapes:frames:train:24000:chat_tokenizer",
        frames=1,
        context=48,
    )
    config.rules = (
        ("(text|connector)/.*(kernel|embedding)", {"lr": 1.0, "weight_decay": 0.05}),
        ("(text|connector)/.*", {"lr": 1.0}),
        (".*", "frozen"),
    )
    config.optimizer.update(
        lr=2e-3, b2=0.999, clip=1.0, schedule={"name": "cosine", "warmup": 0.07}
    )
    config.task = common.conversation_task(template="plain")
    config.data.train = common.videos(
        "moving_shapes:frames:train:24000:questions.jsonl",
        "linspace",
        frames=1,
        batch_size=64,
        cache=True,
    )
    config.evals = {
        "looks": common.answers("moving_shapes:frames:test:1040:look_questions.jsonl", frames=1),
        "frames": common.answer_twins(
            "moving_shapes:frames:test:1040:motion_questions.jsonl", frames=1
        ),
    }
    config.train.update(steps=2000, log_every=50, checkpoint_every=500)
    config.table = (
        ("looks/exact", "looks"),
        ("frames/twins_v2t", "twins, late frames v2t"),
        ("frames/twins_t2v", "t2v"),
    )
    return config


def words() -> ConfigDict:
    """Trains the language model alone, on the texts of questions and answers."""
    config = tiny_chat()
    config.model.update(checkpoint="", parts=(("visual", "tiny_clip"),))
    config.rules = (
        ("text/.*(kernel|embedding)", {"lr": 1.0, "weight_decay": 0.05}),
        ("text/.*", {"lr": 1.0}),
        (".*", "frozen"),
    )
    config.task.dialogue_template = "words"
    config.evals = {}
    config.table = ()
    config.train.update(steps=500, checkpoint_every=500)
    return config


def branch() -> ConfigDict:
    """`configs/btadapter.py` without comparisons, for twice as many steps."""
    config = btadapter.moving_shapes()
    config.compare = ()
    config.train.update(steps=600, eval_every=0)
    return config


VARIANTS = {"": tiny_chat, "words": words, "branch": branch}


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant; `VARIANTS` lists them."""
    return configuration.choose_variant(VARIANTS, variant)
