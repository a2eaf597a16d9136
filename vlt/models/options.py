"""Checks of options that several methods have."""

TOWERS = ("visual", "text")
FEWEST_WORDS = 3  # the first, one word, and the one that is read


def require_some(method: str, field: str, chosen: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Raises ValueError unless `chosen` is some of `known`."""
    if unknown := sorted(set(chosen) - set(known)):
        raise ValueError(
            f"unknown {method}.{field}: {', '.join(unknown)}; choose from {', '.join(known)}"
        )
    if not chosen:
        raise ValueError(f"{method}.{field} is empty; choose from {', '.join(known)}")


def check_room_for_words(prompts: str, taken: int, context: int) -> None:
    """Raises ValueError where prompts, which take so many positions of a text, leave it too few.

    prompts: the options that say how many, and their values.
    """
    left = context - taken
    if left < FEWEST_WORDS:
        raise ValueError(
            f"{prompts} leave {left} of the text tower's {context} positions for words, which need "
            f"{FEWEST_WORDS}"
        )


def check_layers(option: str, layers: tuple[int, ...], depth: int) -> None:
    """Raises ValueError where `layers` are not blocks of a tower of so many, in rising order."""
    if list(layers) != sorted(set(layers)) or not all(0 <= layer < depth for layer in layers):
        raise ValueError(
            f"{option} must be blocks from 0 to {depth - 1}, each once, ascending; got "
            f"{tuple(layers)}"
        )
