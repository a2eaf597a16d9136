import jax
import numpy as np
import pytest
from helpers import run_python

from vlt.runtime import mesh as sharding

ONE = dict(data=-1, fsdp=1, tensor=1)


class Devices(list):
    """Stands for n devices where only their number matters (errors come before any is used)."""

    def __init__(self, number):
        super().__init__([None] * number)


@pytest.mark.parametrize(
    "config, devices, words",
    [
        (dict(data=3, fsdp=2), 8, ["data=3", "6 places for 8 devices", "product must be 8"]),
        (dict(data=1, fsdp=16), 8, ["mesh.fsdp=16", "devices, 8", "1, 2, 4, 8"]),
        (dict(data=-1, fsdp=3), 8, ["fsdp=3", "3 does not divide", "1, 2, 4, 8"]),
        (dict(data=-1, fsdp=-1), 8, ["data and fsdp", "only one"]),
        (dict(data=0), 8, ["mesh.data must be >= 1", "got 0"]),
        (dict(dta=-1), 8, ["dta", "data, fsdp, tensor"]),
    ],
)
def test_meshes_that_cannot_be_say_what_can(config, devices, words):
    with pytest.raises(sharding.MeshError) as raised:
        sharding.make_mesh(config, Devices(devices))
    for word in words:
        assert word in str(raised.value)


@pytest.mark.smoke
def test_one_device_replicates_everything():
    mesh = sharding.make_mesh(ONE, jax.devices()[:1])
    assert dict(mesh.shape) == dict(data=1, fsdp=1, tensor=1)
    tree = {"a": np.zeros((512, 512)), "b": np.zeros(3)}
    assert all(s.is_fully_replicated for s in jax.tree.leaves(sharding.param_sharding(mesh, tree)))
    batch = sharding.shard_batch({"ids": np.arange(6).reshape(3, 2)}, mesh)
    np.testing.assert_array_equal(batch["ids"], [[0, 1], [2, 3], [4, 5]])


EIGHT = """
    import jax, numpy as np
    from vlt.runtime import mesh as sharding
    from jax.sharding import PartitionSpec as P
    shape = jax.ShapeDtypeStruct

    mesh = sharding.make_mesh(dict(data=-1, fsdp=4, tensor=1))
    assert dict(mesh.shape) == dict(data=2, fsdp=4, tensor=1), mesh
    tensor = sharding.make_mesh(dict(data=-1, tensor=2))
    assert dict(tensor.shape) == dict(data=4, fsdp=1, tensor=2), tensor
    assert dict(sharding.make_mesh(dict(data=2, fsdp=2), jax.devices()[:4]).shape)['data'] == 2

    tree = {'wide': shape((256, 1024), 'float32'), 'tall': shape((1024, 256), 'float32'),
            'square': shape((512, 512), 'float32'), 'odd': shape((1021, 256), 'float32'),
            'none': shape((1021, 1021), 'float32'), 'small': shape((64, 64), 'float32'),
            'scalar': shape((), 'float32'), 'edge': shape((2**16,), 'float32')}
    specs = {name: s.spec for name, s in sharding.param_sharding(mesh, tree).items()}
    assert specs == {'wide': P(None, 'fsdp'), 'tall': P('fsdp'), 'square': P('fsdp'),
                     'odd': P(None, 'fsdp'), 'none': P(), 'small': P(), 'scalar': P(),
                     'edge': P('fsdp')}, specs
    assert sharding.param_sharding(mesh, tree, min_elements=4096)['small'].spec == P('fsdp')
    kernel = np.random.default_rng(0).normal(size=(256, 1024)).astype('float32')
    placed = jax.device_put(kernel, sharding.param_sharding(mesh, kernel))
    assert {s.data.shape for s in placed.addressable_shards} == {(256, 256)}

    frames = np.random.default_rng(0).normal(size=(16, 256)).astype('float32')
    batch = sharding.shard_batch({'frames': frames, 'ids': np.arange(16)}, mesh)
    assert {s.data.shape for s in batch['frames'].addressable_shards} == {(2, 256)}
    np.testing.assert_array_equal(batch['frames'], frames)
    np.testing.assert_array_equal(batch['ids'], np.arange(16))
    with jax.default_matmul_precision('highest'):
        product = jax.jit(lambda x, w: x @ w)(batch['frames'], placed)
    np.testing.assert_allclose(product, frames @ kernel, atol=1e-4)

    for rows, right in ((12, '8 or 16'), (5, 'such as 8')):
        try:
            sharding.shard_batch({'frames': frames[:rows]}, mesh)
        except sharding.MeshError as error:
            assert f'batch of {rows}' in str(error) and right in str(error), error
            assert 'data=2 x fsdp=4' in str(error) and 'multiple of 8' in str(error), error
        else:
            raise AssertionError(f'{rows} rows were split over 8 devices')
    print('all', jax.device_count())
"""


def test_eight_devices():
    assert run_python(EIGHT, devices=8) == "all 8\n"


def test_statistics_of_an_optimizer_may_have_fewer_dimensions_than_their_leaf():
    """Such as Adafactor's rows and columns; leaves themselves may not."""
    mesh = sharding.make_mesh({"data": 1}, jax.devices()[:1])
    rules = ((".*kernel", (None, "tensor")),)
    rows = {"opt_state": {"v_row": {"kernel": np.zeros(8)}}}
    placed = sharding.param_sharding(mesh, rows, rules)
    assert all(each.is_fully_replicated for each in jax.tree.leaves(placed))
    with pytest.raises(sharding.MeshError, match="places 2 dimensions, trained/kernel has"):
        sharding.param_sharding(mesh, {"trained": {"kernel": np.zeros(8)}}, rules)
