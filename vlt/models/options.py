"""Checks of options that several methods have."""

TOWERS = ("visual", "text")
FEWEST_WORDS = 3  # the first token, one word, and the token that is read


def require_some(method: str, field: str, chosen: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Raises ValueError unless `chosen` is a non-empty subset of `known`."""
    if unknown := sorted(set(chosen) - set(known)):
        raise ValueError(
            f"unknown {method}.{field}: {', '.join(unknown)}; choose from {', '.join(known)}"
        )
    if not chosen:
        raise ValueError(f"{method}.{field} is empty; choose from {', '.join(known)}")


def check_room_for_words(prompts: str, taken: int, context: int) -> None:
    """Raises ValueError if prompts that take `taken` of a text's positions leave too few for words.

    prompts: the options that set their number, with their values.
    """
    left = context - taken
    if left < FEWEST_WORDS:
        raise ValueError(
            f"{prompts} leave {left} of the text tower's {context} positions for words, which need "
            f"{FEWEST_WORDS}"
        )


def check_layers(option: str, layers: tuple[int, ...], depth: int) -> None:
    """Raises ValueError unless `layers` are ascending, distinct blocks of a tower of `depth`."""
    if list(layers) != sorted(set(layers)) or not all(0 <= layer < depth for layer in layers):
        raise ValueError(
            f"{option} must be blocks from 0 to {depth - 1}, each once, ascending; got "
            f"{tuple(layers)}"
        )
