"""What placeholders become, within the time and memory that the file's size allows."""

import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from pickle_code import Code, build, call, code, name, numpy_array, numpy_type, storage, tensor

from vlt.convert.errors import ConversionError, UnsafePickleError
from vlt.convert.files.pickles import parse
from vlt.convert.files.resolve import read_pickle, resolve


def _read(pickled: bytes, size: int = 10_000):
    numbers = memoryview(np.arange(6, dtype=np.float32).tobytes())
    return resolve(parse(pickled + b".", storages=True).value, size, lambda _: numbers)


@pytest.mark.parametrize(
    ("layer", "levels"),
    [
        (b"2\x86", 60),
        (b"q\x00]h\x00ah\x00a", 60),
        (b"q\x00}(K\x01h\x00K\x02h\x00u", 60),
        (b"q\x00}(X\x01\0\0\0ah\x00X\x01\0\0\0bh\x00u", 90),
    ],
    ids=["tuples", "lists", "dicts", "named"],
)
def test_shared_containers_do_not_expand(layer: bytes, levels: int):
    began = time.process_time()
    with pytest.raises(ConversionError, match="more than 8 times the size of the file"):
        _read(b"](K\x01K\x02e" + layer * levels)
    assert time.process_time() - began < 2


def test_sharing_is_kept_and_made_once():
    found = _read(b"](K\x01K\x02eq\x00}(K\x01h\x00K\x02h\x00u")
    assert found == {1: [1, 2], 2: [1, 2]}
    assert found[1] is found[2]
    first, second = _read(tensor() + b"q\x00h\x00\x86")
    assert first is second


def test_long_names_and_texts_do_not_expand():
    """One key of 4,000 letters on 90 nested levels over many leaves; one text in many places."""
    key, leaves = code("a" * 4000), code(dict.fromkeys(range(200), 1))
    nested = key + b"q\x000" + leaves + b"q\x01" + b"0}h\x00h\x01s" + b"q\x010}h\x00h\x01s" * 90
    with pytest.raises(ConversionError, match="8 times"):
        _read(Code(nested), 6000)
    with pytest.raises(ConversionError, match="8 times"):
        _read(code("a" * 10_000) + b"q\x000](" + b"h\x00" * 3000 + b"e")
    with pytest.raises(ConversionError, match="8 times"):
        _read(code(b"a" * 10_000) + b"q\x000](" + b"h\x00" * 3000 + b"e")
    assert len(_read(code("a" * 10_000) + b"q\x000](" + b"h\x00" * 300 + b"e")) == 300


@pytest.mark.parametrize(
    "pickled",
    [b"]q\x00h\x00a", b"}q\x00K\x01h\x00s", b"]q\x00h\x00\x85a", b"}q\x00K\x01]h\x00as"],
    ids=["list", "dict", "tuple in list", "list in dict"],
)
def test_a_container_that_holds_itself_is_refused(pickled: bytes):
    with pytest.raises(ConversionError, match="contains itself"):
        _read(pickled)


def test_a_module_that_holds_itself_is_refused():
    module = Code(name("__torch__.Model") + b")\x81q\x00")
    with pytest.raises(ConversionError, match="contains itself"):
        _read(Code(module + b"}" + code("a") + b"h\x00sb"))


@pytest.mark.parametrize("layer", [b"\x85", b"]q\x01", b"}q\x01"])
def test_deep_nesting_is_refused(layer: bytes):
    deep = {b"\x85": b"N" + layer * 100_000, b"]q\x01": b"]" * 100_000 + b"a" * 99_999}
    pickled = deep.get(layer, (b"}K\x01" * 100_000) + b"N" + b"s" * 100_000)
    with pytest.raises(ConversionError, match="more than 100 deep"):
        _read(pickled)


def test_an_expanded_tensor_may_be_somewhat_larger_than_the_file():
    mask = _read(tensor(storage(), 0, (1000, 1000), (0, 0)))
    assert (mask.shape, mask.max()) == ((1000, 1000), 0)
    for size in ((3000, 3000), (2**40,), (2**20, 2**20), (2**62, 2**62)):
        with pytest.raises(ConversionError, match="8 times the size"):
            _read(tensor(storage(), 0, size, (0,) * len(size)))
    many = code({str(i): tensor(storage(), 0, (1000, 1000), (0, 0)) for i in range(10)})
    with pytest.raises(ConversionError, match="8 times the size"):
        _read(many)
    assert len(_read(many, 10_000_000)) == 10


def test_what_is_no_value_alone_is_inert():
    assert [*map(str, _read(code([storage(), call("numpy.dtype", "f4")])))] == [
        "<torch.storage>",
        "<numpy.dtype>",
    ]


def test_copies_are_bounded():
    """Calls that copy their arguments, again and again."""
    numbers = code([0] * 2000) + b"q\x000"
    for again in (
        b"cbuiltins\nset\nh\x00\x85R0",
        b"cbuiltins\ntuple\nh\x00\x85R0",
        b"ctorch\nSize\nh\x00\x85R0",
    ):
        with pytest.raises(ConversionError, match="copies more than it holds"):
            _read(numbers + again * 1000 + b"N")
    text = code("a" * 5000) + b"q\x000" + code("latin1") + b"q\x010"
    with pytest.raises(ConversionError, match="copies more than it holds"):
        _read(text + b"c_codecs\nencode\nh\x00h\x01\x86R0" * 1000 + b"N")


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ((3,), bytes(8)),
        ((1,), bytes(8)),
        ((2**62, 4), b""),
        ((2**64 + 2,), bytes(8)),
        ((-1, -2), bytes(8)),
        ((True, 2), bytes(8)),
        ((2.0,), bytes(8)),
        ([2], bytes(8)),
        ((2,), [0] * 8),
        ((2,), tensor()),
        ((2,), storage()),
        ((2,), numpy_array(numpy_type("f4"), (2,), bytes(8))),
        ((2,), None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_numpy_array_fits_its_bytes(shape, data):
    with pytest.raises(ConversionError, match="numpy array"):
        _read(numpy_array(numpy_type("f4"), shape, data))


@pytest.mark.parametrize("kind", ["O", "O8", "V8", "|V8", "f4,f4", "i4, (2,)f8", "(2,)f4", "f16"])
def test_a_numpy_type_is_a_plain_number(kind: str):
    for pickled in (numpy_type(kind), numpy_array(numpy_type(kind), (1,), bytes(8))):
        with pytest.raises(ConversionError, match="not a plain number"):
            _read(pickled)


def test_a_numpy_type_gets_no_other_state():
    fields = (3, "<", None, ("a",), {"a": (name("numpy.ndarray"), 0)}, 8, 1, 27)
    assert _read(numpy_array(build(call("numpy.dtype", "f4"), fields), (2,), bytes(8))).sum() == 0
    for state in ({}, (), (3,), (3, "O"), (3, 1), (3, "<") * 5):
        with pytest.raises(ConversionError, match="dtype with a state"):
            _read(build(call("numpy.dtype", "f4"), state))


def test_a_numpy_array_gets_one_state():
    array = numpy_array(numpy_type("f4"), (2,), bytes(8))
    with pytest.raises(ConversionError, match="state of an unknown form"):
        _read(build(array, (1, (400,), numpy_type("f4"), False, bytes(8))))
    empty = call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), (0,), b"b")
    with pytest.raises(ConversionError, match="without its state"):
        _read(empty)


def test_a_tensor_is_no_storage_of_another():
    """Known attempts: sizes claimed over something other than a storage."""
    array = numpy_array(numpy_type("f4"), (2,), bytes(8))
    for under in (tensor(), array, numpy_type("f4"), name("torch.float32"), b"abc", call("e.C")):
        for made in (
            tensor(under, 0, (2,), (1,)),
            call("torch._utils._rebuild_tensor", under, 0, (2,), (1,)),
            call(
                *("torch._utils._rebuild_tensor_v3", under, 0, (2,), (1,), False, None),
                name("torch.float32"),
            ),
        ):
            with pytest.raises(ConversionError, match="instead of a storage"):
                _read(made)


@pytest.mark.parametrize(
    "kind", ["example.Kind", "torch.FloatStorage", "torch.Size", "numpy.float32"]
)
def test_an_element_type_is_one_of_torch(kind: str):
    dtypes = (name(kind), numpy_type("f4"), call("example.Kind"), "float32", tensor())
    for dtype in dtypes:
        with pytest.raises(ConversionError, match="element type"):
            _read(
                call(
                    *("torch._utils._rebuild_tensor_v3", storage(), 0, (2,), (1,), False, None),
                    dtype,
                )
            )


def test_a_wider_element_type_does_not_widen_the_storage():
    under = storage(8, "0", "torch.UntypedStorage")

    def read(size: int):
        made = call(
            *("torch._utils._rebuild_tensor_v3", under, 0, (size,), (1,), False, None),
            name("torch.float64"),
        )
        return _read(made)

    assert read(1).shape == (1,)
    with pytest.raises(ConversionError, match="reaches past its 1 elements"):
        read(2)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (numpy_type("i8"), (2,), (1,)),
        (0, (True,), (1,)),
        (0, (2.0,), (1,)),
        (0, [2], (1,)),
        (0, ((2,),), (1,)),
        (0, (2,), (call("example.Number"),)),
        (0, (-1,), (1,)),
        (3, (2,), (-1,)),
        (2**63, (2,), (1,)),
        (0, (7,), (1,)),
        (0, (2, 2), (5, 2**64 - 5)),
    ],
    ids=str,
)
def test_numbers_of_a_tensor_are_counts(offset, size, stride):
    with pytest.raises(ConversionError, match="tensor"):
        _read(tensor(storage(), offset, size, stride))


def test_numpy_numbers_are_pythons_before_they_are_used():
    """2**63 - 1 and 2, as numpy's numbers, once overflowed the check."""
    numbers = [
        call("numpy.core.multiarray.scalar", numpy_type("i8"), n.to_bytes(8, "little"))
        for n in (2**63 - 1, 2)
    ]
    with pytest.raises(ConversionError, match="reaches past"):
        _read(tensor(storage(), numbers[0], (numbers[1],), (numbers[0],)))
    assert _read(tensor(storage(), 0, (numbers[1],), (1,))).tolist() == [0, 1]


@pytest.mark.parametrize("flags", [{"conj": True}, {"neg": True}, 1])
def test_a_tensor_with_a_pending_operation_is_refused(flags):
    with pytest.raises(ConversionError, match="conjugated"):
        _read(tensor(storage(), 0, (2,), (1,), flags))


def test_python_2_wrote_bytes_as_strings():
    """Bytes that are all zero, which are valid text, and others."""
    for numbers in (np.zeros(2, np.float32), np.float32([1.5, -2])):
        written = Code(b"U\x08" + numbers.tobytes())
        assert _read(numpy_array(numpy_type("f4"), (2,), written)).tolist() == numbers.tolist()
        one = Code(b"U\x04" + numbers[:1].tobytes())
        scalar = call("numpy.core.multiarray.scalar", numpy_type("f4"), one)
        assert _read(scalar) == numbers[0]
    text = code("a" * 10_000) + b"q\x000"
    empty = call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), (0,), b"b")
    array = empty + b"(K\x01M\x10'\x85" + numpy_type("i1") + b"\x89h\x00tb"
    with pytest.raises(ConversionError, match="8 times"):
        _read(text + b"](" + array * 3000 + b"e")


def test_a_pickle_file_is_read_without_storages(tmp_path: Path):
    path = tmp_path / "captions.pkl"
    path.write_bytes(pickle.dumps({"video1": [["a", "man"], ["a", "dog"]]}))
    assert read_pickle(path) == {"video1": [["a", "man"], ["a", "dog"]]}
    path.write_bytes(storage() + b".")
    with pytest.raises(ConversionError, match=f"^{path}: .*outside of the pickle"):
        read_pickle(path)
    path.write_bytes(call("os.system", "true") + b".")
    with pytest.raises(UnsafePickleError, match=f"^{path}: the pickle asks for os.system"):
        read_pickle(path)
