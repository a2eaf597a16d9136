"""A converted ViCLIP computes what the published one does: float32, layer by layer."""

from pathlib import Path
from typing import Any

import golden_viclip
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.merging import patch_dropout
from vlt.merging.patch_dropout import PatchDropout
from vlt.model_io.build import make_model
from vlt.model_io.folder import read_model_folder
from vlt.models.dual_encoder import DualEncoder
from vlt.models.layers import LayerNorm

# For tokens up to 18, embeddings up to 6, and cosines: 2e-6 and 3e-6 of the largest.
HIDDEN, EMBEDDING, COSINE = 4e-5, 2e-5, 2e-6
LAYERS = 4


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    return golden_viclip.numbers(shared)


@pytest.fixture(scope="module")
def model(shared: Path, tmp_path_factory, tokenizer: str) -> tuple[DualEncoder, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("viclip") / "model"
    config, params = read_model_folder(golden_viclip.converted(shared, folder, tokenizer))
    return make_model(config.spec, {}, 8, cls_only=False), params


@pytest.fixture(scope="module")
def out(golden, model) -> dict[str, Any]:
    module, params = model
    return run(module, params, golden["video"], golden["text_ids"][:3], capture=True)


def run(module: DualEncoder, params: Any, *inputs: Any, method: Any = None, **flags: Any) -> Any:
    with jax.default_matmul_precision("highest"):
        apply = jax.jit(lambda p, *x: module.apply({"params": p}, *x, method=method, **flags))
        return jax.device_get(apply(params, *inputs))


def close(ours: Any, theirs: np.ndarray, atol: float, name: str = "") -> None:
    ours = np.asarray(ours).reshape(theirs.shape)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=name)


def test_vision_tokens(golden, model, out):
    module, params = model
    tokens = out["visual_out"]
    close(tokens["stem"].x, golden["tokens_ln_pre"], HIDDEN, "stem")
    for layer in range(LAYERS):
        close(tokens[f"block_{layer}"].x, golden[f"tokens_block{layer}"], HIDDEN, f"block {layer}")
    assert tokens["block_3"].frames == 8
    norm = run(module, params, tokens["block_3"].x, method=lambda m, x: m.visual.post_norm(x))
    close(norm, golden["tokens_ln_post"], HIDDEN, "post norm")


def test_text_tokens_and_embeddings(golden, model):
    module, params = model
    _, text = run(module, params, golden["text_ids"], method="encode_text", capture=True)
    close(text["block_0"].x, golden["text_tokens_block0"], HIDDEN, "block 0")
    norm = LayerNorm(epsilon=1e-5).apply(
        {"params": params["text"]["final_norm"]}, text["block_3"].x
    )
    close(norm, golden["text_tokens_ln_final"], HIDDEN, "final norm")
    close(text["text_features"], golden["text_embed"], EMBEDDING)


@pytest.mark.parametrize("cls_only", [False, True])
@pytest.mark.parametrize("name", ["video", "image"])
def test_video_embeddings(golden, model, name, cls_only):
    """With eight frames, and with one, which takes the mean of the temporal embeddings."""
    module, params = model
    module = module.clone(cls_only=cls_only)
    _, visual = run(module, params, golden[name], method="encode_video")
    close(visual["video_features"], golden[f"{name}_embed"], EMBEDDING)


def test_similarities_and_probabilities(golden, model):
    module, params = model
    video, _ = run(module, params, golden["video"], method="encode_video")
    text, _ = run(module, params, golden["text_ids"], method="encode_text")
    sims = video @ text.T
    close(sims, golden["sims"], COSINE)
    assert params["logit_scale"] == pytest.approx(np.log(100), rel=1e-6)
    logits = np.exp(params["logit_scale"]) * sims
    close(jax.nn.softmax(logits), golden["probs"], 1e-5)


def test_masked_embeddings(golden, model, monkeypatch):
    """ViCLIP's random masking as training runs it, with its draw replaced by the golden one."""
    module, params = model
    kept = jnp.asarray([np.flatnonzero(row) for row in golden["mask_keep"]])[:, None]
    drawn = []

    def draw(rng: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
        drawn.append((shape, rate))
        return kept

    monkeypatch.setattr(patch_dropout, "draw_kept", draw)
    masked = module.clone(methods=(PatchDropout(),), cls_only=True)
    flags = {"train": True, "rngs": {"mask": jax.random.key(0)}, "method": "encode_video"}
    _, visual = run(masked, params, golden["video"], **flags)
    assert drawn == [((3, 1, 128), 0.9)] and kept.shape == (3, 1, 13)
    close(visual["video_features"], golden["video_embed_masked"], EMBEDDING)


def test_parity_can_fail(golden, model):
    """Frames in another order fall far outside the tolerance."""
    module, params = model
    _, visual = run(module, params, golden["video"][:, ::-1], method="encode_video")
    difference = np.abs(visual["video_features"] - golden["video_embed"]).max()
    assert difference > 100 * EMBEDDING
