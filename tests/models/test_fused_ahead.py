"""Attention's kernel in programs compiled for absent TPU slices, and over a mesh of CPUs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from helpers import run_python
from jax.sharding import NamedSharding, PartitionSpec
from slices import TOPOLOGIES, needs_libtpu

from vlt.configuration import load_config
from vlt.costs import hlo
from vlt.models.attention import Attention
from vlt.models.tokens import Pattern
from vlt.runtime.mesh import BATCH_AXES, make_mesh
from vlt.training.ahead import compile_ahead, topology_devices

CONFIGS = (
    "configs/msta.py:base2novel_k400",
    "configs/tempme.py:msrvtt_b16",
    "configs/tempme.py:activitynet_b32",
    "configs/token_mixing.py:msvd_mix",
    "configs/token_mixing.py:msvd_mix_l16",
    "configs/btadapter.py:webvid_l14",
    "configs/btadapter.py:webvid_eva_g",
)


def compiled(topology, tokens=197, width=768, heads=12, sizes=True, rows=(8, 2)):
    """Compiled attention with its gradient, split over a slice."""
    mesh = make_mesh({"data": -1}, topology_devices(topology))
    module = Attention(heads, dtype=jnp.bfloat16)
    split = NamedSharding(mesh, PartitionSpec(BATCH_AXES))

    def of(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=split)

    x, bias = of(*rows, tokens, width), of(*rows, 1, 1, tokens, dtype=jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), Pattern(x, x))
    whole = NamedSharding(mesh, PartitionSpec())
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), shapes
    )

    def loss(x, params, bias):
        pattern = Pattern(x, x, bias if sizes else None)
        return module.apply(params, pattern)[0].astype(jnp.float32).sum()

    rules = (("batch", BATCH_AXES), ("heads", "tensor"))
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        return jax.jit(jax.value_and_grad(loss)).lower(x, params, bias).compile()


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize(
    "shape",
    [
        {"sizes": True},
        {"tokens": 1569, "rows": (4, 1)},
        {"tokens": 257, "width": 1408, "heads": 16, "sizes": False},
        {"tokens": 50, "rows": (4, 12)},
    ],
    ids=["B/16", "ViCLIP", "EVA-G", "B/32"],
)
def test_the_kernel_is_in_the_program(topology, shape):
    found = hlo.kernels(hlo.parse(compiled(topology, **shape).as_text()))
    assert {name: entry["count"] for name, entry in found.items()} == {
        "attention_forward": 1, "attention_backward": 1
    }  # fmt: skip
    forward, backward = (found[f"attention_{way}"]["operations"] for way in ("forward", "backward"))
    assert 2 * backward == 5 * forward, "two products, and five with those that are done again"


@pytest.mark.slow
@needs_libtpu
def test_no_logits_are_written():
    # 64 videos per chip: no array fits into on-chip memory.
    program = hlo.parse(compiled("v5e:2x2", tokens=1569, rows=(256, 1)).as_text())
    moved = {each["kind"]: each["bytes"] for each in hlo.traffic(program)}
    array = 64 * 1569 * 768 * 2
    # Queries, keys, values and the output; the gradient reads one more and writes three. Token
    # sizes and their gradient are a few bytes.
    assert moved["attention_forward"] == pytest.approx(4 * array, rel=0.01)
    assert moved["attention_backward"] == pytest.approx(7 * array, rel=0.02)
    logits = 64 * 12 * 1569**2 * 2
    assert hlo.memory_traffic(program) < 2 * logits


@pytest.mark.slow
@needs_libtpu
def test_traffic_of_programs_whose_traffic_is_known():
    (device, *_) = topology_devices("v5e:1x1")
    one = jax.sharding.SingleDeviceSharding(device)

    def moved(function, *shapes):
        given = [jax.ShapeDtypeStruct(shape, dtype, sharding=one) for shape, dtype in shapes]
        return hlo.memory_traffic(hlo.parse(jax.jit(function).lower(*given).compile().as_text()))

    large, table = ((8192, 8192), jnp.float32), ((400_000, 512), jnp.float32)
    whole = 4 * 8192**2
    assert moved(lambda x: x + 1, large) == 2 * whole
    assert moved(lambda x, y: jnp.tanh(x) * y, large, large) == 3 * whole
    assert moved(lambda x: x.sum(), large) == pytest.approx(whole, rel=0.01)
    narrow = ((8192, 8192), jnp.bfloat16)
    assert moved(lambda x, y: x @ y, narrow, narrow) == pytest.approx(1.5 * whole, rel=0.01)
    # Only the rows looked up, not the table (the compiler moves a small one onto the chip whole).
    looked_up = moved(lambda table, ids: table[ids], table, ((6400,), jnp.int32))
    assert looked_up == pytest.approx(2 * 6400 * 512 * 4, rel=0.05)


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("config", CONFIGS)
def test_steps_of_the_papers_have_it(config, topology):
    found = compile_ahead(load_config(config), topology, batch=8)
    assert found["kernels"]["attention_forward"] >= 12


@pytest.mark.slow
def test_a_mesh_changes_nothing():
    code = """
        import flax.linen as nn, jax, jax.numpy as jnp, numpy as np
        from vlt.models.attention import Attention, causal_bias
        from vlt.models.fused import implementation
        from vlt.models.tokens import Pattern
        from vlt.runtime.mesh import BATCH_AXES, make_mesh
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(4, 2, 20, 128)), jnp.float32)
        sizes = jnp.log(jnp.asarray(rng.integers(1, 9, (4, 2, 1, 1, 20)), jnp.float32))
        module = Attention(4)
        params = jax.jit(module.init)(jax.random.key(0), Pattern(x, x))

        def found(name, bias):
            def loss(params, x):
                y = module.apply(params, Pattern(x, x, bias))[0]
                return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum()

            with implementation(name):
                program = jax.jit(jax.value_and_grad(loss, (0, 1)))
                assert ("shard_map" in str(jax.make_jaxpr(program)(params, x))) == (name == "fused")
                return jax.device_get(program(params, x))

        rules = (("batch", BATCH_AXES), ("heads", "tensor"))
        for axes in ({"data": 2, "fsdp": 1, "tensor": 2}, {"data": 2, "fsdp": 2, "tensor": 1}):
            with jax.set_mesh(make_mesh(axes)), nn.logical_axis_rules(rules):
                for bias in (None, sizes, causal_bias(20)):
                    plain, fused = found("plain", bias), found("fused", bias)
                    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(fused)):
                        np.testing.assert_allclose(b, a, 0, 1e-5 * max(1, np.abs(a).max()))
        print("the same")
    """
    assert run_python(code, devices=4).strip().endswith("the same")
