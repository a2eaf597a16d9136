"""Writes a safetensors file, whole or one shard, from tensors that come one after another."""

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlt.convert.files.safetensors_files import CODES

_ALIGNMENT = 8


def write_safetensors(
    file: Path, shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]], values: Iterable[np.ndarray]
) -> None:
    """Writes the tensors that `shapes` names, whose values `values` yields in the same order.

    Raises OSError.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, (shape, dtype) in shapes.items():
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        places = [position, position + size]
        header[name] = {"dtype": CODES[dtype], "shape": [*shape], "data_offsets": places}
        position += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text)
        for (shape, dtype), array in zip(shapes.values(), values, strict=True):
            whole = np.ascontiguousarray(array, dtype).reshape(shape)
            opened.write(whole.reshape(-1).view(np.uint8).data)
