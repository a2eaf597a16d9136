"""OST against golden numbers of the published modules."""

import jax
import numpy as np
import pytest
from golden_recognition import converted, numbers

from vlt.adapters.ost import OST, transport_plan
from vlt.models.vit import normalize

NAME = "ost/a_frames6"


@pytest.fixture(scope="module", autouse=True)
def _highest_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def golden(shared):
    return numbers(shared, NAME)


@pytest.fixture(scope="module")
def model(shared, tmp_path_factory):
    found = converted(shared, NAME, tmp_path_factory.mktemp("ost"))
    return found.module.clone(methods=(OST(),)), found.params


def test_scores(golden, model):
    """Of all pairs, and of a video alone, which are the same."""
    module, params = model
    kinds = ("spatial", "temporal")
    ids = np.stack([golden[f"{kind}_ids"] for kind in kinds], axis=1)

    @jax.jit
    def run(params, video):
        def apply(*inputs, method):
            return module.apply({"params": params}, *inputs, method=method)

        _, out = apply(video, method="encode_video")
        features = apply(ids.reshape(-1, ids.shape[-1]), method="encode_text")[1]["text_features"]
        sentences = features.reshape(*ids.shape[:3], -1)
        text = {"features": sentences.mean((1, 2)), "sentences": sentences}
        parts = module.video_parts(out)
        scores = apply(parts, text, method="scores")
        alone = apply(jax.tree.map(lambda x: x[:1], parts), text, method="scores")
        return out["raw_frames"], sentences, scores, alone

    frames, sentences, scores, alone = run(params, golden["video"])
    np.testing.assert_allclose(frames, golden["frame_features"], atol=5e-5)
    cosines = np.einsum("vte,cnse->vcnts", normalize(frames), normalize(sentences))
    plans = transport_plan(cosines, 0.1, 10)
    scale = golden["scale"]
    for at, kind in enumerate(kinds):
        np.testing.assert_allclose(sentences[:, at], golden[f"{kind}_features"], atol=5e-5)
        np.testing.assert_allclose(plans[:, :, at], golden[f"plan_{kind}"], atol=1e-6)
        transported = scale * (plans * cosines)[:, :, at].sum((-1, -2))
        np.testing.assert_allclose(transported, golden[f"ot_{kind}"], atol=1e-4)
    np.testing.assert_allclose(scale * scores, golden["logits"], atol=1e-4)
    np.testing.assert_allclose(scale * alone, golden["logits_video0_alone"], atol=1e-4)


def test_a_plan_has_the_marginals_and_is_exact_for_one():
    cosines = np.random.default_rng(0).uniform(-0.3, 0.3, (2, 5, 3)).astype(np.float32)
    plan = transport_plan(cosines, 0.1, 10)
    np.testing.assert_allclose(plan.sum(-1), 1 / 5, atol=1e-4)
    np.testing.assert_allclose(plan.sum(-2), 1 / 3, atol=1e-6)
    np.testing.assert_allclose(transport_plan(cosines[:, :1], 0.1, 1), 1 / 3, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"entropy": 0.0}, "ost.entropy must be > 0"), ({"steps": 0}, "ost.steps must be >= 1")],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        OST(**options)
