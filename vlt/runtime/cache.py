"""The folder for what can be made again: generated data, compiled programs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$VLT_CACHE, or ~/.cache/vlt where that is not set."""
    return Path(os.environ.get("VLT_CACHE") or Path.home() / ".cache" / "vlt")
