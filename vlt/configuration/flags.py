"""The flag `--config=NAME[:variant]`, whose values `--config.key=value` replaces."""

import pathlib
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from vlt.configuration.errors import ConfigError
from vlt.configuration.files import checked, config_names, load_config
from vlt.configuration.values import with_options
from vlt.pytrees.fields import near_names

HELP = {"--help", "-help", "-h", "--helpshort", "--helpfull"}


class _Parser(flags.ArgumentParser):
    def parse(self, argument: str) -> ConfigDict:
        # From sys.argv, as ml_collections takes its values from there.
        return with_options(load_config(argument), keys_typed(sys.argv)).lock()


def define_config() -> flags.FlagHolder:
    """Defines the flag of a config file, found as `configuration.load_config` finds it."""
    holder = config_flags.DEFINE_config_file("config", None, "NAME[:variant], or a file's path")
    # ml_collections' own parser only looks in the current folder.
    flags.FLAGS["config"].parser = _Parser()
    return holder


def parse_flags(argv: Sequence[str], about: str = "") -> list[str]:
    """The `flags_parser` of `absl.app.run` for a command that takes --config and no arguments.

    Ends the process with a sentence if a flag, the config or a value of it does not fit, and after
    --help. What needs no config is checked first, since a config may import the models.

    about: what --help prints before the flags; the docstring of the main module by default.
    """
    command = _command(argv[0])
    _answer_help(argv, about)
    try:
        check_names(argv)
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
        misused(_in_words(str(error)))
    return arguments


def parse_flags_and_arguments(argv: Sequence[str], about: str) -> list[str]:
    """As `parse_flags`, for a command that takes arguments and can do without --config."""
    _answer_help(argv, about)
    try:
        check_names(argv)
        check_flags(argv)
        return flags.FLAGS(list(argv))
    except (ConfigError, flags.Error) as error:
        misused(_in_words(str(error)))


def misused(reason: str) -> NoReturn:
    """Ends the process the way every command does if its arguments do not fit."""
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(2)


def _command(program: str) -> str:
    """The command as typed: `program`, or 'python -m ...' if that is the file of a module."""
    file = pathlib.Path(program)
    if file.suffix != ".py":
        return program
    return f"python -m vlt.{file.parent.name if file.stem == '__main__' else file.stem}"


def _answer_help(argv: Sequence[str], about: str) -> None:
    """If --help is given, prints the flags of the command, not absl's, and ends the process."""
    if not HELP & set(argv[1:]):
        return
    by_module = flags.FLAGS.flags_by_module_dict()
    ours = [name for name in by_module if name == "__main__" or name.startswith("vlt.")]
    listed = "\n".join(flags.FLAGS.module_help(name).partition(":\n")[2] for name in ours)
    print(f"{about or sys.modules['__main__'].__doc__}\nflags:\n{listed}")
    sys.exit()


def values_typed(argv: Sequence[str], *names: str) -> dict[str, str]:
    """{flag: the last value typed}, before flags are parsed. names: regexes."""
    flag = f"--?({'|'.join(names)})"
    words = [f"{a}={b}" if re.fullmatch(flag, a) else a for a, b in pairwise([*argv, ""])]
    found = (re.match(f"{flag}=(.*)", word, re.DOTALL) for word in words)
    return {match[1]: match[2] for match in found if match}


def check_names(argv: Sequence[str]) -> None:
    """Raises flags.UnrecognizedFlagError for an unknown flag, before any value is read."""
    known, words = {*flags.FLAGS, "flagfile", "undefok"}, iter(argv[1:])
    for word in words:
        if word == "--":
            return
        match = re.match(r"--?([A-Za-z][\w-]*)", word)
        if not match or word[match.end() :].startswith((".", "[")) and match[1] == "config":
            continue
        if match[1] not in known and match[1].removeprefix("no") not in known:
            raise flags.UnrecognizedFlagError(match[1], suggestions=near_names(match[1], known))
        if "=" not in word and match[1] in flags.FLAGS and not flags.FLAGS[match[1]].boolean:
            next(words, None)  # its value


def _missing_config(command: str) -> ConfigError:
    run = ", or the --workdir of a run" if command.endswith(" eval") else ""
    return ConfigError(
        f"--config=NAME[:variant] is missing, such as {command} --config=btadapter; choose from "
        f"{', '.join(config_names())}, or give the path of a file{run}"
    )


def _in_words(error: str) -> str:
    """A flag parser's error, without Python's own terms for what is wrong."""
    error = re.sub(r"invalid literal for int\(\).*", "must be a whole number", error)
    return re.sub(r"could not convert string to float.*", "must be a number", error)


def check_flags(argv: Sequence[str]) -> None:
    """Checks `--config=file.py:variant --config.key=value` before ml_collections parses them.

    Its own error for an unknown file comes only at the first use of the config, and those for an
    unknown variant or key end in the traceback of a flag parser.

    Raises:
      ConfigError: no such file, variant or key.
    """
    name = values_typed(argv, "config").get("config")
    if not name:
        return
    with_options(load_config(name), keys_typed(argv))


def keys_typed(argv: Sequence[str]) -> dict[str, str]:
    """{dotted key: value} of --config.KEY=VALUE; of a key with an index, only the key."""
    typed = values_typed(argv, r"config\.[^=]+")
    return {key.removeprefix("config.").partition("[")[0]: text for key, text in typed.items()}
