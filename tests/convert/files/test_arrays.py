"""The function that makes arrays from a file's bytes."""

import itertools
import operator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlt.convert.errors import ConversionError
from vlt.convert.files.arrays import DTYPES, dense_stride, make_array

_COUNTS = st.one_of(st.integers(0, 6), st.sampled_from([-1, 2**31, 2**62, 2**63, 2**64 - 1, 2**70]))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 30), st.lists(st.tuples(_COUNTS, _COUNTS), max_size=4), _COUNTS)
def test_an_array_is_inside_of_its_bytes_or_an_error(held, dimensions, offset):
    """Compares with the positions of all elements, computed one by one."""
    size, stride = (tuple(d[i] for d in dimensions) for i in (0, 1))
    data = memoryview(np.arange(held, dtype=np.int16).tobytes())
    try:
        array = make_array(data, DTYPES["int16"], offset, size, stride)
    except ConversionError:
        counts = min((offset, *size, *stride)) >= 0
        small = np.prod([float(n) for n in size if n]) <= 2**48
        last = offset + sum((n - 1) * step for n, step in dimensions)
        assert not (counts and small) or (0 not in size and last >= held)
        return
    assert array.shape == size
    assert not array.flags.writeable
    # A step of 0 makes sizes of 2**31 possible; beside an empty axis, `product` would list them.
    if 0 < array.size < 10_000:
        places = itertools.product(*map(range, size))
        expected = [offset + sum(map(operator.mul, stride, place)) for place in places]
        assert all(place < held for place in expected)
        assert array.ravel().tolist() == expected


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (3, 3), (3, 1)),
        (5, (2,), (1,)),
        (0, (2,), (-1,)),
        (-1, (2,), (1,)),
        (0, (2,), ()),
        (6, (), ()),
        (0, (2**62, 4), (0, 0)),
        (0, (0, 2**62), (1, 1)),
        (0, (2, 2), (2**64 - 5, 1)),
        (2**64, (1,), (1,)),
        (0, (True,), (1,)),
        (0, (np.int64(2),), (1,)),
        (0.0, (2,), (1,)),
        (0, (1,) * 33, (1,) * 33),
    ],
)
def test_a_tensor_may_not_leave_its_storage(offset, size, stride):
    data = memoryview(bytes(24))
    with pytest.raises(ConversionError, match="a tensor"):
        make_array(data, DTYPES["float32"], offset, size, stride)


@pytest.mark.parametrize("name", DTYPES)
def test_each_element_type(name: str):
    dtype = DTYPES[name]
    data = bytes(range(1, 2 * dtype.itemsize + 1)) if name != "bool" else b"\1\0"
    array = make_array(memoryview(data + b"\xff"), dtype, 0, (2,), (1,))
    assert (array.dtype, array.tobytes()) == (dtype, data)


@pytest.mark.parametrize("size", [(), (3,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_dense_strides_are_numpys(size, order):
    assert dense_stride(size, order == "F") == np.zeros(size, np.int8, order).strides
