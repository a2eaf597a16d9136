"""Checks of options that several methods have."""

TOWERS = ("visual", "text")


def require_some(method: str, field: str, chosen: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Raises ValueError unless `chosen` is some of `known`."""
    if unknown := sorted(set(chosen) - set(known)):
        raise ValueError(
            f"unknown {method}.{field}: {', '.join(unknown)}; choose from {', '.join(known)}"
        )
    if not chosen:
        raise ValueError(f"{method}.{field} is empty; choose from {', '.join(known)}")


def check_layers(option: str, layers: tuple[int, ...], depth: int) -> None:
    """Raises ValueError where `layers` are not blocks of a tower of so many, in rising order."""
    if list(layers) != sorted(set(layers)) or not all(0 <= layer < depth for layer in layers):
        raise ValueError(
            f"{option} must be blocks from 0 to {depth - 1}, each once, ascending; got "
            f"{tuple(layers)}"
        )
