"""The flag `--config=FILE[:variant]`, whose values `--config.key=value` replaces."""

import pathlib
import re
import sys
from collections.abc import Sequence
from itertools import pairwise

from absl import flags
from ml_collections import ConfigDict, config_flags

from vlt.configuration.errors import ConfigError
from vlt.configuration.files import checked, config_files, load_config
from vlt.configuration.values import keys_of, unknown_key


class _Parser(flags.ArgumentParser):
    def parse(self, argument: str) -> ConfigDict:
        return load_config(argument).lock()


def define_config() -> flags.FlagHolder:
    """Defines the flag of a config file, found as `configuration.load_config` finds it."""
    holder = config_flags.DEFINE_config_file("config", None, "configs/FILE.py[:variant]")
    # ml_collections' own parser knows the current folder alone.
    flags.FLAGS["config"].parser = _Parser()
    return holder


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
    known = set(keys_of(load_config(names[-1])))
    for flag in given:
        override = re.match(r"--?config\.([^=\[]+)", flag)
        if override and override[1] not in known:
            raise unknown_key(override[1], known)
