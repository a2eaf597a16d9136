"""The error for what is wrong with a config."""


class ConfigError(ValueError):
    """A config file, variant, key or value that does not exist or does not fit."""
