"""The merge kernel, interpreted, against the plain implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import run_python
from slices import TOPOLOGIES, needs_libtpu

from vlt.costs import hlo
from vlt.merging.matching import match, merge
from vlt.models.fused import implementation
from vlt.models.tokens import Tokens
from vlt.runtime.mesh import BATCH_AXES, make_mesh
from vlt.training.ahead import topology_devices

RNG = np.random.default_rng(0)


def made(b=2, g=3, patches=15, cls=2, width=128, dtype="float32"):
    x = jnp.asarray(RNG.normal(size=(b, g, cls + patches, width)), dtype)
    sizes = jnp.asarray(RNG.integers(1, 9, x.shape[:3]), jnp.float32)
    return Tokens(x, sizes, cls=cls, protected=cls)


def merged(tokens, name, r=5):
    """Merged tokens and sizes, and the gradient with respect to the input."""
    matching = match(tokens.x[:, :, tokens.protected :], r, 1)

    def new(x):
        found = merge(tokens.replace(x=x), matching)
        return (found.x * jnp.cos(jnp.arange(found.x.size)).reshape(found.x.shape)).sum(), found

    with implementation(name):
        program = jax.grad(new, has_aux=True)
        text = str(jax.make_jaxpr(program)(tokens.x))
        for kernel in ("merge_forward", "merge_backward"):
            assert (kernel in text) == (name == "fused"), name
        gradient, found = jax.jit(program)(tokens.x)
    return found.x, found.size, gradient


def test_means_and_gradients():
    tokens = made()
    for plain, fused in zip(merged(tokens, "plain"), merged(tokens, "fused"), strict=True):
        np.testing.assert_allclose(fused, plain, 1e-6, 1e-6)


@pytest.mark.slow
def test_bfloat16():
    tokens = made(dtype="bfloat16", patches=40)
    expected, _, wanted = (np.asarray(x, np.float32) for x in merged(tokens, "plain"))
    found, _, gradient = (np.asarray(x, np.float32) for x in merged(tokens, "fused"))
    # Tokens that nothing is merged into are equal to the bit.
    np.testing.assert_array_equal(found[:, :, :17], expected[:, :, :17])
    np.testing.assert_allclose(found, expected, 2**-8, 2**-8)
    np.testing.assert_allclose(gradient, wanted, 2**-7, 2**-7)


@pytest.mark.slow
def test_a_mesh_changes_nothing():
    code = """
        import flax.linen as nn, jax, numpy as np
        from test_merge_kernel import made, merged
        from vlt.runtime.mesh import BATCH_AXES, make_mesh
        tokens = made(b=4)
        mesh = make_mesh({"data": 2, "fsdp": 1, "tensor": 2})
        rules = (("batch", BATCH_AXES), ("heads", "tensor"))
        with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
            for a, b in zip(merged(tokens, "plain"), merged(tokens, "fused")):
                np.testing.assert_allclose(jax.device_get(b), jax.device_get(a), 1e-6, 1e-6)
        print("the same")
    """
    assert run_python(code, devices=4).strip().endswith("the same")


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize(
    ("groups", "tokens", "r", "dtype"),
    [(24, 197, 8, "bfloat16"), (24, 197, 8, "float32"), (2, 1054, 104, "bfloat16")],
)
def test_is_in_the_program_of_a_slice(topology, groups, tokens, r, dtype):
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = make_mesh({"data": -1}, topology_devices(topology))
    split = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    shape = (mesh.size, groups, tokens, 768)
    x = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=split)

    def new(x):
        found = merge(Tokens(x), match(x[:, :, 1:, :64], r, 1))
        return (found.x.astype(jnp.float32) ** 2).sum()

    with jax.set_mesh(mesh):
        text = jax.jit(jax.grad(new)).lower(x).compile().as_text()
    found = hlo.kernels(hlo.parse(text))
    assert {name: entry["count"] for name, entry in found.items()} == {
        "merge_forward": 1, "merge_backward": 1
    }  # fmt: skip


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize(
    ("groups", "tokens", "r", "share"), [(384, 197, 8, 0.35), (64, 600, 60, 0.25)]
)
def test_moves_less_than_the_permutation(groups, tokens, r, share):
    """On one v5e chip, with matching and the gradient, at 768 channels in bfloat16."""
    (device, *_) = topology_devices("v5e:1x1")
    mesh = make_mesh({"data": 1}, [device])

    def of(width, dtype):
        split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        return jax.ShapeDtypeStruct((groups, 1, tokens, width), dtype, sharding=split)

    def moved(name):
        def new(x, keys, size):
            matching = match(keys[:, :, 1:], r, 1)
            y, back = jax.vjp(lambda x: merge(Tokens(x, size[..., 0]), matching).x, x)
            return y, back(y)

        given = of(768, jnp.bfloat16), of(64, jnp.float32), of(1, jnp.float32)
        with jax.set_mesh(mesh), implementation(name):
            return hlo.memory_traffic(hlo.parse(jax.jit(new).lower(*given).compile().as_text()))

    plain, fused = moved("plain"), moved("auto")
    print(f"{plain / 1e9:.2f} GB by a permutation, {fused / 1e9:.2f} GB by the kernel")
    assert fused < share * plain
