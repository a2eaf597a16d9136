"""Configs: read from a file and a variant, changed, saved and compared.

A config file is a Python module with `get_config(variant='')` and, where it has variants, a mapping
`VARIANTS` of their names to functions that return the config:

    VARIANTS = {"": default, "masked": masked}

    def get_config(variant: str = "") -> ConfigDict:
        return configuration.choose_variant(VARIANTS, variant)

It takes parts of others by `from . import common`, from its own folder or else the package."""

from vlt.configuration.errors import ConfigError
from vlt.configuration.files import (
    PACKAGED,
    checked,
    choose_variant,
    load_config,
    path_of,
    run_name,
    split_name,
)
from vlt.configuration.flags import (
    HELP,
    check_flags,
    define_config,
    keys_typed,
    misused,
    parse_flags,
    parse_flags_and_arguments,
    values_typed,
)
from vlt.configuration.record import SAVED, is_run, load_saved, save_run, versions
from vlt.configuration.values import (
    ABSENT,
    apply_overrides,
    differing_keys,
    flatten,
    repeats_of,
    resolved_text,
    rows_of,
    sweep_rows,
)

__all__ = (
    "ABSENT",
    "HELP",
    "PACKAGED",
    "SAVED",
    "ConfigError",
    "apply_overrides",
    "check_flags",
    "checked",
    "choose_variant",
    "define_config",
    "differing_keys",
    "flatten",
    "is_run",
    "keys_typed",
    "load_config",
    "load_saved",
    "misused",
    "parse_flags",
    "parse_flags_and_arguments",
    "path_of",
    "repeats_of",
    "resolved_text",
    "rows_of",
    "run_name",
    "save_run",
    "split_name",
    "sweep_rows",
    "values_typed",
    "versions",
)
