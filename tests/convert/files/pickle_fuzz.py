"""Reads mutated and generated pickles, bare and in torch's files, in its own process.

    python pickle_fuzz.py FOLDER SEED COUNT

Prints counts as JSON. Exits with a nonzero status at the first case that raises anything but a
ConversionError, that opens, imports or runs anything, that makes a value of a forbidden type or an
array outside its bytes, or that takes too long; memory, CPU time and file sizes are limited.
"""

import collections
import faulthandler
import itertools
import json
import pickle
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pickle_code import (
    Code,
    build,
    call,
    code,
    name,
    numpy_array,
    numpy_type,
    storage,
    tensor,
    write_legacy,
    write_zip,
)

from vlt.convert.errors import ConversionError
from vlt.convert.files import pickle_names, pickles
from vlt.convert.files.arrays import NUMPY_CODES
from vlt.convert.files.pickles import parse
from vlt.convert.files.placeholders import Name, Opaque
from vlt.convert.files.resolve import read_pickle, resolve
from vlt.convert.files.torch_files import read_torch_file

_SLOWEST = 5.0  # seconds per case
_MEMORY = 3 * 2**30
_VALUES = {type(None), bool, int, float, complex, str, bytes, list, tuple, dict, set}
_VALUES |= {np.ndarray, Opaque, Name}
_TABLE = sorted(pickle_names._KNOWN | {*pickle_names._NO_ARRAYS})
_OTHERS = (
    *("example.Class", "example.function", "__torch__.Model", "torch.nn.modules.linear.Linear"),
    *("os.system", "posix.system", "builtins.eval", "builtins.exec", "subprocess.Popen", "io.open"),
    *("importlib.import_module", "numpy.load", "torch.load", "torch.optim.adam.Adam"),
)
_ODD = (
    -1,
    0,
    1,
    2,
    6,
    7,
    255,
    2**16,
    2**31 - 1,
    2**31,
    2**32,
    2**62,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
)
_SINGLE = b"".join(op.code.encode("latin-1") for op in pickles.opcodes if op.arg is None)


class _Generator:
    """Generates programs of opcodes that are mostly well formed."""

    def __init__(self, source: random.Random) -> None:
        self.source = source
        self.forms: tuple[Callable[[int], Any], ...] = (
            self.plain,
            self.number,
            self.container,
            self.container,
            self.call,
            self.call,
            self.tensor,
            self.tensor,
            self.numpy,
            self.build,
            self.made,
            self.memo,
            self.stack,
        )

    def value(self, depth: int) -> Code:
        form = self.source.choice(self.forms if depth > 0 else self.forms[:2])
        return code(form(depth - 1))

    def values(self, depth: int, most: int = 4) -> list[Code]:
        return [self.value(depth) for _ in range(self.source.randint(0, most))]

    def name(self) -> Code:
        return name(self.source.choice(_OTHERS if self.source.random() < 0.1 else _TABLE))

    def plain(self, depth: int) -> Any:
        return self.source.choice(
            (
                None,
                True,
                1.5,
                "a",
                "latin1",
                "f4",
                "C",
                "cpu",
                b"",
                b"\1" * 8,
                (),
                [],
                {},
                self.name(),
            )
        )

    def number(self, depth: int) -> int:
        return self.source.choice(_ODD)

    def container(self, depth: int) -> Any:
        items = self.values(depth)
        keys = [code(self.source.choice(("a", "b", 1, 2.5, b"c", ("a", 1)))) for _ in items]
        ordered = b"".join(itertools.chain(*zip(keys, items, strict=True)))
        forms = (
            *(items, tuple(items), Code(b"(" + b"".join(items) + b"l")),
            *(Code(b"}(" + ordered + b"u"), Code(b"(" + ordered + b"d")),
            *(Code(b"\x8f(" + b"".join(keys) + b"\x90"), Code(b"(" + b"".join(keys) + b"\x91")),
        )
        return self.source.choice(forms)

    def call(self, depth: int) -> Code:
        form = self.source.randrange(6)
        args = code(tuple(self.values(depth)))
        if form == 0:
            return Code(b"(" + self.name() + b"".join(self.values(depth)) + b"o")
        if form == 1:
            return Code(b"(" + b"".join(self.values(depth)) + b"i" + self.name()[1:])
        if form == 2:
            return Code(self.name() + args + b"\x81")
        if form == 3:
            return Code(self.name() + args + b"}\x92")
        return Code(self.name() + args + b"R")

    def count(self) -> int:
        return self.source.choice((*range(7), *range(7), *_ODD))

    def tensor(self, depth: int) -> Code:
        kinds = ("torch.FloatStorage", "torch.HalfStorage", "torch.UntypedStorage", "torch.Size")
        key = self.source.choice(("0", "1", "2", 0))
        under = storage(self.source.choice((6, 6, self.count())), key, self.source.choice(kinds))
        if self.source.random() < 0.1:
            under = self.value(depth)
        shape = [self.count() for _ in range(self.source.randint(0, 3))]
        stride = [self.count() for _ in range(len(shape) if self.source.random() < 0.9 else 2)]
        if self.source.random() < 0.8:
            return tensor(under, self.count(), tuple(shape), tuple(stride))
        kind = self.source.choice((self.name(), name("torch.float64"), name("torch.int8")))
        args = (under, self.count(), tuple(shape), tuple(stride), False, None, kind)
        return call("torch._utils._rebuild_tensor_v3", *args)

    def numpy(self, depth: int) -> Code:
        plain = self.source.choice((*NUMPY_CODES, "O", "V4", "S3", "f4,f4"))
        kind = numpy_type(plain, self.source.choice("<>=|O"))
        data = bytes(self.source.choice((0, 1, 4, 8, 16)))
        if self.source.random() < 0.3:
            return call("numpy.core.multiarray.scalar", kind, data)
        shape = tuple(self.count() for _ in range(self.source.randint(0, 3)))
        return numpy_array(kind, shape, data, self.source.choice((True, False, 1)))

    def build(self, depth: int) -> Code:
        return build(self.value(depth), self.value(depth))

    def made(self, depth: int) -> Code:
        made = self.source.choice((b")\x81", b")R", b")}\x92"))
        return Code(name(self.source.choice(_OTHERS[:3])) + made + self.value(depth) + b"b")

    def memo(self, depth: int) -> Code:
        place = bytes([self.source.randrange(6)])
        get = self.source.choice((b"h" + place, b"j" + place + bytes(3), b"g%d\n" % place[0]))
        put = self.source.choice(
            (b"q" + place, b"r" + place + bytes(3), b"p%d\n" % place[0], b"\x94")
        )
        return Code(self.value(depth) + put + get + b"\x86")

    def stack(self, depth: int) -> Code:
        value = self.value(depth)
        forms = (
            *(value + b"2\x86", value + value + b"0", b"(" + value + b"1" + value),
            *(b"]" + value + b"a", b"}K\x01" + value + b"s", b"\x80\x04" + value),
            *(b"\x95" + bytes([self.source.randrange(3)]) + bytes(7) + value,),
            *(b"\x8c\x07example\x8c\x05Class\x93", value + b"\x85", value * 3 + b"\x87"),
            *(b"I01\n", b"L-12L\n", b"F1.5\n", b"S'a\\x41'\n", b"Va\\u00e9\n", b"U\x01a"),
            *(b"T\1\0\0\0a", b"\x8c\x01a", b"\x8d\1" + bytes(7) + b"a", b"\x8b\1\0\0\0\1"),
            *(
                b"\x8e\1" + bytes(7) + b"a",
                b"\x96\1" + bytes(7) + b"a",
                b"C\1a",
                b"M\1\1",
                b"\x8a\1\1",
            ),
        )
        return Code(self.source.choice(forms))


def _mutated(source: random.Random, data: bytes, other: bytes) -> bytes:
    """Makes a few changes: bits, opcodes, numbers; pieces cut, repeated or taken from `other`."""
    result = bytearray(data)
    for _ in range(source.choice((1, 1, 2, 3, 8))):
        at = source.randrange(len(result) + 1)
        end = min(len(result), at + source.choice((1, 2, 4, 8, 40)))
        start = source.randrange(len(other) + 1)
        change = source.randrange(7)
        if change == 0 and at < len(result):
            result[at] ^= 1 << source.randrange(8)
        elif change == 1:
            result[at:at] = bytes([source.choice(_SINGLE)])
        elif change == 2:
            result[at:end] = (source.choice(_ODD) % 2**64).to_bytes(8, "little")[: end - at]
        elif change == 3:
            del result[at:end]
        elif change == 4:
            result[at:at] = result[at:end] * source.choice((1, 2, 30))
        elif change == 5:
            result[at:end] = other[start : start + source.choice((4, 16, 80))]
        else:
            del result[source.choice((at, len(result))) :]
    return bytes(result)


def _sound() -> list[bytes]:
    """Pickles like those of real files."""
    state = {
        "epoch": 3,
        "state_dict": call(
            "collections.OrderedDict", [["w", tensor()], ["b", tensor(None, 0, ())]]
        ),
        "config": build(call("argparse.Namespace"), {"path": call("pathlib.PosixPath", "/", "a")}),
        "mean": numpy_array(numpy_type("f8"), (2, 1), bytes(16)),
        "scale": call("numpy.core.multiarray.scalar", numpy_type("f4"), bytes(4)),
        "steps": call("collections.Counter", {10: 1}),
    }
    module = Code(
        name("__torch__.Model") + b")\x81" + code({"w": tensor(), "training": True}) + b"b"
    )
    plain = {"a": [1, -2, 3.5, 2**70], "b": ("text", b"bytes", None, {1, 2}), "c": {"d": "é"}}
    plains = [pickle.dumps(plain, protocol) for protocol in range(6)]
    arrays = [pickle.dumps({"a": np.arange(3.0), "s": np.int16(1)}, p) for p in range(6)]
    return [code(state) + b".", module + b".", *plains, *arrays]


def _walk(value: Any) -> int:
    """Checks each value of a result, and returns how many there are."""
    if type(value) not in _VALUES:
        raise AssertionError(f"made a {type(value)}")
    if type(value) is np.ndarray:
        _check_array(value)
    if type(value) is dict:
        return 1 + sum(map(_walk, itertools.chain(value, value.values())))
    if type(value) in (list, tuple, set):
        return 1 + sum(map(_walk, value))
    return 1


def _check_array(array: np.ndarray) -> None:
    if array.flags.writeable or array.dtype.hasobject or array.dtype.names:
        raise AssertionError(f"made an array of {array.dtype}")
    if array.size:
        low, high = np.lib.array_utils.byte_bounds(array)
        first, last = np.lib.array_utils.byte_bounds(np.frombuffer(array.base, np.uint8))
        if not first <= low <= high <= last:
            raise AssertionError("made an array outside of its bytes")


class _Watch:
    """An audit hook that, while on, ends the process at anything but reading one file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.on = False
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple) -> None:
        if not self.on or event in ("mmap.__new__", "builtins.id"):
            return
        if event == "open" and str(args[0]) == self.path and "w" not in str(args[1]):
            return
        self.on = False
        print(f"{event} {args!r}"[:500], file=sys.stderr, flush=True)
        raise SystemExit(3)


def _cases(seed: int, count: int):
    source = random.Random(seed)
    generator = _Generator(source)
    corpus = _sound()
    for number in range(count):
        if number % 2:
            data = generator.value(source.choice((1, 2, 3, 4, 5))) + b"."
        else:
            data = source.choice(corpus)
        if not number % 2 or source.random() < 0.3:
            data = _mutated(source, data, source.choice(corpus))
        yield number, data


def _write(source: random.Random, path: Path, data: bytes) -> None:
    """Writes a whole file around a case; some are also damaged outside the pickle."""
    storages = {"0": bytes(24), "1": bytes(4), "2": b""}
    write = source.choice((write_zip, write_legacy))
    write(path, data, storages)
    if source.random() < 0.3:
        path.write_bytes(_mutated(source, path.read_bytes(), data))


def _reader(source: random.Random, path: Path, number: int, data: bytes) -> Callable[[], Any]:
    if number % 8 in (0, 1):
        _write(source, path, data)
        return lambda: read_torch_file(path)
    if number % 8 == 2:
        path.write_bytes(data)
        return lambda: read_pickle(path)
    under = memoryview(bytes(24))
    return lambda: resolve(parse(data, 0, True).value, len(data), lambda _: under)


def _count_uses() -> tuple[collections.Counter, collections.Counter]:
    """Starts counting the opcodes and names that the cases reach."""
    opcodes: collections.Counter = collections.Counter()
    names: collections.Counter = collections.Counter()

    def counting(opcode: int, handler: Callable) -> Callable:
        def run(machine: Any) -> None:
            opcodes[opcode] += 1
            handler(machine)

        return run

    def admit(full: str) -> Name:
        names[full] += 1
        return pickle_names.admit(full)

    pickles._OPCODES = {key: counting(key, run) for key, run in pickles._OPCODES.items()}
    pickles.admit = admit
    return opcodes, names


def main(folder: str, seed: str, count: str) -> None:
    faulthandler.enable()
    path = Path(folder) / "case"
    opcodes, names = _count_uses()
    watch = _Watch(path)
    source = random.Random(int(seed) + 1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
    resource.setrlimit(resource.RLIMIT_CPU, (60 + int(count) // 100,) * 2)
    outcomes: collections.Counter = collections.Counter()
    for number, data in _cases(int(seed), int(count)):
        read = _reader(source, path, number, data)
        began = time.process_time()
        # The first cases load what decoding loads only once.
        watch.on = number >= 500
        try:
            outcomes["values"] += _walk(read())
            outcomes["read"] += 1
        except ConversionError as error:
            outcomes[type(error).__name__] += 1
        except BaseException:
            watch.on = False
            print(f"case {number}: {data!r}", file=sys.stderr)
            raise
        watch.on = False
        if time.process_time() - began > _SLOWEST:
            raise AssertionError(f"case {number} took long: {data!r}")
    missing = sorted(map(chr, pickles._OPCODES.keys() - opcodes.keys()))
    unseen = sorted({*_TABLE} - names.keys())
    print(json.dumps({**outcomes, "opcodes not reached": missing, "names not reached": unseen}))


if __name__ == "__main__":
    main(*sys.argv[1:])
