"""Given answers ranked by their likelihood, against whole dialogues read at once."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import ROOT

from vlt import api, load
from vlt.api import VideoChat
from vlt.data.chat_batches import VIDEO_SLOT
from vlt.data.text.chat_tokenizer import ChatTokenizer
from vlt.data.text.dialogue_rows import NO_LABEL, training_rows
from vlt.data.text.prompts import Turn
from vlt.inference.ranking import candidate_losses
from vlt.inference.speech import Speech
from vlt.model_io.folder import ModelConfig

sys.path.append(str(ROOT / "tests" / "models"))
from golden_chat import Golden, channels_last

QUESTION = "What does the person do in the video?"
CANDIDATES = ["A dog.", "The person runs over the snow and sits on a chair.", "The dog sleeps.",
              "no", "yes", "A", "blue", "A dog", "red circle"]  # fmt: skip
PIXELS = {"image_size": 56, "mean": [0.5] * 3, "std": [0.5] * 3, "resize": "bicubic"}


@pytest.fixture(scope="module")
def golden(shared):
    return Golden(shared / "golden/chat", "llava")


@pytest.fixture(scope="module")
def tokenizer(shared):
    return ChatTokenizer.load(shared / "golden/chat/tokenizer")


def whole(model, params, speech, tokens, candidates):
    """The same losses computed from training rows."""
    prompts = [speech.prompt([Turn(QUESTION, c, videos=1)], [tokens.shape[1]]) for c in candidates]
    rows = training_rows(prompts, candidates)
    ids = np.where(rows.video >= 0, VIDEO_SLOT, rows.ids)

    def logits(model, ids, tokens):
        x = model.embed(ids, jnp.repeat(tokens, len(ids), 0))[:, None]
        return model.decode(x, jnp.arange(ids.shape[1])[None], whole=True)[0][:, 0]

    found = jax.jit(lambda *x: model.apply({"params": params}, *x, method=logits))(ids, tokens)
    labels = rows.labels[:, 1:]
    losses = optax.softmax_cross_entropy_with_integer_labels(found[:, :-1], np.maximum(labels, 0))
    return np.where(labels == NO_LABEL, 0, losses).sum(-1)


def test_losses_are_those_of_whole_dialogues(golden, tokenizer):
    model, params = golden.model(adapted=False), golden.plain()
    speech = Speech.of(model, tokenizer, "llava")
    tokens = jnp.asarray(golden.numbers["T8/projected_no_halving"])[None]
    with jax.default_matmul_precision("highest"):
        found = candidate_losses(speech, params, tokens, QUESTION, CANDIDATES)
        expected = whole(model, params, speech, tokens, CANDIDATES)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found.argmin() != found.argmax() and found[1] > 2 * found[5]
    with pytest.raises(ValueError, match="no candidates"):
        candidate_losses(speech, params, tokens, QUESTION, [])


def test_every_video_is_asked_by_itself(monkeypatch):
    asked = []

    def losses(speech, params, tokens, prompt, candidates):
        asked.append(np.asarray(tokens))
        return np.roll([0.0, 1.0, 2.0], len(asked))

    monkeypatch.setattr(api, "candidate_losses", losses)
    videos = np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3)).astype(np.uint8)
    assert load("tiny_chat").choose(videos, QUESTION, ["one", "two", "three"]) == ["two", "three"]
    assert len(asked[0]) == len(asked[1]) == 1 and not np.array_equal(*asked)


@pytest.mark.slow
def test_a_choice_for_each_video(golden, tokenizer, tmp_path):
    config = ModelConfig("llava", golden.spec, {}, PIXELS | {"crop": "none"}, frames=6)
    chat = VideoChat(golden.model(adapted=False), golden.plain(), config, tokenizer, tmp_path)
    video = channels_last(golden.numbers["T6/video_times2_int8"])[None] / 2
    both = np.concatenate([video, 1 - video])
    found = chat.choose(both, QUESTION, CANDIDATES)
    assert found == [chat.choose(x[None], QUESTION, CANDIDATES)[0] for x in both]
    assert set(found) <= set(CANDIDATES)
    assert chat.choose(video, QUESTION, [CANDIDATES[1]]) == [CANDIDATES[1]]
    for candidates, reason in ((("a", 3), "text 1 is 3"), ("yes", "several texts")):
        with pytest.raises(ValueError, match=reason):
            chat.choose(video, QUESTION, candidates)
