"""Golden numbers: what published code gave, as this package has it."""

from pathlib import Path

import numpy as np


def numbers(shared: Path, name: str) -> dict[str, np.ndarray]:
    """Those of shared/golden/NAME.npz; videos [b, t, H, W, 3], ids of 32 bits."""
    with np.load(shared / f"golden/{name}.npz") as file:
        found = dict(file)
    found = {key: x.astype(np.int32) if x.dtype == np.int64 else x for key, x in found.items()}
    return found | {"video": np.moveaxis(found["video"], 2, -1)}
