"""LoRA: its shared and usual forms, counts, and folding into the weights."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.adapters.adapter import Adapter
from vlt.adapters.adaptformer import AdaptFormer
from vlt.adapters.clip4clip import CLIP4Clip
from vlt.adapters.lora import LoRA
from vlt.adapters.prompt import Prompt
from vlt.merging.tempme import TempMe
from vlt.merging.tome import ToMe
from vlt.methods import build_methods
from vlt.model_io.build import abstract_params
from vlt.models.block import Block
from vlt.models.dual_encoder import DualEncoder
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, PoolerSpec, TextSpec, VisionSpec
from vlt.models.tokens import Tokens
from vlt.training.rules import partition

TINY = DualEncoderSpec(VisionSpec(16, 4, 8, 2, 2, 16), TextSpec(6, 11, 8, 1, 2, 16), embed_dim=4)
VIDEO = np.random.default_rng(0).normal(size=(2, 4, 16, 16, 3)).astype(np.float32)
IDS = np.array([[1, 2, 10, 0, 0, 0], [3, 4, 5, 6, 10, 0]], np.int32)
TRAINED = ((".*/lora_[ab]", {"lr": 1.0}), (".*", "frozen"))
USUAL = {"share_a": False, "alpha": 6.0, "rank": 3}


def leaves(tree: dict) -> dict:
    return flax.traverse_util.flatten_dict(tree, sep="/")


def count(tree: dict) -> int:
    return sum(leaf.size for leaf in leaves(tree).values())


def random_params(model: DualEncoder) -> dict:
    """Draws every leaf of the model, those of its methods too, away from its start."""
    rng = np.random.default_rng(1)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: (
            0.3 * rng.normal(size=x.shape).astype("f") + ("scale" in jax.tree_util.keystr(path))
        ),
        abstract_params(model),
    )


def without_lora(params: dict) -> dict:
    kept = {path: x for path, x in leaves(params).items() if "lora_" not in path}
    return flax.traverse_util.unflatten_dict(kept, sep="/")


BARE = leaves(abstract_params(DualEncoder(TINY)))


def outputs(model: DualEncoder, params: dict) -> tuple[np.ndarray, np.ndarray]:
    with jax.default_matmul_precision("highest"):
        return embed(model)(params)


@functools.cache
def embed(model: DualEncoder):
    def run(params):
        out = model.apply({"params": params}, VIDEO, IDS)
        return out["video"], out["text"]

    return jax.jit(run)


def test_shared_form_has_one_a_in_every_attention_layer_and_the_papers_count():
    params = abstract_params(DualEncoder(SIZES["clip_b32"], (LoRA(),)))
    trained, _ = partition(params, TRAINED)
    assert count(trained) == 491_520
    names = [path for path in leaves(trained) if path.endswith("lora_a")]
    assert len(names) == 24 and all(path.endswith("attention/lora_a") for path in names)
    assert leaves(trained)["visual/blocks_3/attention/lora_a"].shape == (768, 8)
    assert leaves(trained)["text/blocks_3/attention/key/lora_b"].shape == (8, 512)


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"share_a": False}, 737_280),
        ({"share_a": False, "targets": ("query", "key", "value", "out")}, 983_040),
        ({"share_a": False, "targets": ("query", "value")}, 491_520),
        # MSTA's LoRA row on ViCLIP-B/16
        (
            {"share_a": False, "rank": 256, "targets": ("query", "value"), "towers": ("visual",)},
            9_437_184,
        ),
    ],
)
def test_counts_of_the_usual_form(options, expected):
    params = abstract_params(DualEncoder(SIZES["clip_b16"], (LoRA(**options),)))
    assert count(partition(params, TRAINED)[0]) == expected


@pytest.mark.smoke
@pytest.mark.parametrize("options", [{}, USUAL])
def test_starts_as_the_bare_block_exactly(options):
    tokens = Tokens(np.random.default_rng(2).normal(size=(2, 3, 5, 64)).astype(np.float32))
    block = Block(2, 128, "quick_gelu", 1e-5, methods=(LoRA(**options),))
    params = jax.jit(lambda: block.init(jax.random.key(0), tokens))()["params"]
    for path, leaf in leaves(params).items():
        if path.endswith("lora_a"):
            assert 0.9 * 64**-0.5 < np.abs(leaf).max() <= 64**-0.5
        assert not (path.endswith("lora_b") and leaf.any())
    bare = block.clone(methods=())
    ours, expected = (
        jax.jit(lambda p, module=module: module.apply({"params": p}, tokens).x)(params)
        for module in (block, bare)
    )
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "options",
    [{}, USUAL, USUAL | {"targets": ("out", "fc1", "fc2"), "towers": ("text",)}],
)
def test_merged_equals_applied(options):
    method = LoRA(**options)
    model = DualEncoder(TINY, (method,))
    params = random_params(model)
    served, merged = method.fold_for_inference(params)
    assert served is None and method.mergeable
    assert leaves(merged).keys() == leaves(abstract_params(DualEncoder(TINY))).keys()
    applied, folded = outputs(model, params), outputs(DualEncoder(TINY), merged)
    without = outputs(DualEncoder(TINY), without_lora(params))
    for tower, ours, expected, bare in zip(
        ("visual", "text"), folded, applied, without, strict=True
    ):
        np.testing.assert_allclose(ours, expected, atol=2e-6)
        changed = np.abs(np.asarray(ours) - bare).max() > 1e-2
        assert changed == (tower in method.towers)


TEMPME = TempMe(layers=(1,), join=(2,), r=2, keep_cross=50)
OTHERS = (Adapter(4), AdaptFormer(4, towers=("visual", "text")), Prompt(3))


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((), (ToMe(2),)),
        ((Prompt(3, deep=False),), (TEMPME,)),
        ((), (TEMPME, *OTHERS, CLIP4Clip("seqLSTM"))),
    ],
)
def test_merged_equals_applied_among_other_methods(before, after):
    """Matching reads the adapted keys, and so decides alike."""
    method = LoRA()
    model = DualEncoder(TINY, (*before, method, *after), frames=4, frame_norm=True)
    params = random_params(model)
    served = model.clone(methods=(*before, *after))
    merged = method.fold_for_inference(params)[1]
    assert leaves(merged).keys() == leaves(abstract_params(served)).keys()
    applied, folded = outputs(model, params), outputs(served, merged)
    for ours, expected, bare in zip(
        folded, applied, outputs(served, without_lora(params)), strict=True
    ):
        np.testing.assert_allclose(ours, expected, atol=5e-6)
        assert np.abs(ours - bare).max() > 1e-2


def test_every_leaf_of_methods_together_matters():
    model = DualEncoder(TINY, (LoRA(), TEMPME, *OTHERS), frames=4)
    params = random_params(model)
    ours = [path for path in leaves(params) if path not in BARE]
    names = {"lora_a", "lora_b", "prompt", "clip_position", "kernel", "bias"}
    assert {path.split("/")[-1] for path in ours} == names
    first_channels = jax.jit(jax.grad(lambda p: jnp.stack(embed(model)(p))[..., 0].sum()))
    gradients = leaves(first_channels(params))
    for path in ours:
        assert np.abs(gradients[path]).max() > 1e-6, path


def test_recomputed_blocks_give_the_same():
    model = DualEncoder(TINY, (LoRA(),))
    params = random_params(model)
    again = model.clone(remat="block")
    assert leaves(abstract_params(again)).keys() == leaves(params).keys()
    np.testing.assert_allclose(outputs(again, params)[0], outputs(model, params)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ("query", "qkv")}, "qkv; choose from query, key, value, out"),
        ({"targets": ()}, "lora.targets is empty"),
        ({"towers": ("vision",)}, "vision; choose from visual, text"),
        ({"targets": ("query", "fc1")}, "set lora.share_a=False"),
        ({"rank": 0}, "lora.rank must be >= 1, got 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_methods({"lora": options})


def test_attention_pooling_is_left_alone_unless_asked():
    visual = VisionSpec(16, 4, 8, 1, 2, 16, pool="attention", pooler=PoolerSpec(2, 8, 16))
    spec = DualEncoderSpec(visual, TINY.text, embed_dim=4)

    def in_pooler(**options):
        paths = flax.traverse_util.flatten_dict(
            abstract_params(DualEncoder(spec, (LoRA(rank=2, **options),))), sep="/"
        )
        return {
            path.removeprefix("visual/pooler/")
            for path in paths
            if "visual/pooler/" in path and "lora" in path
        }

    assert not in_pooler()
    attention = "cross_attention"
    shared = {f"{attention}/lora_a", f"{attention}/query/lora_a"}  # the query's input is the probe
    names = {f"{attention}/{name}/lora_b" for name in ("query", "key", "value")}
    assert in_pooler(pooler=True) == shared | names
