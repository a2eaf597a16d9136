"""The pages of docs/reference, by name."""

from collections.abc import Callable

from docs.api import python
from docs.config_keys import config_keys
from docs.methods import methods
from docs.tables import checkpoints, protocols, videos, workdir

PAGES: dict[str, Callable[[], str]] = {
    "config": config_keys,
    "methods": methods,
    "videos": videos,
    "protocols": protocols,
    "checkpoints": checkpoints,
    "workdir": workdir,
    "python": python,
}
