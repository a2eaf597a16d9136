"""Golden numbers: outputs of published code, in this package's layout."""

from pathlib import Path

import numpy as np


def numbers(shared: Path, name: str) -> dict[str, np.ndarray]:
    """Those of shared/golden/NAME.npz, with videos [b, t, H, W, 3] and 32-bit ids."""
    with np.load(shared / f"golden/{name}.npz") as file:
        found = dict(file)
    found = {key: x.astype(np.int32) if x.dtype == np.int64 else x for key, x in found.items()}
    return found | {"video": np.moveaxis(found["video"], 2, -1)}
