"""Values for dataclasses are checked against their annotations."""

import dataclasses
from typing import Any

import pytest

from vlt.pytrees.fields import from_values, near, shown


@dataclasses.dataclass(frozen=True)
class Inner:
    width: int


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner
    count: int = 1
    rate: float | None = 0.5
    flag: bool = False
    layers: tuple[int, ...] | str = ()
    pair: tuple[float, float] = (0.0, 1.0)
    rest: dict[str, Any] = dataclasses.field(default_factory=dict)


def test_values_become_a_dataclass_and_lists_tuples():
    values = {
        "inner": {"width": 2},
        "rate": 1,
        "layers": [1, 2],
        "pair": [1, 2.5],
        "rest": {"a": 0},
    }
    expected = Outer(Inner(2), rate=1, layers=(1, 2), pair=(1, 2.5), rest={"a": 0})
    assert from_values(Outer, values, "it") == expected
    bare = {"inner": {"width": 2}, "rate": None}
    assert from_values(Outer, bare, "it") == Outer(Inner(2), rate=None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "it lacks 'inner'"),
        ([], "it must be {key: value, ...}, got "),
        ({"inner": {}}, "it.inner lacks 'width'"),
        (
            {"inner": {"width": 2, "widht": 3}},
            "it.inner has no field 'widht' .did you mean 'width'",
        ),
        ({"inner": {"width": 2}, 3: 4}, "it has no key 3; choose from count"),
        ({"count": True}, "it.count must be a whole number.*, got True"),
        ({"count": 2.0}, "it.count must be a whole number.*, got 2.0"),
        ({"count": 10**40}, "it.count must be a whole number.*, got 1000.*"),
        ({"rate": float("inf")}, "it.rate must be a finite number or null.*, got inf"),
        ({"rate": 1e308}, "it.rate must be a finite number or null, got 1e[+]308"),
        ({"flag": 1}, "it.flag must be true or false.*, got 1"),
        ({"layers": 3}, "it.layers must be a list of whole numbers or a text.*, got 3"),
        ({"layers": [1.5]}, "it.layers must be a list of whole numbers.*, got "),
        ({"layers": [0] * 5000}, "it.layers must be a list of whole numbers.*, got "),
        ({"layers": "x" * 5000}, "it.layers must be .*a text, got 'x"),
        ({"pair": [1]}, "it.pair must be a list of 2 finite numbers, got "),
        ({"rest": []}, "it.rest must be {name: value, ...}, got "),
    ],
)
def test_other_values_are_a_sentence(values, message):
    if isinstance(values, dict) and values:
        values = {"inner": {"width": 2}} | values
    with pytest.raises(ValueError, match=message) as error:
        from_values(Outer, values, "it", "key")
    assert len(str(error.value)) < 300


def test_deep_and_long_values_are_shown_in_a_few_words():
    deep: list[Any] = []
    for _ in range(10**5):
        deep = [deep]
    assert len(shown(deep)) < 100 and len(shown("x" * 10**6)) < 100


def test_near_names():
    assert near("widht", ["width", "heads"]) == " (did you mean 'width'?)"
    assert near(7, ["width", "heads"]) == "; choose from heads, width"
