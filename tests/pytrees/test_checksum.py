import jax.numpy as jnp
import numpy as np
from helpers import run_python
from hypothesis import given, settings
from hypothesis import strategies as st

from vlt.pytrees.checksum import checksums

RNG = np.random.default_rng(0)
TREE = {
    "kernel": RNG.normal(size=(8, 24, 3)).astype(np.float32),
    "half": RNG.normal(size=(16, 5)).astype(jnp.bfloat16),
    "ids": RNG.integers(-9, 9, (64,), np.int32),
    "failed": np.array([True, False]),
    "step": np.int32(7),
    "wide": RNG.normal(size=(4, 3)),
    "pixels": RNG.integers(0, 255, (3, 3), np.uint8),
}
EXPECTED = checksums(TREE)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([name for name in TREE if name != "failed"]), st.integers(0, 10**6))
def test_any_flipped_bit_changes_its_leaf_alone(name, place):
    changed = {key: np.array(leaf) for key, leaf in TREE.items()}
    raw = changed[name].reshape(-1).view(np.uint8)
    raw[place // 8 % len(raw)] ^= 1 << place % 8
    found = checksums(changed)
    assert {key for key in TREE if found[key] != EXPECTED[key]} == {name}


def test_exchanged_elements_and_changed_truth_values_are_seen():
    turned = TREE | {"kernel": TREE["kernel"][::-1], "failed": ~TREE["failed"]}
    found = checksums(turned)
    assert found["kernel"] != EXPECTED["kernel"] and found["failed"] != EXPECTED["failed"]


def test_eight_devices_find_the_same():
    code = """
        import jax
        import test_checksum as here
        from vlt.pytrees.checksum import checksums
        from vlt.runtime.mesh import make_mesh, param_sharding
        mesh = make_mesh({"data": 2, "fsdp": 4})
        places = param_sharding(mesh, here.TREE, min_elements=8)
        assert "fsdp" in str(places["kernel"].spec), places
        tree = {name: leaf for name, leaf in here.TREE.items() if name != "wide"}
        placed = jax.device_put(tree, {name: places[name] for name in tree})
        assert checksums(placed) == {name: here.EXPECTED[name] for name in tree}
    """
    run_python(code, devices=8)
