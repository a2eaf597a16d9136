"""The record of a run's config, and of the software it ran on, in the run's folder."""

import importlib.metadata
import json
import pathlib
import platform
import subprocess

from ml_collections import ConfigDict

from vlt.configuration.errors import ConfigError
from vlt.configuration.values import plain, resolved_text
from vlt.storage.files import write_whole

_PACKAGES = (
    *("vlt", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "ml_collections"),
    *("numpy", "av", "decord", "clu", "tensorflow-cpu", "tensorflow", "tensorboard"),
    *("transformers", "tokenizers", "safetensors"),
)
SAVED = "config.json"
# Keys that every run's config has, and that no other project's config.json has all of.
_RUN_KEYS = {"compare", "evals", "mesh", "model", "repeats", "rules", "task", "train"}


def save_run(workdir: str | pathlib.Path, config: ConfigDict) -> None:
    """Writes config.json (read by `load_saved`), config.txt and versions.json into the workdir."""
    folder = pathlib.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    # First, since the other files alone do not make a folder that of a run.
    write_whole(folder / SAVED, json.dumps(plain(config), indent=2) + "\n")
    write_whole(folder / "config.txt", resolved_text(config))
    write_whole(folder / "versions.json", json.dumps(versions(), indent=2) + "\n")


def is_run(workdir: str | pathlib.Path) -> bool:
    """Whether a folder holds the config of a run."""
    try:
        return set(load_saved(workdir)) >= _RUN_KEYS
    except (OSError, ValueError):
        return False


def load_saved(workdir: str | pathlib.Path) -> ConfigDict:
    """Reads the config of a run; sequences come back as tuples.

    Raises:
      ConfigError: the folder holds no config.json, or one that is not a config.
    """
    file = pathlib.Path(workdir) / SAVED
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(saved, dict):
            return ConfigDict(plain(saved))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{file} does not exist: {workdir} is not the folder of a run") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise ConfigError(f"{file} is nested too deeply for a config") from None
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON of a config: {error}") from None
    raise ConfigError(f"{file} holds a {type(saved).__name__}, not a config")


def versions() -> dict[str, str]:
    """Versions of Python, of the packages that affect results and of this project's commit."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"commit": _commit()}


def _commit() -> str:
    """This checkout's commit, with '-dirty' if files were changed; 'none' outside a checkout."""
    here = pathlib.Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # fails in another project's repository
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return "none"
