"""Losses of dialogues, against those that MiniGPT-4 and InstructBLIP are trained with."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import optax
import pytest
from golden_chat import Golden, channels_last

from vlt.data.chat_batches import VIDEO_SLOT
from vlt.data.text.chat_tokenizer import ChatTokenizer
from vlt.data.text.dialogue_rows import NO_LABEL, training_rows
from vlt.data.text.prompts import END, START, Turn, render, template

BEFORE = "<Img><ImageHere></Img> "  # precedes an instruction


@pytest.fixture(scope="module")
def golden(shared):
    return shared / "golden/chat"


def rows_of(tokenizer, used, pairs):
    """Training rows of one-turn dialogues, whose videos have 8 tokens."""
    rendered = [render(used, [Turn(*pair, 1)]) for pair in pairs]
    prompts = [tokenizer.encode(pieces, used, [8]) for pieces in rendered]
    return training_rows(prompts, [f"row {n}" for n in range(len(prompts))])


def loss(golden, adapted, video, rows, *instruction):
    """Mean loss over the tokens that are learned."""
    ids = np.where(rows.video >= 0, VIDEO_SLOT, rows.ids)
    model = golden.model(adapted=adapted)
    params = golden.params if adapted else golden.plain()
    with jax.default_matmul_precision("highest"):
        out = jax.jit(lambda p, *x: model.apply({"params": p}, *x))(
            params, video, ids, *instruction
        )
    labels = rows.labels[:, 1:]
    learned = labels != NO_LABEL
    each = optax.softmax_cross_entropy_with_integer_labels(
        out["logits"][:, :-1], np.maximum(labels, 0)
    )
    return (each * learned).sum() / learned.sum()


@pytest.mark.slow
@pytest.mark.parametrize(("form", "adapted"), [("image", False), ("bt", True)])
def test_minigpt4(golden, form, adapted):
    whole = Golden(golden, "minigpt4")
    stored = whole.numbers
    # The published numbers are from its first stage, which puts nothing around an instruction.
    around = dict.fromkeys(("user", "after_user", "assistant", "opening"), "")
    used = dataclasses.replace(template("minigpt4_training"), system=START, **around)
    asked = [str(text).removeprefix(BEFORE) for text in stored["train/instruction"]]
    answers = stored["train/answer"].tolist()
    rows = rows_of(ChatTokenizer.load(golden / "tokenizer"), used, zip(asked, answers, strict=True))
    video = channels_last(stored["video_times8_int8"]) / 8
    video = np.stack([video, video]) if adapted else video[:2, None]
    found = loss(whole, adapted, video, rows)
    np.testing.assert_allclose(found, stored[f"train/{form}/loss"], rtol=1e-4)


@pytest.mark.slow
def test_instructblip(golden, tmp_path):
    shutil.copytree(golden / "tokenizer", tmp_path / "tokenizer")
    settings = tmp_path / "tokenizer/tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"bos_token": END}))
    whole = Golden(golden, "instructblip")
    stored = whole.numbers
    pairs = zip(stored["questions"].tolist(), stored["answers"].tolist(), strict=True)
    tokenizer = ChatTokenizer.load(tmp_path / "tokenizer")
    rows = rows_of(tokenizer, template("instructblip_training"), pairs)
    video = channels_last(stored["videos_bcthw_times8_int8"].swapaxes(1, 2))[:, :1] / 8
    found = loss(whole, False, video, rows, stored["qformer_ids"])
    np.testing.assert_allclose(found, stored["train/loss"], rtol=1e-4)
