"""Configs: read from a file and a variant, changed, written down, compared.

A config file is a Python module with `get_config(variant='')` and, where it has variants, a mapping
`VARIANTS` of their names to functions that return the config:

    VARIANTS = {"": default, "masked": masked}

    def get_config(variant: str = "") -> ConfigDict:
        return configuration.choose_variant(VARIANTS, variant)

It takes parts of others by `from . import common`: of its own folder, or else of the package.
"""

import difflib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import pathlib
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, pairwise
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from vlt.bounds import out_of_bounds
from vlt.storage.files import write_whole

ABSENT = "(absent)"
# The package's config files; in a checkout a link to the folder `configs` beside it.
PACKAGED = pathlib.Path(__file__).resolve().parent / "configs"

_PACKAGES = (
    *("vlt", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "ml_collections"),
    *("numpy", "av", "decord", "clu", "tensorflow-cpu", "tensorflow", "tensorboard"),
    *("transformers", "tokenizers", "safetensors"),
)
_modules = count()
# That the config of every run has, and other projects' config.json together have not.
_RUN_KEYS = {"compare", "evals", "mesh", "model", "repeats", "rules", "task", "train"}


class ConfigError(ValueError):
    """A config file, variant, key or value that does not exist or does not fit."""


def choose_variant(variants: Mapping[str, Callable[[], ConfigDict]], variant: str) -> ConfigDict:
    """Calls the function of a variant.

    Raises:
      ConfigError: lists the variants and those with a name like the one asked for.
    """
    if variant not in variants:
        names = ", ".join(name or "(none)" for name in variants)
        raise ConfigError(
            f"there is no variant {variant!r}{_did_you_mean(variant, variants)}; variants: {names}"
        )
    return variants[variant]()


def load_config(name: str, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
    """Reads a config outside absl flags.

    Args:
      name: 'configs/file.py' or 'configs/file.py:variant'.
      overrides: {dotted key: value}, as `apply_overrides`.

    Raises:
      ConfigError: no such file (lists the folder's), variant (lists the file's) or key, or a
        number out of bounds.
    """
    file, variant = split_name(name)
    config = _import(file).get_config(variant)
    return checked(apply_overrides(config, overrides or {}))


def checked(config: ConfigDict) -> ConfigDict:
    """The config, in whose rows and repeats, too, every number is within its bounds (vlt/bounds).

    Raises:
      ConfigError: one is not; the message names key, value and bounds.
    """
    for each in (config, *(run for _, row in rows_of(config) for _, run in repeats_of(row))):
        if wrong := out_of_bounds(each):
            raise ConfigError(wrong)
    return config


def rows_of(config: ConfigDict) -> list[tuple[str, ConfigDict]]:
    """(title, config) of each row of the config's comparison; itself, as '', where it has none."""
    return _expanded(config, "compare")


def repeats_of(config: ConfigDict) -> list[tuple[str, ConfigDict]]:
    """As `rows_of`, of the runs whose means a row shows."""
    return _expanded(config, "repeats")


def _expanded(config: ConfigDict, key: str) -> list[tuple[str, ConfigDict]]:
    entries: Sequence[Any] = config.get(key) or (("", {}),)
    overrides = {key: ()} if key in config else {}
    return [(title, apply_overrides(config, overrides | dict(more))) for title, more in entries]


def parse_flags(argv: Sequence[str]) -> list[str]:
    """The `flags_parser` of `absl.app.run` for a command that takes --config and no arguments.

    Ends the process with a sentence where a flag, the config or a value of it does not fit.
    """
    file = pathlib.Path(argv[0])
    command = f"python -m vlt.{file.parent.name if file.stem == '__main__' else file.stem}"
    try:
        if "--config=" in argv:
            raise _missing_config(command)
        check_flags(argv)
        arguments = flags.FLAGS(list(argv))
        if arguments[1:]:
            raise ConfigError(
                f"{command} takes no argument {arguments[1]!r}; --help lists its flags"
            )
        config = flags.FLAGS["config"].value
        if not isinstance(config, ConfigDict):
            raise _missing_config(command)
        checked(config)
    except (ConfigError, flags.Error) as error:
        sys.exit(f"error: {_in_words(str(error))}")
    return arguments


def _missing_config(command: str) -> ConfigError:
    return ConfigError(
        f"--config=FILE[:variant] is missing, such as {command} --config=configs/btadapter.py; "
        f"config files: {', '.join(config_files())}"
    )


def _in_words(error: str) -> str:
    """A flag parser's error without Python's names for what is wrong."""
    error = re.sub(r"invalid literal for int\(\).*", "must be a whole number", error)
    return re.sub(r"could not convert string to float.*", "must be a number", error)


def check_flags(argv: Sequence[str]) -> None:
    """Checks `--config=file.py:variant --config.key=value` before ml_collections parses them.

    Its own answer to an unknown file comes at the first use of the config, and its answers to an
    unknown variant or key end in the traceback of a flag parser.

    Raises:
      ConfigError: no such file, variant or key.
    """
    given = [f"{a}={b}" if a in ("--config", "-config") else a for a, b in pairwise([*argv, ""])]
    names = [flag.partition("=")[2] for flag in given if re.match("--?config=", flag)]
    if not names or not names[-1]:
        return
    known = set(_keys(load_config(names[-1])))
    for flag in given:
        override = re.match(r"--?config\.([^=\[]+)", flag)
        if override and override[1] not in known:
            raise _unknown_key(override[1], known)


def split_name(name: str) -> tuple[pathlib.Path, str]:
    """Splits 'configs/file.py:variant' and finds the file: as a path, or among the package's.

    Raises:
      ConfigError: there is no such file; lists the config files beside it and the package's.
    """
    path, _, variant = name.partition(":")
    file = pathlib.Path(path)
    if file.is_file():
        return file, variant
    if file.parent == pathlib.Path("configs") and (PACKAGED / file.name).is_file():
        return PACKAGED / file.name, variant
    files = config_files(file.parent if file.parent.is_dir() else pathlib.Path("configs"))
    near = _did_you_mean(file.stem, [pathlib.Path(f).stem for f in files])
    raise ConfigError(f"there is no config file {path}{near}; config files: {', '.join(files)}")


def config_files(folder: pathlib.Path = pathlib.Path("configs")) -> list[str]:
    """What --config takes: the config files of a folder, and the package's as 'configs/X.py'."""
    found = [str(file) for file in _config_files(folder)]
    return list(dict.fromkeys([*found, *(f"configs/{f.name}" for f in _config_files(PACKAGED))]))


def _config_files(folder: pathlib.Path) -> list[pathlib.Path]:
    files = (file for file in sorted(folder.glob("*.py")) if file.is_file())
    return [file for file in files if "def get_config(" in file.read_text("utf-8", "replace")]


def run_name(name: str) -> str:
    """'configs/btadapter.py:masked' -> 'btadapter-masked', the folder of its runs."""
    path, _, variant = name.partition(":")
    stem = pathlib.Path(path).stem
    return f"{stem}-{variant}" if variant else stem


def _import(file: pathlib.Path) -> Any:
    """The file as a module of a package of its own, whose name no other package can have taken."""
    package = importlib.machinery.ModuleSpec(f"_configs_{next(_modules)}", None, is_package=True)
    package.submodule_search_locations = [str(file.resolve().parent), str(PACKAGED)]
    name = f"{package.name}.{file.stem.replace('.', '_')}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[package.name] = importlib.util.module_from_spec(package)
    sys.modules[name] = module  # dataclasses and pickling look their modules up
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{file} has no function get_config(variant='')")
    return module


def apply_overrides(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy with some values replaced.

    Args:
      overrides: {dotted key: value}. A value keeps the type of the one it replaces (an int may
        become a float, a list a tuple); a dict replaces a whole branch.

    Raises:
      ConfigError: a key that does not exist (with the nearest that do) or a value of another type.
    """
    changed = ConfigDict(config.to_dict())
    for key, value in overrides.items():
        *branches, last = key.split(".")
        branch: Any = changed
        for part in branches:
            branch = branch[part] if isinstance(branch, ConfigDict) and part in branch else None
        if not isinstance(branch, ConfigDict) or last not in branch:
            raise _unknown_key(key, _keys(config))
        _replace(branch, last, value, key)
    return changed


def _replace(branch: ConfigDict, last: str, value: Any, key: str) -> None:
    old = branch[last]
    try:
        if isinstance(value, bool) and not isinstance(old, bool) and old is not None:
            raise TypeError("a truth value is not a number")
        branch[last] = value
    except TypeError:
        raise ConfigError(
            f"config.{key}={value!r} is of type {type(value).__name__}; it must be of type "
            f"{type(old).__name__}, like {old!r}"
        ) from None


def _unknown_key(key: str, known: Iterable[str]) -> ConfigError:
    return ConfigError(f"the config has no key {key!r}{_did_you_mean(key, known)}")


def _keys(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        yield prefix + name
        if isinstance(value, ConfigDict):
            yield from _keys(value, f"{prefix}{name}.")


def flatten(config: ConfigDict) -> dict[str, str]:
    """{dotted key: literal value}, sorted; a tuple with containers in it is one key per element."""
    return dict(sorted(_literals("", _plain(config))))


def _literals(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _literals(f"{key}.{name}" if key else name, inner)
    elif isinstance(value, tuple) and any(isinstance(inner, (dict, tuple)) for inner in value):
        for index, inner in enumerate(value):
            # Zeros before the index keep sorted keys in the tuple's order.
            name = f"{key}[{index:0{len(str(len(value) - 1))}d}]"
            yield name, repr(inner)
    else:
        yield key, repr(value)


def _plain(value: Any, key: str = "config") -> Any:
    """Nested dicts with sorted keys, tuples and JSON's scalars."""
    if isinstance(value, ConfigDict):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {name: _plain(value[name], f"{key}.{name}") for name in sorted(value)}
    if isinstance(value, (list, tuple)):
        return tuple(_plain(inner, f"{key}[{index}]") for index, inner in enumerate(value))
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(
        f"{key} is a {type(value).__name__}; a config holds numbers, strings, truth values, None, "
        "tuples and dicts"
    )


def resolved_text(config: ConfigDict) -> str:
    """One 'dotted.key = literal' a line, sorted: the same text for equal configs."""
    return "".join(f"{key} = {value}\n" for key, value in flatten(config).items())


def differing_keys(a: ConfigDict, b: ConfigDict) -> dict[str, tuple[str, str]]:
    """{dotted key: (literal in a, literal in b)}; `ABSENT` stands for a key that one lacks."""
    first, second = flatten(a), flatten(b)
    return {
        key: (first.get(key, ABSENT), second.get(key, ABSENT))
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key)
    }


def save_run(workdir: str | pathlib.Path, config: ConfigDict) -> None:
    """Writes config.json (read by `load_saved`), config.txt and versions.json into the workdir."""
    folder = pathlib.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    # First, since the others alone do not make a folder a run's.
    write_whole(folder / "config.json", json.dumps(_plain(config), indent=2) + "\n")
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
    file = pathlib.Path(workdir) / "config.json"
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{file} does not exist: {workdir} is not the folder of a run") from None
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON: {error}") from None
    if not isinstance(saved, dict):
        raise ConfigError(f"{file} holds a {type(saved).__name__}, not a config")
    return ConfigDict(_plain(saved))


def versions() -> dict[str, str]:
    """Versions of Python, of the packages that decide a result and of this project's commit."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"commit": _commit()}


def _commit() -> str:
    """This checkout's commit, '-dirty' after it where files were changed; 'none' outside one."""
    here = pathlib.Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # else it is another project's repository
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return "none"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(k for k in known if k), n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
