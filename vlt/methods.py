"""Every method by its name: that of its file in vlt/adapters or vlt/merging, or of another module.

A file that holds a method names its class in `METHOD`; one without it holds what methods share. A
method of another package is named by its import path, `others.warmth`; its section in a config is
named by the last part, `warmth`.
"""

import importlib
import pkgutil
import re
import sys
from collections.abc import Mapping
from typing import Any

import vlt.adapters
import vlt.merging
from vlt.models.points import Method
from vlt.pytrees.fields import from_values, near, shown


def build_methods(options: Mapping[str, Mapping[str, Any]]) -> tuple[Method, ...]:
    """Methods from {name: options}, in order.

    Raises:
        ValueError: unknown method or option, with the nearest names; a value of another type; a
            module of another package that has not been imported.
    """
    return tuple(
        from_values(method_class(name), fields, f"method {name!r}", "option")
        for name, fields in options.items()
    )


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        ValueError: unknown method, with the nearest names.
    """
    if re.fullmatch(r"\w+(\.\w+)+", name):
        return _outside(name)
    modules = _modules()
    found = _method_in(modules[name], name) if name in modules else None
    if found is None:
        raise ValueError(f"unknown method {shown(name)}{near(name, method_classes())}")
    return found


def method_classes() -> dict[str, type[Method]]:
    """Every method of this package, by name."""
    found = {name: _method_in(package, name) for name, package in _modules().items()}
    return {name: method for name, method in found.items() if method is not None}


def _modules() -> dict[str, str]:
    """The package of every file that may hold a method."""
    return {
        info.name: package.__name__
        for package in (vlt.adapters, vlt.merging)
        for info in pkgutil.iter_modules(package.__path__)
    }


def _method_in(package: str, name: str) -> type[Method] | None:
    """The method of a module; None if the module holds what methods share."""
    return getattr(importlib.import_module(f"{package}.{name}"), "METHOD", None)


def _outside(name: str) -> type[Method]:
    # A stranger's model folder may name any module, and importing one would run it.
    if name not in sys.modules:
        raise ValueError(
            f"unknown method {shown(name)}: it would be of another package, which no model folder "
            "may import; import it first, or name it in a config's model.methods"
        )
    found = getattr(sys.modules[name], "METHOD", None)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ValueError(f"{name}.METHOD must be a class of vlt.models.points.Method")
    if found.name != name:
        raise ValueError(f"{name}.METHOD.name is {found.name!r}; it must be {name!r}")
    return found
