"""Config files: found by name and imported, and their variants."""

import importlib.machinery
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any

from ml_collections import ConfigDict

from vlt.configuration.bounds import out_of_bounds
from vlt.configuration.errors import ConfigError
from vlt.configuration.forms import wrong_form
from vlt.configuration.record import SAVED, is_run, load_saved
from vlt.configuration.values import apply_overrides, repeats_of, rows_of
from vlt.pytrees.fields import did_you_mean

# The package's config files; in a checkout, a link to the folder `configs` beside the package.
PACKAGED = pathlib.Path(__file__).resolve().parents[1] / "configs"
_modules = count()


def choose_variant(variants: Mapping[str, Callable[[], ConfigDict]], variant: str) -> ConfigDict:
    """Calls the function of a variant.

    Raises:
      ConfigError: there is no such variant; lists the variants and those with similar names.
    """
    if variant not in variants:
        names = ", ".join(name or "(none)" for name in variants)
        raise ConfigError(
            f"there is no variant {variant!r}{did_you_mean(variant, variants)}; variants: {names}"
        )
    return variants[variant]()


def load_config(name: str, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
    """Reads a config outside absl flags.

    Args:
      name: 'NAME' of a file in the folder or the package `configs`, or a path; then ':variant', if
        any. Or WORKDIR/config.json of a run.
      overrides: {dotted key: value}, as in `apply_overrides`.

    Raises:
      ConfigError: no such file (lists the folder's), variant (lists the file's) or key, or a
        value that does not fit, such as a number out of bounds.
    """
    if pathlib.Path(name).name == SAVED:
        config = _of_run(pathlib.Path(name))
    else:
        file, variant = split_name(name)
        config = _import(file).get_config(variant)
    return checked(apply_overrides(config, overrides or {}))


def _of_run(file: pathlib.Path) -> ConfigDict:
    """The config that a run has saved. It may be a stranger's, so no methods are imported."""
    config = load_saved(file.parent)
    if not is_run(file.parent):
        raise ConfigError(f"{file} is not the config of a run")
    for name in config.model.methods:
        if "." in name and name not in sys.modules:
            raise ConfigError(
                f"{file} names the method {name!r} of another package, which no folder may import; "
                "give the run's own --config"
            )
    return config


def checked(config: ConfigDict) -> ConfigDict:
    """Returns the config after checking it, its rows and its repeats: every value has its form
    (`forms`), and every number is within its bounds (`bounds`). Imports methods of other packages.

    Raises:
      ConfigError: a value does not fit, and the message names its key, the value and what would be
        right; or there is no such module.
    """
    for each in _runs(config):
        if wrong := wrong_form(each) or out_of_bounds(each):
            raise ConfigError(wrong)
        _import_methods(each.get("model", {}).get("methods", ()))
    return config


def _runs(config: ConfigDict) -> Iterator[ConfigDict]:
    """The config, and those of its rows and repeats."""
    yield config
    for _, row in rows_of(config):
        if row is not config:
            yield row
        yield from (run for _, run in repeats_of(row) if run is not row)


def _import_methods(names: Any) -> None:
    """Imports methods of other packages. Only here, as a config is the user's code, while a folder
    that names methods may be a stranger's."""
    for name in names if isinstance(names, (list, tuple)) else ():
        if isinstance(name, str) and "." in name:
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as error:
                raise ConfigError(
                    f"config.model.methods: {name!r} is not to be found: {error}"
                ) from error


def split_name(name: str) -> tuple[pathlib.Path, str]:
    """Splits 'file.py:variant' and finds the file: as a path, or among the package's.

    A bare name, such as 'btadapter', stands for configs/btadapter.py.

    Raises:
      ConfigError: there is no such file; lists the config files beside it and the package's.
    """
    path, _, variant = name.partition(":")
    file = path_of(path)
    if file.is_file():
        return file, variant
    if file.parent == pathlib.Path("configs") and (PACKAGED / file.name).is_file():
        return PACKAGED / file.name, variant
    names = config_names(file.parent if file.parent.is_dir() else pathlib.Path("configs"))
    near = did_you_mean(file.stem, [pathlib.Path(each).stem for each in names])
    raise ConfigError(
        f"unknown config {path!r}{near}; choose from {', '.join(names)}, or give the path of a file"
    )


def path_of(name: str) -> pathlib.Path:
    """'btadapter' -> configs/btadapter.py; a name with a folder or a suffix is already a path."""
    file = pathlib.Path(name)
    alone = file.parent == pathlib.Path() and not file.suffix
    return pathlib.Path("configs") / f"{name}.py" if alone else file


def config_names(folder: pathlib.Path = pathlib.Path("configs")) -> list[str]:
    """What --config takes: paths of the config files in `folder`, unless it is `configs`, and names
    of those in `configs` and the package."""
    local = pathlib.Path("configs")
    found = [] if folder == local else [str(file) for file in _config_files(folder)]
    known = [file.stem for place in (local, PACKAGED) for file in _config_files(place)]
    return list(dict.fromkeys([*found, *known]))


def _config_files(folder: pathlib.Path) -> list[pathlib.Path]:
    files = (file for file in sorted(folder.glob("*.py")) if file.is_file())
    return [file for file in files if "def get_config(" in file.read_text("utf-8", "replace")]


def run_name(name: str) -> str:
    """'btadapter:masked' or 'configs/btadapter.py:masked' -> 'btadapter-masked', for its runs."""
    path, _, variant = name.partition(":")
    stem = pathlib.Path(path).stem
    return f"{stem}-{variant}" if variant else stem


def _import(file: pathlib.Path) -> Any:
    """Imports the file as a module of a new package, whose name no other package can have taken."""
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
