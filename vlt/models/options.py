"""Checks of options that several methods have."""

TOWERS = ("visual", "text")


def require_some(method: str, field: str, chosen: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Raises ValueError unless `chosen` is some of `known`."""
    if unknown := sorted(set(chosen) - set(known)):
        raise ValueError(
            f"{method}.{field}={chosen!r}: {', '.join(unknown)} match nothing; there are "
            f"{', '.join(known)}"
        )
    if not chosen:
        raise ValueError(f"{method}.{field} is empty; there are {', '.join(known)}")


def check_layers(option: str, layers: tuple[int, ...], depth: int) -> None:
    """Raises ValueError where `layers` are not blocks of a tower of so many, in rising order."""
    if list(layers) != sorted(set(layers)) or not all(0 <= layer < depth for layer in layers):
        raise ValueError(
            f"{option}={tuple(layers)}: the tower has blocks 0 to {depth - 1}; each once, rising"
        )
