"""The flag `--config=FILE[:variant]`, whose values `--config.key=value` replaces."""

from absl import flags
from ml_collections import ConfigDict, config_flags

from vlt.configuration import load_config


class _Parser(flags.ArgumentParser):
    def parse(self, argument: str) -> ConfigDict:
        return load_config(argument).lock()


def define_config() -> flags.FlagHolder:
    """Defines the flag of a config file, found as `configuration.load_config` finds it."""
    holder = config_flags.DEFINE_config_file("config", None, "configs/FILE.py[:variant]")
    # ml_collections' own parser knows the current folder alone.
    flags.FLAGS["config"].parser = _Parser()
    return holder
