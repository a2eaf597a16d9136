"""BT-Adapter against golden numbers of the published modules, and properties of the branch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.adapters import btadapter
from vlt.adapters.btadapter import BTAdapter
from vlt.convert import convert
from vlt.data.moving_shapes import write_tokenizer
from vlt.methods import build_methods
from vlt.model_io.build import init_params
from vlt.model_io.folder import read_model_folder
from vlt.models.dual_encoder import DualEncoder
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.models.vit import VisionTransformer
from vlt.tasks.retrieval import Retrieval

HEADS = 4  # in both towers of the golden model, whose widths are not multiples of 64
TINY = DualEncoderSpec(VisionSpec(16, 4, 8, 3, 2, 16), TextSpec(6, 11, 8, 1, 2, 16), embed_dim=4)


pytestmark = pytest.mark.usefixtures("highest_precision")


@pytest.fixture(scope="module")
def golden(shared):
    return np.load(shared / "golden/btadapter/clip_btadapter_small.npz")


@pytest.fixture(scope="module")
def model(shared, tmp_path_factory):
    """Spec and parameters of the golden model, as converted."""
    folder = tmp_path_factory.mktemp("golden")
    write_tokenizer(folder / "tokenizer")
    source = shared / "golden/btadapter/clip_btadapter_small.safetensors"
    settings = {"visual.heads": HEADS, "text.heads": HEADS}
    convert(source, folder / "model", None, settings, str(folder / "tokenizer"), False)
    config, params = read_model_folder(folder / "model")
    assert config.methods["btadapter"]["gates"] == "vector"
    return config.spec, params


def encoder(spec, **options) -> DualEncoder:
    options = {"drop_path": 0.0} | options
    return DualEncoder(spec, (BTAdapter(**options),), cls_only=False)


def channels_last(frames: np.ndarray) -> np.ndarray:
    return np.moveaxis(frames.astype(np.float32), -3, -1)


MODES = {"gated": "vector", "plain": "none"}


@pytest.mark.quick(1)
@pytest.mark.parametrize("mode", MODES)
def test_embeddings_and_branch_tokens(golden, model, mode):
    spec, params = model
    video = channels_last(golden["video"])
    tower = encoder(spec, gates=MODES[mode])
    out = jax.jit(lambda *inputs: tower.apply({"params": params}, *inputs, capture=True))(
        video, golden["text_ids"]
    )
    visual = out["visual_out"]
    np.testing.assert_allclose(visual["video_features"], golden[f"{mode}/video_emb"], atol=1e-5)
    np.testing.assert_allclose(out["text_out"]["text_features"], golden["text_emb"], atol=1e-5)
    clip = visual["block_5"].x.reshape(golden[f"{mode}/clip_layer6_out"].shape)
    np.testing.assert_allclose(clip, golden[f"{mode}/clip_layer6_out"], atol=3e-5)
    for layer, (cls, patches) in enumerate(visual["branch"]):
        patch_major = patches.swapaxes(1, 2).reshape(len(video), -1, patches.shape[-1])
        tokens = jnp.concatenate([cls[:, None], patch_major], axis=1)
        expected = golden[f"{mode}/branch_after_layer{layer}"]
        np.testing.assert_allclose(tokens, expected, atol=5e-5, err_msg=f"layer {layer}")


@pytest.mark.quick(1)
@pytest.mark.parametrize("mode", MODES)
def test_computing_only_the_video_cls_is_exact(golden, model, mode):
    spec, params = model
    full = encoder(spec, gates=MODES[mode])
    saving = dataclasses.replace(full, cls_only=True)
    video = channels_last(golden["video"])
    embeddings = [embed(tower, params, video) for tower in (full, saving)]
    np.testing.assert_allclose(*embeddings, atol=1e-6)


@pytest.mark.quick(2)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("frames", ["T8", "T66", "T8_no_halving"])
def test_tokens_for_the_language_model(golden, model, mode, frames):
    spec, params = model
    video = golden["video66_times8_int8"][None] / 8 if frames == "T66" else golden["video"]
    halving = frames != "T8_no_halving"
    method = BTAdapter(drop_path=0.0, gates=MODES[mode], temporal_halving=halving)
    tower = VisionTransformer(spec.visual, 0, (method,), read=2)
    encode = jax.jit(lambda x: tower.apply({"params": params["visual"]}, x)[1])
    cls_first = encode(channels_last(video))["language_tokens"]
    tokens = jnp.roll(cls_first, -1, axis=1)
    key = f"llava/{mode}/{frames}"
    if halving:
        np.testing.assert_allclose(tokens[0], golden[f"{key}/tokens_patches_then_cls"], atol=1e-5)
    else:
        np.testing.assert_allclose(tokens[:, :-1], golden[f"{key}/tokens_patches"], atol=1e-5)
        np.testing.assert_allclose(tokens[:, -1:], golden[f"{key}/token_cls"], atol=1e-5)


TRAINING = {
    "train_code": {"mask_rate": 0.7, "mask_layout": "released"},
    "train_tube": {"mask_rate": 0.7},
    "train_nomask": {},
}
GRADIENTS = {
    "backbone.btadapter_cls_token": "class_token",
    "backbone.balance1": "final_gate",
    "backbone.balance2": "layer_gate",
    "backbone.btadapter_T_layers.0.temporal_fc.weight": "temporal_0/projection/kernel",
    "backbone.btadapter_T_layers.3.self_attn.q_proj.weight": "temporal_3/attention/query/kernel",
    "backbone.btadapter_S_layers.0.self_attn.v_proj.weight": "spatial_0/attention/value/kernel",
    "backbone.btadapter_S_layers.3.mlp.fc2.bias": "spatial_3/mlp/fc2/bias",
    "backbone.btadapter_time_embed.weight": "time_embedding",
    "extra_proj.0.weight": "alignment/linear/kernel",
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("case", TRAINING)
def test_losses_and_gradients(golden, model, case, monkeypatch):
    spec, params = model
    kept = np.stack([np.flatnonzero(~row[: spec.visual.patches]) for row in golden["mask_code"]])
    monkeypatch.setattr(btadapter, "draw_kept", lambda *_: jnp.asarray(kept))
    tower = encoder(spec, **TRAINING[case])
    task = Retrieval({"vtc": 1.0, "mbta": 0.1, "mbca": 0.1}, 100.0, False)
    batch = {"video": channels_last(golden["video"]), "text": golden["text_ids"]}

    def loss(branch):
        visual = params["visual"] | {"btadapter": branch}
        out = tower.apply(
            {"params": params | {"visual": visual}},
            batch["video"],
            batch["text"],
            train=True,
            rngs={"mask": jax.random.key(0)},
        )
        return task.loss(task.features(out, batch))

    branch = params["visual"]["btadapter"]
    (total, terms), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(branch)
    np.testing.assert_allclose(total, golden[f"{case}/loss_total_0.1"], rtol=1e-5)
    np.testing.assert_allclose(terms["vtc"], golden[f"{case}/loss_vtc"], rtol=1e-5)
    np.testing.assert_allclose(terms["mbta"], golden[f"{case}/loss_mbta_unweighted"], rtol=1e-5)
    np.testing.assert_allclose(terms["mbca"], golden[f"{case}/loss_mbca_unweighted"], rtol=1e-5)
    for name, path in GRADIENTS.items():
        gradient = gradients
        for key in path.split("/"):
            gradient = gradient[key]
        expected = golden[f"{case}/grad/{name}"]
        expected = expected.T if path.endswith("kernel") else expected.reshape(gradient.shape)
        error = np.abs(gradient - expected).max() / np.abs(expected).max()
        assert error < 5e-5, f"{name}: {error}"


def start(**options):
    """A small model with its branch copied from the backbone, as training starts, and a video."""
    tower = encoder(TINY, depth=2, **options)
    params = jax.tree.map(lambda leaf: leaf, drawn(tower))  # copies into dicts that may be changed
    params = tower.methods[0].init_from_backbone(params, TINY)
    video = np.random.default_rng(0).normal(size=(2, 4, 16, 16, 3)).astype(np.float32)
    return tower, params, video


@functools.cache
def drawn(tower):
    return jax.jit(lambda key: init_params(tower, key))(jax.random.key(0))


@functools.partial(jax.jit, static_argnums=0)
def embed(tower, params, video):
    return tower.apply({"params": params}, video, method="encode_video")[0]


@pytest.mark.slow
def test_spatial_layers_start_as_copies():
    _, params, _ = start()
    visual = params["visual"]
    for j in range(2):
        equal = jax.tree.map(
            np.array_equal, visual["btadapter"][f"spatial_{j}"], visual[f"blocks_{j + 1}"]
        )
        assert all(jax.tree.leaves(equal))


def test_order_of_frames_matters_through_the_time_embedding_alone():
    tower, params, video = start()
    branch = params["visual"]["btadapter"]
    for layer in ("temporal_0", "temporal_1"):  # initially zero, so temporal layers do nothing
        kernel = branch[layer]["projection"]["kernel"]
        branch[layer]["projection"]["kernel"] = jax.random.normal(jax.random.key(1), kernel.shape)
    reversed_video = video[:, ::-1]
    assert np.abs(embed(tower, params, video) - embed(tower, params, reversed_video)).max() > 1e-3
    branch["time_embedding"] = jnp.zeros_like(branch["time_embedding"])
    forwards, backwards = (embed(tower, params, v) for v in (video, reversed_video))
    np.testing.assert_allclose(forwards, backwards, atol=1e-5)


def test_mask_draws_a_tube_of_the_right_size():
    kept = btadapter.draw_kept(jax.random.key(0), (3, 256), 0.7)
    assert kept.shape == (3, 77)  # 256 - int(0.7 * 256)
    assert all(len(set(row)) == 77 and (np.diff(row) > 0).all() for row in np.asarray(kept))
    assert not np.array_equal(kept[0], kept[1])


PAPER = {
    "gates": "scalar",
    "inputs": "last_k_plus_1",
    "video_cls": "learned",
    "pool": "mean_then_project",
    "alignment": "linear",
    "interaction": False,
}


@pytest.mark.slow
@pytest.mark.parametrize("option", PAPER)
def test_each_reading_of_the_paper_changes_the_model(option):
    assert abs(loss_at_start() - loss_at_start(**{option: PAPER[option]})) > 1e-4


@functools.cache
def loss_at_start(**options) -> float:
    tower, params, video = start(**options)
    batch = {"video": video, "text": np.array([[1, 2, 10, 0], [3, 4, 10, 0]], np.int32)}
    task = Retrieval({"vtc": 1.0, "mbta": 1.0}, 10.0, False)

    @jax.jit
    def loss(params):
        params = jax.tree.map(lambda x: x + 1e-4, params)  # moves gates off their symmetric start
        out = tower.apply({"params": params}, video=video, ids=batch["text"], train=True)
        return task.loss(task.features(out, batch))[0]

    return float(loss(params))


@pytest.mark.slow
def test_paper_weighs_the_branch_where_the_code_weighs_the_backbone():
    """In Eq. 4 and 5, sigmoid(W_b) multiplies the branch."""
    tower, params, video = start(gates="scalar")
    branch = params["visual"]["btadapter"]
    backbone = DualEncoder(TINY)
    branch["final_gate"] = jnp.asarray(-50.0)
    plain = {k: v for k, v in params["visual"].items() if k != "btadapter"}
    expected = embed(backbone, params | {"visual": plain}, video)
    np.testing.assert_allclose(embed(tower, params, video), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gates": "vectors"}, "vector"),
        ({"mask_rate": 1.0}, "must be >= 0 and < 1, got 1.0"),
        ({"depht": 2}, "did you mean 'depth'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_methods({"btadapter": options})


def test_too_deep_a_branch_is_refused():
    with pytest.raises(ValueError, match="the tower has 3 layers"):
        init_params(encoder(TINY, depth=3), jax.random.key(0))


def test_what_mbca_compares_is_float32_when_activations_are_bfloat16():
    method = BTAdapter(depth=2, alignment="none", drop_path=0.0)
    tower = DualEncoder(TINY, (method,), dtype=jnp.bfloat16)
    _, params, video = start()
    _, out = jax.eval_shape(
        lambda: tower.apply(
            {"params": params},
            video,
            train=True,
            rngs={"mask": jax.random.key(0)},
            method="encode_video",
        )
    )
    assert out["branch_features"].dtype == out["video_features"].dtype == jnp.float32
    assert out["branch_features"].shape == (2, TINY.embed_dim)


def test_more_frames_than_the_time_embedding_are_refused():
    tower, params, _ = start()
    video = np.zeros((1, 65, 16, 16, 3), np.float32)
    with pytest.raises(ValueError, match="65 frames.*has 64"):
        embed(tower, params, video)
