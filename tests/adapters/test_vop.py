"""VoP against numbers of its published modules, and its variants against a reading of the paper."""

import dataclasses

import golden_prompts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util
from golden_numbers import numbers
from golden_prompts import close
from random_leaves import random_params

from vlt.adapters.vop import VARIANTS, VoP
from vlt.convert.layouts.clip import OPENAI
from vlt.convert.tables.table import to_leaves
from vlt.model_io.build import abstract_params, check_frames, example_inputs, forward, make_model
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.pytrees.partition import merge
from vlt.tasks.losses import contrastive
from vlt.training.rules import partition

READING = DualEncoderSpec(
    VisionSpec(24, 8, 32, 3, 2, 128), TextSpec(12, 20, 16, 1, 2, 32), embed_dim=32
)
FRAMES = 5


@pytest.fixture(scope="module")
def golden(shared):
    """Outputs of the published modules."""
    return numbers(shared, "vop/basic")


@pytest.fixture(scope="module")
def converted(shared, tmp_path_factory):
    """The converted module and its weights."""
    folder = tmp_path_factory.mktemp("vop") / "model"
    model, config, params = golden_prompts.converted(shared, "vop/basic", folder)
    assert config.frame_norm and model.longest_text == 20
    return model, params


@pytest.fixture(scope="module")
def ours(converted, golden):
    """The loss and outputs of the converted weights, and the prompts' gradient."""
    model, params = converted
    prompts, rest = partition(params, ((".*/vop_prompt", {"lr": 1.0}), (".*", "frozen")))

    def loss(prompts, rest):
        params = merge(prompts, rest)
        out = model.apply({"params": params}, golden["video"], golden["text_ids"], capture=True)
        return contrastive(out["video"], out["text"], jnp.exp(out["logit_scale"])) / 2, out

    with jax.default_matmul_precision("highest"):
        found = jax.jit(jax.value_and_grad(loss, has_aux=True))(prompts, rest)
    (value, out), gradient = jax.device_get(found)
    return value, out, gradient


def test_embeddings_logits_and_loss(ours, golden):
    value, out, _ = ours
    close(out["visual_out"]["frames"], golden["frame_features"], 2e-5)
    close(out["video"], golden["video_features"], 2e-5)
    close(out["text"], golden["text_features"], 5e-5)
    scale = np.exp(out["logit_scale"])
    close(scale * out["text"] @ out["video"].T, golden["logits"], 2e-4)
    unit = out["video"] / np.linalg.norm(out["video"], axis=-1, keepdims=True)
    close(scale * out["text"] @ unit.T, golden["logits_video_renormalised"], 2e-4)
    close(value, golden["loss"], 2e-4)


def test_blocks(ours, golden):
    """Frame prompts are removed after every block but the last."""
    visual, text = ours[1]["visual_out"], ours[1]["text_out"]
    for layer in range(2):
        close(visual[f"block_{layer}"].x[:, :, 0], golden[f"visual_block{layer}_cls"], 2e-5)
        close(text[f"block_{layer}"].x[:, 0], golden[f"text_block{layer}"], 2e-5)
    close(visual["block_1"].x.mean(2), golden["visual_block1_mean"], 2e-5)
    assert [visual[f"block_{layer}"].x.shape[2] for layer in range(2)] == [17, 17 + 3]
    np.testing.assert_array_equal(text["block_1"].readout, golden["text_readout"])


def test_gradients(ours, golden):
    gradient = ours[2]
    names = ("visual_prompt_learner.visual_prompts", "text_prompt_learner.text_prompts")
    assert [*golden["grad_names"]] == [*names]
    for tower, name, norm in zip(("visual", "text"), names, golden["grad_norms"], strict=True):
        found, expected = gradient[tower]["vop_prompt"], golden[f"grad.{name}"]
        assert np.linalg.norm(found) == pytest.approx(norm, rel=1e-3)
        assert np.linalg.norm(found - expected.reshape(found.shape)) < 1e-3 * norm


@pytest.mark.slow
def test_what_ordinary_texts_read(converted, golden):
    """They are read at padding before the suffix, so nothing reads the suffix; or at their ends."""
    model, params = converted
    ids = golden["text_ids"]

    def texts(prompts, readout):
        (vop,) = model.methods
        other = model.clone(methods=(dataclasses.replace(vop, readout=readout),))
        text = params["text"] | {"vop_prompt": prompts}
        return other.apply({"params": params | {"text": text}}, ids, method="encode_text")[0]

    prompts = params["text"]["vop_prompt"]
    with jax.default_matmul_precision("highest"):
        ends = jax.jit(lambda p: texts(p, "end"))(prompts)
        gradient = jax.jit(jax.grad(lambda p: texts(p, "published")[:2, 0].sum()))(prompts)
    close(ends, golden["text_features_read_at_eot"], 5e-5)
    prefix, suffix = np.split(gradient, 2, axis=1)
    assert prefix.all() and not suffix.any()


def leaves(tensors, variant):
    """The golden file's tensors, by path of a variant's leaves."""
    generated = {"P": 3, "C": 3, "F": 0}.get(variant, 2)
    found = {"logit_scale": np.float32(0)}
    if generated < 3:
        found["visual/vop_prompt"] = tensors["all"][generated:]
    if generated:
        found["visual/vop_generic"] = tensors["generic"][:generated]
    if "P" in variant:
        found["visual/vop_position"] = tensors["position"][:generated]
    if "F" in variant:
        found["visual/blocks_2/vop_frame"] = tensors["frame_position"]
    if "C" in variant:
        found |= context(tensors)
    return found


def context(tensors):
    """Leaves of the generator of C."""
    found = {
        "shared_VoP/prompts/kernel": tensors["context.fc.weight"].T,
        "shared_VoP/prompts/bias": tensors["context.fc.bias"],
    }
    for way, end in (("forward", ""), ("backward", "_reverse")):
        lstm = {
            part: tensors[f"context.lstm.{part}_l0{end}"]
            for part in ("weight_ih", "bias_ih", "weight_hh", "bias_hh")
        }
        found |= {
            f"shared_VoP/lstm_{way}/input/kernel": lstm["weight_ih"].T,
            f"shared_VoP/lstm_{way}/input/bias": lstm["bias_ih"],
            f"shared_VoP/lstm_{way}/state_kernel": lstm["weight_hh"].T,
            f"shared_VoP/lstm_{way}/state_bias": lstm["bias_hh"],
        }
    return found


@pytest.fixture(scope="module")
def reading(shared):
    """Golden numbers and weights for one reading of the variants."""
    path = shared / "golden/vop/variants_our_reading.safetensors"
    return numbers(shared, "vop/variants_our_reading"), (safetensors.numpy.load_file(path))


def _quick(variant):
    return pytest.param(variant, marks=() if variant == "F+C" else pytest.mark.slow)


@pytest.mark.parametrize("variant", [_quick(v) for v in VARIANTS if v != "basic"])
def test_variants(reading, variant):
    golden, tensors = reading
    clip = {name: x for name, x in tensors.items() if name.startswith("visual.")}
    placed = to_leaves(OPENAI.rules, clip, str, "(?!)", "(?!)").leaves
    params = traverse_util.unflatten_dict(placed | leaves(tensors, variant), sep="/")
    options = {"variant": variant, "tokens": 5, "specific": 2, "frames_apart": 2}
    model = make_model(READING, {"vop": options}, FRAMES, cls_only=False)

    encode = jax.jit(forward(model, "encode_video", capture=True))
    with jax.default_matmul_precision("highest"):
        video, out = jax.device_get(encode(params, golden["video"]))
    key = variant.replace("+", "")
    close(video, golden[f"{key}.video_features"], 1e-5)
    close(out["frames"], golden[f"{key}.frame_features"], 1e-5)
    for layer in range(3):
        tokens = out[f"block_{layer}"]
        cls = tokens.x[:, :, : tokens.cls].reshape(2, FRAMES, -1)
        patches = tokens.x[:, :, tokens.protected :].reshape(2, FRAMES, 9, -1)
        close(cls, golden[f"{key}.block_{layer}_cls"], 2e-5)
        close(patches.mean(2), golden[f"{key}.block_{layer}_patch_mean"], 1e-5)


SMALL = DualEncoderSpec(
    VisionSpec(16, 4, 16, 3, 2, 32), TextSpec(12, 20, 16, 2, 2, 32), embed_dim=8
)
OPTIONS = {"tokens": 3, "specific": 1, "frames_apart": 2, "prefix": 2, "suffix": 1}


def small(variant, **other):
    options = OPTIONS | {"variant": variant}
    return make_model(SMALL, {"vop": options} | other, 4, cls_only=False)


@pytest.mark.parametrize(
    "variant", [pytest.param(v, marks=() if v == "basic" else pytest.mark.slow) for v in VARIANTS]
)
def test_only_variants_see_the_order_of_frames(variant):
    model = small(variant)
    video = np.random.default_rng(0).normal(size=(2, 4, 16, 16, 3)).astype(np.float32)
    both = np.concatenate([video, video[:, ::-1]])
    found, _ = jax.jit(forward(model, "encode_video"))(random_params(model), both)
    forth, back = np.split(found, 2)
    apart = np.abs(forth - back).max()
    assert (apart < 1e-6) if variant == "basic" else (apart > 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("remat", ["none", "block"])
def test_the_last_block_of_class_tokens_alone_is_exact(variant, remat):
    model = small(variant)
    params = random_params(model)
    video = np.random.default_rng(0).normal(size=(1, 4, 16, 16, 3)).astype(np.float32)

    def encode(model):
        return jax.jit(forward(model, "encode_video"))(params, video)[0]

    close(encode(model.clone(cls_only=True, remat=remat)), encode(model), 1e-5)


TEMPME = {"layers": (0, 1), "join": (2, 2), "r": 1, "keep_cross": 70, "keep_intra": 90}


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("variant", "expected"),
    [("P", [2, 1, 2 + 4]), ("basic", [2, 1, 3]), ("C", [2, 1, 2 + 4])],
)
def test_prompts_of_each_frame_stay_with_it_where_clips_are_joined(variant, expected):
    """P and C have two generic prompts and one per frame, of four, in the last block's one clip."""
    model = small(variant, tempme=TEMPME)
    video, _ = example_inputs(SMALL, 4, 5)
    encode = forward(model, "encode_video", capture=True)
    _, out = jax.eval_shape(encode, abstract_params(model), video)
    groups = [out[f"block_{layer}"].x.shape[1] for layer in range(2)]
    last = out["block_2"]
    assert [*groups, last.protected - last.cls] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "FC"}, "unknown vop.variant: FC; choose from basic, P, C, F, F.P, F.C"),
        ({"readout": "eot"}, "unknown vop.readout: eot; choose from published, end"),
        ({"variant": "P", "specific": 8}, "vop.specific=8 must be less than vop.tokens=8"),
        ({"prefix": 0}, "vop.prefix must be >= 1, got 0"),
        ({"prefix": 40, "suffix": 35}, "leave 2 of the text tower's 77 positions for words"),
        ({"variant": "F", "frames_apart": 12}, "vop.frames_apart=12: the vision tower has 12 bl"),
    ],
)
def test_what_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        VoP(**options).check(SIZES["clip_b32"], 12)


@pytest.mark.parametrize("variant", ["P", "F"])
def test_another_number_of_frames_is_a_sentence(variant):
    model = small(variant)
    leaf = {"P": "visual/vop_position", "F": "visual/blocks_2/vop_frame"}[variant]
    with pytest.raises(ValueError, match=f"6 frames, but {leaf} is for another.*trained on 4"):
        check_frames(model, abstract_params(model), 6)


@pytest.mark.parametrize(
    ("kind", "other", "message"),
    [
        ("F", {"tempme": {"layers": (1,), "join": (2,), "r": 1}}, "tempme needs every frame"),
        ("basic", {"plevu": {"prefix": 1, "postfix": 1, "heads": 2}}, "among the words, and"),
    ],
)
def test_what_it_cannot_stand_beside(kind, other, message):
    with pytest.raises(ValueError, match=message):
        small(kind, **other)
