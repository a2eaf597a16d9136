"""Compiled programs: kept on disk from run to run, and counted."""

from typing import Any

import jax

from vlt.runtime.cache import cache_folder

_EVENT = "/jax/core/compile/backend_compile_duration"


def keep_programs() -> None:
    """Keeps compiled programs in the cache folder, unless JAX was told where (or not) to keep them.

    A run that goes on, or the next one with the same shapes, starts without compiling.
    """
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "programs"))


class ProgramCount:
    """Counts the programs that this process compiles, or finds compiled, until it is closed.

    Attributes:
        count: programs so far. Shapes are static, so it stops growing once every program has run.
    """

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, duration_secs: float, **_: Any) -> None:
        self.count += event == _EVENT

    def close(self) -> None:
        """Stops counting."""
        jax.monitoring.unregister_event_duration_listener(self._heard)
