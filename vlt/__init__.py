"""Image-language models become video models: adapters and token merging in JAX/Flax."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Loading a model needs Orbax and more; importing the package needs neither.
    if name == "load":
        from vlt.api import load

        return load
    raise AttributeError(f"module 'vlt' has no attribute {name!r}")
