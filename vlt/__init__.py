"""Image-language models become video models: adapters and token merging in JAX/Flax."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlt.api import load as load
    from vlt.indices import index as index

__version__ = "0.1.0"
__all__ = ("__version__", "index", "load")


def __getattr__(name: str) -> Any:
    # Loading a model needs Orbax and more; importing the package needs neither.
    if name == "load":
        from vlt.api import load

        return load
    if name == "index":
        from vlt.indices import index

        return index
    raise AttributeError(f"module 'vlt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
