"""STAN, a form of the branch, and Mug's scores against golden numbers of the published modules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from golden_numbers import numbers
from golden_recognition import check_gradients, converted

from vlt.adapters.btadapter import BTAdapter
from vlt.adapters.mug import Mug
from vlt.configuration import load_config
from vlt.convert import ConversionError, convert, reverse
from vlt.costs.flops import count_first
from vlt.model_io.build import abstract_params, forward, init_params
from vlt.model_io.loading import build_for_shapes
from vlt.models.dual_encoder import DualEncoder
from vlt.models.sizes import SIZES
from vlt.pytrees.paths import by_path
from vlt.tasks import losses
from vlt.training.rules import partition

NAMES = {"attention": "stan/a_selfattn_mug", "conv": "stan/b_conv"}


pytestmark = pytest.mark.usefixtures("highest_precision")


@pytest.fixture(scope="module", params=NAMES)
def case(request, shared, tmp_path_factory):
    """Golden numbers, the model with their weights, its folder, and the name of the case."""
    name, folder = NAMES[request.param], tmp_path_factory.mktemp(request.param)
    heads = ("visual.heads=2", "text.heads=4")
    return numbers(shared, name), converted(shared, name, folder, *heads), folder, request.param


def branch_tokens(cls, patches):
    """Branch tokens [b, 1 + n * t, d], places first, as published."""
    b, _, _, d = patches.shape
    return np.concatenate([cls[:, None], patches.swapaxes(1, 2).reshape(b, -1, d)], axis=1)


def test_options_are_read_off_the_tensors(case):
    _, model, _, module = case
    found = model.config.methods["btadapter"]
    expected = {"class_token": "backbone", "depth": 2, "gates": "none", "alignment": "none"}
    expected |= {"max_frames": 64} | ({"time_module": "conv"} if module == "conv" else {})
    assert found == expected


def with_mug(model, **options):
    """The model with Mug, which scores pairs, and every token of the last layer."""
    methods = (*model.module.methods, Mug(**options))
    return model.module.clone(methods=methods, cls_only=False)


@pytest.mark.quick(1)
def test_traces_losses_and_gradients(case):
    """With the mean over time, a loss that sums both directions, and Mug's scores beside it."""
    golden, model, *_ = case
    scale, module = 50.0 if "mug/loss" in golden else 20.0, with_mug(model)

    @jax.jit
    def run(params, video, ids):
        def loss(params):
            out = module.apply({"params": params}, video, ids, capture=True)
            return losses.contrastive(out["video"], out["text"], scale), out

        return jax.value_and_grad(loss, has_aux=True)(params)

    (value, out), gradients = run(model.params, golden["video"], golden["text_ids"])
    visual, text, at = out["visual_out"], out["text_out"], {"atol": 5e-5}
    for layer, (cls, patches) in enumerate(visual["branch"]):
        found = branch_tokens(np.asarray(cls), np.asarray(patches))
        np.testing.assert_allclose(found, golden[f"branch{layer}_after_space"], **at)
    np.testing.assert_allclose(visual["frames"], golden["frame_features"], **at)
    np.testing.assert_allclose(visual["video_features"], golden["video_features"], **at)
    np.testing.assert_allclose(out["video"] @ out["text"].T, golden["similarity"], **at)
    np.testing.assert_allclose(value, golden["pool/loss"], rtol=1e-5)
    assert not gradients.pop("logit_scale")  # the temperature belongs to the task
    check_gradients(golden, "stan", gradients, "pool/")
    logits = scale * out["video"] @ out["text"].T
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, golden["labels"]).mean()
    np.testing.assert_allclose(loss, golden["recognition/loss"], rtol=1e-4)
    np.testing.assert_array_equal(text["words"], golden["text_mask"] != 0)
    np.testing.assert_allclose(text["tokens"], golden["text_tokens"], **at)
    if "mug/loss" in golden:
        expected = golden["mug_frame_token_simple/similarity"].T
        np.testing.assert_allclose(out["scores"], expected, atol=1e-4)
        loss = losses.contrastive_scores(out["scores"], 50.0)
        np.testing.assert_allclose(loss, golden["mug/loss"], rtol=1e-4)


@pytest.fixture(scope="module")
def towers(shared):
    """Golden numbers, and both towers' outputs taken from them."""
    golden = numbers(shared, NAMES["attention"])
    video = {"frames": jnp.asarray(golden["frame_features"])}
    words = jnp.asarray(golden["text_mask"] != 0)
    text = {"features": golden["text_features"], "tokens": golden["text_tokens"], "words": words}
    return golden, video, jax.tree.map(jnp.asarray, text)


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("mug_frame_token_simple", {}),
        ("mug_frame_token_simple_tau10", {"scale": 10.0}),
        ("mug_frame_token", {"interaction": "mug_frame_token", "published": True}),
        ("mug_frame_text", {"interaction": "mug_frame_text"}),
    ],
)
def test_scores_of_mug(towers, key, options):
    golden, video, text = towers
    found = Mug(**options).score(None, video, text, None, False)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, golden[f"{key}/similarity"].T, atol=1e-4)
    if key == "mug_frame_token_simple":
        two = jax.tree.map(lambda x: x[:2], text)
        found = Mug().score(None, video, two, None, False)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, golden[f"{key}/similarity_2_texts"].T, atol=1e-4)


def test_padding_counts_for_nothing_unless_as_published(towers):
    """The number of padding tokens does not matter."""
    _, video, text = towers
    noise = np.random.default_rng(0).normal(size=(3, 4, 32)).astype(np.float32)
    longer = text | {
        "tokens": jnp.concatenate([text["tokens"], noise], axis=1),
        "words": jnp.pad(text["words"], ((0, 0), (0, 4))),
    }

    def moved(**options):
        one, other = (
            Mug(**options).score(None, video, x, None, False)  # type: ignore[arg-type]
            for x in (text, longer)
        )
        return np.abs(one - other).max()

    assert moved() < 1e-6 and moved(interaction="mug_frame_token") < 1e-6
    assert moved(interaction="mug_frame_token", published=True) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("mug", {}),
        ("mug_frame_token", {"interaction": "mug_frame_token", "published": True}),
    ],
)
def test_losses_of_mug(shared, tmp_path, key, options):
    golden = numbers(shared, NAMES["attention"])
    model = converted(shared, NAMES["attention"], tmp_path, "visual.heads=2", "text.heads=4")
    module = with_mug(model, **options)

    @jax.jit
    def run(params, video, ids):
        def loss(params):
            scores = module.apply({"params": params}, video, ids)["scores"]
            return losses.contrastive_scores(scores, 50.0)

        return jax.value_and_grad(loss)(params)

    value, gradients = run(model.params, golden["video"], golden["text_ids"])
    np.testing.assert_allclose(value, golden[f"{key}/loss"], rtol=1e-5)
    if key == "mug":
        del gradients["logit_scale"]
        check_gradients(golden, "stan", gradients, "mug/")


def test_a_published_file_comes_back_bit_for_bit(case, shared):
    *_, folder, module = case
    reverse(folder / "model", folder / "back.safetensors")
    first, back = (
        safetensors.numpy.load_file(path)
        for path in (shared / f"golden/{NAMES[module]}.safetensors", folder / "back.safetensors")
    )
    assert first.keys() == back.keys()
    for name, tensor in first.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("rename", "message"),
    [
        # A convolution among attention layers
        (
            ("STAN_T_layers.1.self_attn.q_proj", "STAN_T_layers.1.layers"),
            "missing: backbone.STAN_T_layers.0.layers.weight",
        ),
        (("STAN_time_embed.weight", "STAN_balance1"), "missing: backbone.STAN_time_embed.weight"),
    ],
)
def test_files_that_are_no_whole_one_are_refused(shared, tmp_path, rename, message):
    tensors = safetensors.numpy.load_file(shared / f"golden/{NAMES['attention']}.safetensors")
    renamed = {name.replace(*rename): tensor for name, tensor in tensors.items()}
    safetensors.numpy.save_file(renamed, tmp_path / "x.safetensors")
    with pytest.raises(ConversionError, match=message):
        convert(tmp_path / "x.safetensors", tmp_path / "m", tokenizer="tiny_clip/tokenizer",
                settings={"visual.heads": 2, "text.heads": 4})  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("module", ["attention", "conv"])
def test_gates_make_it_start_as_clip(module):
    """Without gates, the video CLS enters the embedding from the start."""
    spec = SIZES["tiny_clip"]
    video = np.random.default_rng(0).integers(0, 255, (1, 4, 32, 32, 3), dtype=np.uint8)

    def embedded(**options):
        branch = BTAdapter(
            depth=2, class_token="backbone", alignment="none", time_module=module, **options
        )
        model = DualEncoder(spec, (branch,), 4)
        params = branch.init_from_backbone(init_params(model, jax.random.key(0)), spec)
        return model, params

    model, params = embedded(gates="none")
    bare = model.clone(methods=())

    def encode(model, params):
        run = jax.jit(lambda p, v: model.apply({"params": p}, v, method="encode_video")[0])
        return run(params, video)

    clip = encode(bare, params)
    assert np.abs(encode(model, params) - clip).max() > 1e-3
    gated, more = embedded(gates="vector")
    branch = dict(more["visual"]["btadapter"])
    for gate in ("layer_gate", "final_gate"):
        branch[gate] = jnp.full_like(branch[gate], 1.0)  # where the gate's sigmoid is 1
    params = params | {"visual": params["visual"] | {"btadapter": branch}}
    np.testing.assert_allclose(encode(gated, params), clip, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BTAdapter(time_module="mlp"), "unknown btadapter.time_module: 'mlp'"),
        (lambda: BTAdapter(class_token="none"), "unknown btadapter.class_token: 'none'"),
        (lambda: BTAdapter(time_module="conv", mask_rate=0.7), "mask_rate=0.7: the convolution"),
        (
            lambda: Mug(interaction="mug"),
            "unknown mug.interaction: mug; choose from mug_frame_token_simple",
        ),
        (lambda: Mug(published=True), "only mug_frame_token is another"),
    ],
)
def test_options_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("variant", "count", "products", "norms"),
    [
        ("", 71_450_624, 798.76, 0.64),
        ("_conv", 167_899_136, 996.20, 0.60),
        ("_mug", 71_450_624, 798.76, 0.64),
    ],
)
def test_leaves_and_price_of_the_branch(variant, count, products, norms):
    """The branch's leaves add to CLIP's own, which are all trained except the temperature."""
    config = load_config(f"configs/btadapter.py:webvid_l14_stan{variant}")
    params = abstract_params(build_for_shapes(config["model"]))
    trained = by_path(partition(params, config["rules"])[0])
    branch = sum(x.size for path, x in trained.items() if path.startswith("visual/btadapter/"))
    assert branch == count and sum(x.size for x in trained.values()) == count + 427_616_512
    if variant == "_mug":
        return
    video = jax.ShapeDtypeStruct((1, 8, 224, 224, 3), np.uint8)
    model = build_for_shapes(config["model"]).clone(cls_only=False)
    cost, _ = count_first(forward(model, "encode_video", capture=True), params, video)
    assert round(cost.multiply_adds / 1e9, 2) == products
    assert round(cost.layer_norm / 1e9, 2) == norms
