"""The retriever scores as transformers' does, for any number of frames and texts at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from converted_blip import apply, converted, texts, videos
from torch.nn.functional import normalize

from vlt.inspect import inspect_config
from vlt.model_io.build import abstract_params, example_inputs, make_model
from vlt.models.sizes import SIZES
from vlt.training.rules import partition

ATOL = 2e-6
B, T = 3, 2
# As published: all blocks of the vision tower but the last are frozen, all else is trained.
PARTIAL = ((r"visual/blocks_([0-9]|10)/.*", "frozen"), (".*", {"lr": 1.0}))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return converted("retriever", tmp_path_factory.mktemp("retriever"))


@pytest.fixture(scope="module")
def tokens(pair):
    """The peer's tokens of two-frame videos; the test of our embeddings ties them to ours."""
    return frame_tokens(pair[0], videos(B, T)).reshape(B, -1, 32)


def frame_tokens(peer, video):
    """The peer's tokens: [b, t, h, w, 3] -> [b, t, n, d]."""
    frames = torch.from_numpy(video.reshape(-1, *video.shape[2:])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        found = peer.vision_model(pixel_values=frames).last_hidden_state
    return found.numpy().reshape(*video.shape[:2], *found.shape[1:])


def match(peer, tokens, ids):
    """Matching logits of videos [b, m, d] and texts [b, l] that begin with [ENC], in torch."""
    with torch.inference_mode():
        ids, tokens = torch.from_numpy(ids), torch.from_numpy(tokens)
        hidden = peer.text_encoder(ids, ids > 0, encoder_hidden_states=tokens).last_hidden_state
        return peer.itm_head(hidden[:, 0]).numpy()


def test_similarities_and_scores_of_images(pair):
    peer, loaded = pair
    video, ids = videos(B, 1), texts(B)
    given = torch.from_numpy(ids), torch.from_numpy(video[:, 0]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        mask = given[0] > 0
        cosines = peer(*given, use_itm_head=False, attention_mask=mask).itm_score.numpy()
        scores = peer(*given, attention_mask=mask).itm_score.numpy()
    ours, out = apply(loaded, "encode_video", video)
    np.testing.assert_allclose(ours @ apply(loaded, "encode_text", ids)[0].T, cosines, 0, ATOL)
    np.testing.assert_allclose(
        apply(loaded, "match", out["tokens"], ids[:, None])[:, 0], scores, 0, 10 * ATOL
    )


def test_frames_are_projected_then_averaged_and_their_tokens_are_one_sequence(pair, tokens):
    peer, loaded = pair
    found, out = apply(loaded, "encode_video", videos(B, T))
    np.testing.assert_allclose(out["tokens"], tokens, 0, 10 * ATOL)
    with torch.inference_mode():
        cls = torch.from_numpy(tokens.reshape(B, T, -1, 32)[:, :, 0])
        expected = normalize(peer.vision_proj(cls).mean(1), dim=-1).numpy()
    np.testing.assert_allclose(found, expected, 0, ATOL)


def test_several_texts_of_a_video_are_matched_as_if_alone(pair, tokens):
    peer, loaded = pair
    ids = np.stack([texts(B, seed=seed) for seed in range(4)], axis=1)
    together = apply(loaded, "match", tokens, ids)
    alone = np.stack([match(peer, tokens, ids[:, i]) for i in range(4)], axis=1)
    np.testing.assert_allclose(together, alone, 0, 10 * ATOL)


def test_first_token_of_a_matched_text_is_always_enc(pair, tokens):
    one, other = (
        apply(pair[1], "match", tokens, texts(B, first=first)[:, None]) for first in (101, 7)
    )
    np.testing.assert_array_equal(one, other)
    alone = (apply(pair[1], "encode_text", texts(B, first=first))[0] for first in (101, 7))
    assert not np.allclose(*alone), "read without a video, the token stays what it is"


def test_a_call_reaches_every_leaf(pair):
    loaded = pair[1]
    inputs = jnp.asarray(videos(B, T)), jnp.asarray(texts(B))

    def total(params):
        out = loaded.module.apply({"params": params}, *inputs)
        return sum(out[name].sum() for name in ("video", "text", "match", "temperature"))

    grads = jax.jit(jax.grad(total))(loaded.params)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        # A key's bias adds the same number to all logits of a query.
        assert np.abs(grad).max() > 0 or name.endswith("key/bias"), name


def config(size: str, **methods: dict) -> dict:
    model = {"checkpoint": "", "size": size, "methods": tuple(methods), "dtype": "float32"}
    model |= {"frames": 8, "context": 35, "cls_only": True, "frame_norm": False, "remat": "none"}
    return {"model": model | {"drop_path": 0.0} | methods, "rules": PARTIAL}


@pytest.mark.slow
def test_partial_training_of_blip_base_trains_the_whole_text_encoder():
    report = inspect_config(config("blip_b16_retriever", token_mixing={}))
    assert report["trainable_weights_video"] == 7_077_888
    model = make_model(SIZES["blip_b16_retriever"], {})
    params = abstract_params(model)
    trained, frozen = partition(params, PARTIAL)
    assert frozen.keys() == {"visual"} and trained["text"].keys() == params["text"].keys()
    text = sum(leaf.size for leaf in jax.tree.leaves(params["text"]))
    # BERT base without pooler and token types, plus two words and a cross-attention per layer.
    pooler, types, words = 590_592, 2 * 768, 2 * 768
    assert text == 109_482_240 - pooler - types + words + 12 * (4 * 768 * 769 + 2 * 768)
    heads = 768 * 256 + 256 + 768 * 2 + 2 + 1  # beside visual/projection
    video = report["trainable_params_video"]
    assert report["trainable_params"] == text + video + heads
    assert report["text_gmacs"] > 0 and report["output_tokens"] == 8 * 197


@pytest.mark.slow
def test_large_tower_beside_the_same_text_model():
    model = make_model(SIZES["blip_l16_retriever"], {})
    inputs = example_inputs(model.spec, 8, 35)
    shapes = jax.eval_shape(
        lambda p, *x: model.apply({"params": p}, *x), abstract_params(model), *inputs
    )
    assert shapes["video"].shape == shapes["text"].shape == (1, 256)
    assert shapes["visual_out"]["tokens"].shape == (1, 8 * 197, 1024)
