"""What a pickle's values are while it is read: things without behaviour.

None has a state that a pickle could set, a `__dict__` or a hook that Python would call: only the
functions of vlt.convert.pickles and vlt.convert.pickle_names look into them, by exact type. All
compare and hash by identity.
"""

import dataclasses
from typing import Any


@dataclasses.dataclass(slots=True, eq=False)
class Name:
    """A function or class that a pickle names: its name alone, nothing is looked up."""

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
    """A TorchScript module: its attributes, tensors and modules among them."""

    attributes: dict[Any, Any]


@dataclasses.dataclass(slots=True, eq=False)
class Storage:
    """`count` elements of the bytes that the file keeps under `key`, from element `first` on.

    kind: a name of vlt.convert.arrays.DTYPES. whole: elements under the key.
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
    """numpy's dtype. code: a key of vlt.convert.arrays.NUMPY_CODES, or "" for text and times."""

    code: str
    order: str


@dataclasses.dataclass(slots=True, eq=False)
class NumpyArray:
    """numpy's array, empty until the pickle gives its state.

    data: text where Python 2 wrote bytes that are UTF-8 by chance.
    """

    shape: tuple[int, ...] = ()
    kind: NumpyType | None = None
    fortran: bool = False
    data: bytes | str = b""
