"""Placeholders without behaviour, which stand for values while a pickle is read.

None has a state that a pickle could set, a `__dict__` or a hook that Python would call: only the
functions of the pickle reader and of vlt.convert.files.resolve look into them, by exact type. All
compare and hash by identity.
"""

import dataclasses
from typing import Any


@dataclasses.dataclass(slots=True, eq=False)
class Name:
    """A function or class that a pickle names: its name alone; nothing is looked up."""

    full: str

    def __str__(self) -> str:
        return self.full


@dataclasses.dataclass(slots=True, eq=False)
class Opaque:
    """Stands for an object whose class is not loaded; what it held is dropped."""

    kind: str

    def __str__(self) -> str:
        return f"<{self.kind}>"


@dataclasses.dataclass(slots=True, eq=False)
class Module:
    """A TorchScript module: its attributes, which include tensors and modules."""

    attributes: dict[Any, Any]


@dataclasses.dataclass(slots=True, eq=False)
class Storage:
    """`count` elements of the bytes that the file stores under `key`, from element `first` on.

    kind: a name in vlt.convert.files.arrays.DTYPES. whole: number of all elements under the key.
    """

    kind: str
    key: str
    whole: int
    first: int
    count: int


@dataclasses.dataclass(slots=True, eq=False)
class Tensor:
    """offset, size, stride: in elements of `kind`, as claimed; checked when the array is made."""

    storage: Storage
    kind: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclasses.dataclass(slots=True, eq=False)
class NumpyType:
    """A numpy dtype. code: one of `NUMPY_CODES` of vlt.convert.files, or "" for text and times."""

    code: str
    order: str


@dataclasses.dataclass(slots=True, eq=False)
class NumpyArray:
    """A numpy array, empty until the pickle sets its state.

    data: text where Python 2 wrote bytes that happen to be UTF-8.
    """

    shape: tuple[int, ...] = ()
    kind: NumpyType | None = None
    fortran: bool = False
    data: bytes | str = b""
