"""UMT and UMT4Clip against the published code's numbers, and which see the order of frames."""

import functools

import golden_umt
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from golden_numbers import numbers
from golden_umt import GRADIENT, LOSS, PROBABILITY, TEXT, TOKENS

from vlt.convert.layouts.umt import UMT
from vlt.convert.tables.table import to_leaves
from vlt.evaluation.answering import compare
from vlt.evaluation.matching import NOT_RANKED, nearest
from vlt.model_io.build import make_model
from vlt.models.interpolation import sinusoid
from vlt.models.sizes import SIZES
from vlt.models.spec_reading import spec_from_dict
from vlt.models.vit import VisionTransformer
from vlt.tasks.batch_matching import contrast, word_loss
from vlt.tasks.captioning import word_losses
from vlt.tasks.matching import match_loss

FRAMES = 4


def close(ours, theirs, tolerance):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def time_major(x, frames=FRAMES):
    """Reorders tokens [b, n * t, d], a patch's frames side by side, to frame after frame."""
    b, _, d = x.shape
    return np.asarray(x).reshape(b, -1, frames, d).swapaxes(1, 2).reshape(b, -1, d)


@pytest.fixture(scope="module")
def golden(shared):
    return numbers(shared, "umt/retrieval")


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory):
    work = tmp_path_factory.mktemp("umt")
    return golden_umt.converted(shared, "retrieval", work, "masked_words=true")


def losses(model, golden, params):
    """The published losses with the published negatives, and all intermediate results."""

    def run(method, *inputs, **options):
        return model.apply({"params": params}, *inputs, method=method, **options)

    ids, own = golden["text_ids"], golden["idx"]
    # The videos, and the same videos reversed.
    both = np.concatenate([golden["video"], golden["video"][:, ::-1]])
    embedded, seen = run("encode_video", both, capture=True)
    video, back = jnp.split(embedded, 2)
    seen = jax.tree.map(lambda x: x[: len(video)], seen)
    text, read = run("encode_text", ids)
    scores = video @ text.T / params["temperature"]
    same = own[:, None] == own
    negatives = golden["text_neg_indices"], golden["vision_neg_indices"]
    given = (seen["tokens"], jnp.asarray(ids), negatives, same, jax.random.key(0), read["states"])
    out = {"scores": scores, "vtc": contrast(scores, same), "seen": seen, "read": read}
    out["back"] = back
    out["vtm"] = match_loss(model, params, *given)
    return out["vtc"] + out["vtm"], out


@pytest.fixture(scope="module")
def ours(folder, golden):
    model, params = golden_umt.loaded(folder, FRAMES)
    with jax.default_matmul_precision("highest"):
        return jax.device_get(jax.jit(functools.partial(losses, model, golden))(params))


@pytest.fixture(scope="module")
def pairs(folder, golden, ours):
    """Logits of all videos with all texts: from the texts' states, and a call that reads words."""
    model, params = golden_umt.loaded(folder, FRAMES)
    seen, read = ours[1]["seen"], ours[1]["read"]
    ids, states = (np.broadcast_to(x, (4, *x.shape)) for x in (golden["text_ids"], read["states"]))

    def match(params, **known):
        given = (seen["tokens"], ids)
        return model.apply({"params": params}, *given, method="match", **known)

    with jax.default_matmul_precision("highest"):
        return jax.jit(match)(params, states=states), functools.partial(jax.jit(match), params)


def test_tower(ours, golden):
    seen = ours[1]["seen"]
    close(sinusoid(FRAMES * 9, 64), golden["pos_embed"][0], 1e-6)
    for layer in range(2):
        x = seen[f"block_{layer}"].x
        means = x.reshape(4, 9, FRAMES, 64).mean(1)
        close(means, golden[f"visual_block{layer}_frame_means"], TOKENS)
    close(time_major(seen["tokens"]), golden["vision_embeds"], TOKENS)
    unit = golden["vision_proj"] / np.linalg.norm(golden["vision_proj"], axis=-1, keepdims=True)
    close(seen["frames"], unit, TOKENS)


def test_texts_pairs_and_losses(ours, pairs, golden):
    value, out = ours
    real = golden["text_mask"] > 0
    close(out["read"]["states"][real], golden["text_embeds"][real], TEXT)
    close(out["read"]["text_features"], golden["text_proj"], TEXT)
    close(out["scores"], golden["sim_v2t"], LOSS)
    close(pairs[0], golden["itm_logits_video_text"], LOSS)
    for name in ("vtc", "vtm"):
        close(out[name], golden[f"loss_{name}"], LOSS)
    close(value, golden["loss"], LOSS)


@pytest.mark.slow
def test_states_of_texts_save_their_layers_and_change_nothing(pairs, golden):
    close(pairs[1](), golden["itm_logits_video_text"], LOSS)


@pytest.mark.slow
def test_a_call_has_all_of_it(folder, ours, golden):
    model, params = golden_umt.loaded(folder, FRAMES)
    out = jax.jit(model.apply)({"params": params}, golden["video"], golden["mlm_ids"])
    real = golden["text_mask"] > 0
    close(out["words"][real], golden["mlm_logits"][real], LOSS)
    found = word_loss(out["words"], golden["text_ids"], golden["mlm_labels"] >= 0)
    close(found, golden["loss_mlm"], LOSS)
    out = jax.jit(model.apply)({"params": params}, golden["video"], golden["text_ids"])
    close(out["match"], np.einsum("bbi->bi", golden["itm_logits_video_text"]), LOSS)


@pytest.mark.slow
def test_gradients(folder, golden):
    model, params = golden_umt.loaded(folder, FRAMES)
    with jax.default_matmul_precision("highest"):
        run = jax.grad(functools.partial(losses, model, golden), has_aux=True)
        gradient, _ = jax.device_get(jax.jit(run)(params))
    # The gradients of the published loss, except for its pre-training head.
    head = gradient["text"].pop("lm_head")
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(head))
    found = golden_umt.norms("retriever", gradient, golden["grad_names"])
    floor = 1e-6 * golden["grad_norm_total"]
    np.testing.assert_allclose(found, golden["grad_norms"], rtol=GRADIENT, atol=floor)
    close(gradient["temperature"], golden["grad.temp"], LOSS)
    bias = gradient["visual"]["blocks_0"]["attention"]["query"]["bias"]
    close(bias, golden["grad.vision_encoder.encoder.blocks.0.attn.q_bias"], TOKENS)


def test_ranking(ours, pairs, golden):
    """The two nearest by the frames' mean cosines, ranked by matching."""
    out, count = ours[1], int(golden["eval_k_test"])
    cosines = out["scores"] * 0.2  # without the temperature
    close(cosines, golden["eval_v2t_dual"], LOSS)
    logits = pairs[0][..., 1]
    for scores, pairs, name in ((cosines, logits, "v2t"), (cosines.T, logits.T, "t2v")):
        ranked = np.where(nearest(scores, count), pairs, NOT_RANKED)
        close(ranked, golden[f"eval_{name}_rerank"], LOSS)


def test_frames_apart(folder, golden):
    """UMT4Clip: each frame is an image with the positions of the first frame."""
    model, params = golden_umt.loaded(folder, FRAMES, joint=False)
    encode = functools.partial(model.apply, method="encode_video")
    with jax.default_matmul_precision("highest"):
        video, out = jax.jit(encode)({"params": params}, golden["video"])
        back, _ = jax.jit(encode)({"params": params}, golden["video"][:, ::-1])
    close(out["tokens"], golden["apart_vision_embeds"], TOKENS)
    close(out["tokens"][:, :9], golden["image_vision_embeds"], TOKENS)
    text = golden["text_proj"] / np.linalg.norm(golden["text_proj"], axis=-1, keepdims=True)
    close(video @ text.T / 0.2, golden["apart_sim_v2t"], LOSS)
    close(back, video, 1e-6)  # blind to the order of frames


def test_frames_together_are_seen_in_order(ours):
    video = ours[1]["seen"]["frames"].mean(1)
    assert np.abs(ours[1]["back"] - video).max() > 1e-2
    assert (np.linalg.norm(video, axis=-1) < 0.999).all(), "no unit vectors"


@pytest.mark.slow
def test_a_single_frame_is_an_image(folder, golden):
    model, params = golden_umt.loaded(folder, FRAMES)
    encode = jax.jit(functools.partial(model.apply, method="encode_video"))
    with jax.default_matmul_precision("highest"):
        _, out = encode({"params": params}, golden["video"][:, :1])
    close(out["tokens"], golden["image_vision_embeds"], TOKENS)


@pytest.fixture(scope="module")
def questions(shared):
    return numbers(shared, "umt/qa")


@pytest.fixture(scope="module")
def answerer(shared, tmp_path_factory):
    work = tmp_path_factory.mktemp("umt_qa")
    return golden_umt.loaded(golden_umt.converted(shared, "qa", work), FRAMES)


def answers_loss(model, golden, params):
    """Weighted loss of several answers per question; and tokens, states and their mask."""

    def run(method, *inputs, **options):
        return model.apply({"params": params}, *inputs, method=method, **options)

    listed = jnp.asarray(golden["answer_list_ids"])
    tokens, _ = run("encode_video", golden["video"])
    states, mask = run("encode_question", tokens, golden["question_ids"])
    of = np.repeat(np.arange(3), golden["answers_of_each"])
    ids = listed[golden["train_answer"]]
    logits, _ = run("decode", ids[:, None], states[of], source_bias=mask[of])
    loss = word_losses(logits[:, 0], ids, 0.0, 1)[0].sum(-1)
    return (loss * golden["train_weights"]).sum() / 3, (tokens, states, mask)


def chances(ranked):
    """Answers in order of decreasing probability, and the probabilities."""
    likely, losses = ranked
    found = np.asarray(jax.nn.softmax(-losses.T))
    order = np.argsort(-found, axis=1)
    return np.take_along_axis(likely, order, 1), np.take_along_axis(found, order, 1)


@pytest.fixture(scope="module")
def answered(answerer, questions):
    run = functools.partial(answers_loss, answerer[0], questions)
    with jax.default_matmul_precision("highest"):
        return jax.device_get(jax.jit(run)(answerer[1]))


def test_questions_and_answers(answered, questions):
    value, (tokens, states, _) = answered
    close(time_major(tokens), questions["vision_embeds"], TOKENS)
    real = questions["question_ids"] > 0
    close(states[real], questions["question_layer3"][real], TEXT)
    close(value, questions["loss"], LOSS)


@pytest.mark.slow
def test_gradients_of_answers(answerer, questions):
    run = functools.partial(answers_loss, answerer[0], questions)
    with jax.default_matmul_precision("highest"):
        gradient, _ = jax.device_get(jax.jit(jax.grad(run, has_aux=True))(answerer[1]))
    norms = golden_umt.norms("answerer", gradient, questions["grad_names"])
    floor = 1e-6 * questions["grad_norm_total"]
    np.testing.assert_allclose(norms, questions["grad_norms"], rtol=GRADIENT, atol=floor)


@pytest.mark.parametrize(
    ("count", "twice", "name"),
    [
        (6, True, "rank_all"),
        pytest.param(3, True, "topk", marks=pytest.mark.slow),
        pytest.param(6, False, "", marks=pytest.mark.slow),
    ],
)
def test_ranked_answers(answerer, answered, questions, count, twice, name):
    (model, params), (_, states, mask) = answerer, answered[1]
    run = functools.partial(compare, model, count=count, label_smoothing=0.0, twice=twice)
    with jax.default_matmul_precision("highest"):
        ranked = jax.jit(run)(params, states, mask, questions["answer_list_ids"])
    answers, likelihood = chances(ranked)
    if not twice:
        assert np.abs(likelihood - questions["rank_all_probs"]).max() > 1e-2
        return
    np.testing.assert_array_equal(answers, questions[f"{name}_ids"])
    close(likelihood, questions[f"{name}_probs"], PROBABILITY)


MERGED = {"layers": (2, 3, 4), "join": (2, 2, 3), "r": 1, "keep_cross": 70, "keep_intra": 90}


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("pool", "name"), [("token_mean", "plain_mean"), ("mean", "size_weighted")]
)
def test_tempme(shared, pool, name):
    """Our reading: no class token, and one vector, the plain mean of the remaining tokens or
    their mean weighted by size."""
    golden = numbers(shared, "umt/tempme_our_reading")
    tensors = golden_umt.weights(shared, "tempme_our_reading")
    positions = {
        f"blocks_{name.rpartition('.')[2]}": tensors.pop(name)
        for name in [*tensors]
        if name.startswith("clip_positions.")
    }
    family = UMT.for_kind("retriever")
    placed = to_leaves(family.rules, tensors, family.canonical, family.dropped, family.left_out)
    assert not placed.unexpected and not placed.wrong_shape
    visual = traverse_util.unflatten_dict(placed.leaves, sep="/")["visual"]
    for block, table in positions.items():
        visual[block]["clip_position"] = table
    # An identity projection, so that its input is read unchanged.
    visual["projection"] = {"kernel": np.eye(32, dtype=np.float32), "bias": np.zeros(32)}
    fields = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 6, "heads": 2}
    fields |= {"mlp_width": 128, "activation": "gelu"} | UMT.visual | {"joint": False}
    text = SIZES["umt_b16_retriever"].to_dict()["text"] | {"source_width": 32}
    spec = {"kind": "retriever", "visual": fields, "text": text, "embed_dim": 32}
    sizes = spec_from_dict(spec | {"visual": fields | {"pool": pool}})
    model = make_model(sizes, {"tempme": MERGED}, 12)
    tower = VisionTransformer(model.spec.visual, 32, model.methods, tokens_read=True)
    encode = functools.partial(tower.apply, capture=True)
    with jax.default_matmul_precision("highest"):
        pooled, out = jax.jit(encode)({"params": visual}, golden["video"])
    close(pooled, golden[f"pooled_{name}"], TOKENS)
    for layer, counts in enumerate(golden["groups_tokens_after_layer"]):
        np.testing.assert_array_equal(out[f"block_{layer}"].x.shape[1:3], counts)
    close(out["tokens"], golden["tokens"], TOKENS)
    np.testing.assert_array_equal(out["block_5"].size[:, 0], golden["sizes"])
