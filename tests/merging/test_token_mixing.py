"""Token mixing: which tokens are read, the released code's numbers, and what a block costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from small_clip import FRAMES, SPEC, check_whole_model, embed, random_params, small, videos

from vlt.adapters.prompt import Prompt
from vlt.bench import mixing
from vlt.costs.flops import count
from vlt.merging.token_mixing import TokenMixing, selected
from vlt.merging.tome import ToMe
from vlt.methods import build_methods
from vlt.model_io.build import abstract_params, make_model, merges_tokens
from vlt.models.block import Block
from vlt.models.captioner import Captioner
from vlt.models.sizes import SIZES
from vlt.models.spec import VisionSpec
from vlt.models.tokens import Tokens
from vlt.models.vit import VisionTransformer

PAPER = {"keys": "positions", "cross_factor": 1.0}
HEADS, WIDTH = 2, 16
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 6, WIDTH)).astype(np.float32)


pytestmark = pytest.mark.usefixtures("highest_precision")


def test_selected_as_in_the_released_code(shared):
    golden = np.load(shared / "golden/token_mixing/indices.npz")
    cases = [name.split("_")[1:] for name in golden if name.startswith("sel_")]
    assert len(cases) == 7
    for t, n in cases:
        frames, tokens = int(t[1:]), int(n[1:])
        np.testing.assert_array_equal(selected(frames, tokens), golden[f"sel_{t}_{n}"])
        patches = selected(frames, tokens)[frames:]
        taken = np.bincount(patches // tokens, minlength=frames)
        np.testing.assert_array_equal(taken, golden[f"per_frame_{t}_{n}"])


@pytest.mark.parametrize(("frames", "tokens"), [(1, 5), (3, 2), (5, 17), (16, 10), (12, 197)])
def test_every_position_once_from_the_frame_whose_turn_it_is(frames, tokens):
    every = {keys: selected(frames, tokens, keys) for keys in ("all_cls", "own_cls", "positions")}
    np.testing.assert_array_equal(every["all_cls"], every["own_cls"])
    patches = sorted(every["all_cls"][frames:], key=lambda i: i % tokens)
    assert patches == [(s - 1) % frames * tokens + s for s in range(1, tokens)]
    assert sorted(every["positions"], key=lambda i: i % tokens) == [
        s % frames * tokens + s for s in range(tokens)
    ]


def mixing_block(*methods, **fields) -> Block:
    return Block(HEADS, 32, "gelu", 1e-6, methods=methods, **fields)


def init(module: Block) -> dict:
    shapes = jax.eval_shape(module.init, jax.random.key(0), Tokens(X))["params"]
    return jax.tree.map(lambda x: RNG.normal(0, 0.4, x.shape).astype(np.float32), shapes)


PARAMS = init(mixing_block())


def run(module: Block, params: dict = PARAMS, x: np.ndarray = X) -> np.ndarray:
    return np.asarray(jax.jit(lambda p, x: module.apply({"params": p}, Tokens(x)).x)(params, x))


def attention_of_a_query(x: np.ndarray, frame: int, token: int, keys: str, factor: float):
    """Row (frame, token) of softmax(w * q k^T / sqrt d) v, key by key, from tokens [t, n, d]."""
    t, n, d = x.shape[0], x.shape[1], x.shape[2] // HEADS
    if keys == "positions":
        places = [(s % t, s) for s in range(n)]
    else:
        cls = range(t) if keys == "all_cls" else [frame]
        places = [(f, 0) for f in cls] + [((s - 1) % t, s) for s in range(1, n)]
    leaves = PARAMS["attention"]

    def project(name: str, row: np.ndarray) -> np.ndarray:
        y = row.astype(np.float64) @ leaves[name]["kernel"] + leaves[name]["bias"]
        return y.reshape(HEADS, d)

    query = project("query", x[frame, token])
    factors = np.array([1.0 if s == 0 or f == frame else factor for f, s in places])
    logits = [(query * project("key", x[f, s])).sum(-1) / np.sqrt(d) for f, s in places]
    weights = np.exp(np.array(logits) * factors[:, None])
    weights /= weights.sum(0)
    values = np.array([project("value", x[f, s]) for f, s in places])
    y = (weights[..., None] * values).sum(0).reshape(-1)
    return y @ leaves["out"]["kernel"] + leaves["out"]["bias"]


@pytest.mark.parametrize("keys", ["all_cls", "own_cls", "positions"])
@pytest.mark.parametrize("factor", [0.8, 1.0])
def test_attention_is_equation_8(keys, factor):
    """Every query of every frame, against a loop over its keys."""
    bare = {name: jax.tree.map(np.zeros_like, PARAMS[name]) for name in ("mlp",)}
    ours = run(mixing_block(TokenMixing(keys, factor)), PARAMS | bare) - X
    mean, deviation = X.mean(-1, keepdims=True), X.std(-1, keepdims=True)
    norm = PARAMS["norm1"]
    normed = (X - mean) / np.sqrt(deviation**2 + 1e-6) * norm["scale"] + norm["bias"]
    for b in range(len(X)):
        expected = [
            [attention_of_a_query(normed[b], f, s, keys, factor) for s in range(X.shape[2])]
            for f in range(X.shape[1])
        ]
        np.testing.assert_allclose(ours[b], expected, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"keys": "own_cls"}, PAPER])
def test_one_frame_is_the_plain_block(options):
    np.testing.assert_allclose(
        run(mixing_block(TokenMixing(**options)), x=X[:, :1]),
        run(mixing_block(), x=X[:, :1]),
        atol=1e-5,
    )


@pytest.mark.parametrize("options", [{"keys": "own_cls", "cross_factor": 1.0}, PAPER])
def test_equal_frames_without_a_factor_are_the_plain_block(options):
    """The selected tokens are then the same whichever frame they come from."""
    still = np.repeat(X[:, :1], 3, axis=1)
    ours = run(mixing_block(TokenMixing(**options)), x=still)
    np.testing.assert_allclose(ours, run(mixing_block(), x=still), atol=1e-5)
    assert np.abs(run(mixing_block(TokenMixing(**options))) - run(mixing_block())).max() > 0.1


def test_order_of_keys_does_not_matter(monkeypatch):
    expected = run(mixing_block(TokenMixing()))
    shuffled = RNG.permutation(selected(3, 6))
    monkeypatch.setattr("vlt.merging.token_mixing.selected", lambda *_: shuffled)
    np.testing.assert_allclose(run(mixing_block(TokenMixing())), expected, atol=1e-5)


@pytest.mark.quick(3)
@pytest.mark.parametrize("frames", [2, 5, 8])
@pytest.mark.parametrize("keys", ["all_cls", "own_cls", "positions"])
def test_any_number_of_frames_and_cls_queries_alone(frames, keys):
    x = RNG.normal(size=(2, frames, 6, WIDTH)).astype(np.float32)
    ours = run(mixing_block(TokenMixing(keys)), x=x)
    assert ours.shape == x.shape
    cls = run(mixing_block(TokenMixing(keys), cls_read=True), x=x)
    np.testing.assert_allclose(cls, ours[:, :, :1], atol=1e-5)


def test_layers():
    assert list(TokenMixing().mixing_blocks(12)) == [11]
    assert list(TokenMixing().mixing_blocks(24)) == [23]
    assert list(TokenMixing(layers="published").mixing_blocks(12)) == [11]
    assert list(TokenMixing(layers="published").mixing_blocks(24)) == list(range(11, 24))
    assert list(TokenMixing(layers=(3, 6)).mixing_blocks(12)) == [3, 6]


def test_no_leaves_and_only_the_chosen_blocks_differ():
    """Frames interact from block 1 on, as the frame that does not change shows."""
    model = Captioner(SIZES["blip_b16_captioner"], (TokenMixing(),))
    bare = Captioner(SIZES["blip_b16_captioner"])
    assert jax.tree.structure(abstract_params(model)) == jax.tree.structure(abstract_params(bare))
    tower = small(TokenMixing(layers=(1,)))
    params = {"params": random_params(tower)}
    video = videos()

    @jax.jit
    def blocks(video):
        out = tower.apply(params, video, capture=True, method="encode_video")[1]
        return [out[f"block_{i}"].x[:, 0] for i in range(3)]

    changed = video.at[:, 1:].add(0.5)
    moved = [
        float(jnp.abs(a - b).max()) for a, b in zip(*map(blocks, (video, changed)), strict=True)
    ]
    assert moved[0] == 0 and moved[1] > 1e-3 and moved[2] > 1e-3


# Spec section 13, for the vision tower.
TOP = {
    "cls_token": "class_embedding",
    "pos_embed": "position_embedding",
    "patch_embed.proj.weight": "patch_embedding/kernel",
    "patch_embed.proj.bias": "patch_embedding/bias",
    "norm.weight": "post_norm/scale",
    "norm.bias": "post_norm/bias",
}
DENSE = {"attn.proj": "attention/out", "mlp.fc1": "mlp/fc1", "mlp.fc2": "mlp/fc2"}


def tree(tensors: dict[str, np.ndarray], layers: int) -> dict:
    """The released code's tensors as our leaves."""
    leaves = {ours: tensors[theirs] for theirs, ours in TOP.items()}
    leaves["class_embedding"] = leaves["class_embedding"].reshape(-1)
    leaves["position_embedding"] = leaves["position_embedding"][0]
    leaves["patch_embedding/kernel"] = leaves["patch_embedding/kernel"].transpose(2, 3, 1, 0)
    for i in range(layers):
        for theirs, ours in DENSE.items():
            weight = tensors[f"blocks.{i}.{theirs}.weight"]
            leaves[f"blocks_{i}/{ours}/kernel"] = weight.T
            leaves[f"blocks_{i}/{ours}/bias"] = tensors[f"blocks.{i}.{theirs}.bias"]
        for norm in ("norm1", "norm2"):
            leaves[f"blocks_{i}/{norm}/scale"] = tensors[f"blocks.{i}.{norm}.weight"]
            leaves[f"blocks_{i}/{norm}/bias"] = tensors[f"blocks.{i}.{norm}.bias"]
        for place, name in enumerate(("query", "key", "value")):
            weight, bias = (
                np.split(tensors[f"blocks.{i}.attn.qkv.{kind}"], 3)[place]
                for kind in ("weight", "bias")
            )
            leaves[f"blocks_{i}/attention/{name}/kernel"] = weight.T
            leaves[f"blocks_{i}/attention/{name}/bias"] = bias
    nested: dict = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        inner = nested
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = leaf
    return nested


def test_parity_with_the_released_code(shared):
    """A tower of 4 blocks whose last one mixes; every point of that block on the golden input."""
    folder = shared / "golden/token_mixing"
    golden = np.load(folder / "vis_T4_d4_mix3.npz")
    params = tree(load_file(folder / "vis_T4_d4_mix3.safetensors"), layers=4)
    spec = VisionSpec(64, 16, 32, 4, 4, 128, "gelu", 1e-6, pre_norm=False, patch_bias=True)
    tower = VisionTransformer(spec, 0, (TokenMixing(),), tokens_read=True)
    video = golden["video"].transpose(0, 1, 3, 4, 2)
    tokens, out = jax.jit(lambda v: tower.apply({"params": params}, v, capture=True))(video)

    def close(ours, name):
        theirs = golden[name]
        np.testing.assert_allclose(np.asarray(ours).reshape(theirs.shape), theirs, atol=2e-5)

    close(out["block_2"].x, "block_mix_input")
    close(out["block_3"].x, "last_block_output")
    close(tokens, "frame_features")
    close(tokens.reshape(2, 4, 17, 32)[:, :, 0].mean(1), "cls_mean")
    block = Block(4, 128, "gelu", 1e-6, methods=(TokenMixing(),), layer=3, depth=4)
    leaves = params["blocks_3"]
    # Without its MLP, the block adds the output of attention.
    no_mlp = leaves | {"mlp": jax.tree.map(np.zeros_like, leaves["mlp"])}
    x = golden["block_mix_input"].reshape(2, 4, 17, 32)
    close(run(block, no_mlp, x) - x, "mix_attn_output")
    close(run(block, leaves, x), "block_mix_output")
    plain = run(block.clone(methods=()), leaves, x)
    assert np.abs(plain.reshape(8, 17, 32) - golden["block_mix_output"]).max() > 1e-2


@pytest.mark.slow
def test_in_a_dual_encoder_among_other_methods():
    check_whole_model(TokenMixing())
    model = small(TokenMixing(), Prompt(3))
    params = random_params(model)
    reverse = embed(model, params, videos()[:, ::-1])
    # Patches of other frames are read, so the order of frames matters.
    assert jnp.abs(reverse - embed(model, params, videos())).max() > 1e-4
    whole = embed(small(TokenMixing(), Prompt(3), cls_only=False), params, videos())
    np.testing.assert_allclose(embed(model, params, videos()), whole, atol=1e-5)


def test_gradients_reach_the_selected_tokens_alone():
    """A query of frame 0 reads the CLS token and patches 2 and 5 of frame 2."""
    x = RNG.normal(size=(1, 3, 7, WIDTH)).astype(np.float32)
    module = mixing_block(TokenMixing())
    gradient = jax.jit(
        jax.grad(lambda x: jnp.square(module.apply({"params": PARAMS}, Tokens(x)).x[:, 0]).sum())
    )(x)
    reached = np.abs(gradient[0, 2]).max(-1) > 1e-6
    np.testing.assert_array_equal(reached, [True, False, False, True, False, False, True])


def test_operations_of_a_block():
    """At ViT-B with 8 frames, there are keys and values of 204 tokens instead of 1,576."""
    visual = SIZES["blip_b16_captioner"].visual
    block = Block(visual.heads, visual.mlp_width, "gelu", visual.norm_eps)
    tokens = Tokens(jax.ShapeDtypeStruct((1, 8, 1 + visual.patches, visual.width), jnp.float32))
    params = jax.eval_shape(block.init, jax.random.key(0), tokens)
    plain, mixed = (
        count(lambda p, t, module=module: module.apply(p, t).x, params, tokens)
        for module in (block, block.clone(methods=(TokenMixing(),)))
    )
    n, m, d = 8 * 197, 204, visual.width
    assert mixed.multiply_adds == n * (2 + 8) * d * d + m * 2 * d * d + 2 * n * m * d
    assert mixed.total / plain.total <= 0.90


@pytest.mark.slow
def test_bench_compares_mixing_with_plain_column_by_column(monkeypatch):
    monkeypatch.setitem(SIZES, "small", SPEC)
    # Each round times plain, mixing, and their gradients.
    monkeypatch.setattr(mixing, "turns", lambda *programs, rounds: run_all(programs, rounds))

    def run_all(programs, rounds):
        shapes = [jax.tree.map(jnp.shape, program()) for program in programs]
        assert shapes[0] == shapes[1] and shapes[2] == shapes[3]
        return np.array([[4.0, 3.0, 10.0, 9.0]] * rounds)

    found = mixing.bench_mixing("small", FRAMES, batch=2, rounds=2)
    assert (found["of_its_time"], found["of_its_gradient_time"]) == (0.75, 0.9)
    assert found["of_its_operations"] == found["mixing_gmacs"] / found["plain_gmacs"] < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"keys": "cls"},
            "unknown token_mixing.keys: cls; choose from all_cls, own_cls, positions",
        ),
        ({"layers": "last"}, "unknown token_mixing.layers: last; choose from published"),
        ({"cross_factor": -0.1}, "token_mixing.cross_factor must be >= 0, got -0.1"),
        ({"layers": (4,)}, r"token_mixing.layers must be blocks from 0 to 3, .* got \(4,\)"),
        ({"layers": "published"}, "mixes from block 11 on, the tower has blocks 0 to 3"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        make_model(SPEC, {"token_mixing": options}, FRAMES)


def test_moved_patches_are_refused():
    with pytest.raises(ValueError, match="token_mixing finds patches by their places.*tome"):
        make_model(SPEC, {"tome": {"r": 2}, "token_mixing": {}}, FRAMES)
    assert merges_tokens(small(ToMe(2))) and not merges_tokens(small(TokenMixing()))


def test_lists_are_layers_too():
    (method,) = build_methods({"token_mixing": {"layers": [0, 1]}})
    assert method == TokenMixing(layers=(0, 1))
