"""Typed errors of conversion, which name the file."""


class ConversionError(Exception):
    """A checkpoint can't be read, or doesn't fit the layout of its family."""


class UnsafePickleError(ConversionError):
    """A pickle asks for something that is neither a tensor nor a plain container."""
