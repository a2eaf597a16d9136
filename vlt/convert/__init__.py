"""Converts published checkpoints to model folders and back: strict, and runs no code from files."""

from vlt.convert.chat.folder import Given, convert_chat
from vlt.convert.errors import ConversionError, UnsafePickleError
from vlt.convert.published import convert
from vlt.convert.random_weights import random_checkpoint
from vlt.convert.reverse import reverse
from vlt.convert.settings import parse_settings

__all__ = [
    "ConversionError",
    "Given",
    "UnsafePickleError",
    "convert",
    "convert_chat",
    "parse_settings",
    "random_checkpoint",
    "reverse",
]
