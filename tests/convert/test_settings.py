"""`--set key=value`: what is accepted, up to the bounds; test_published.py has what is refused."""

import pytest

from vlt.convert.errors import ConversionError
from vlt.convert.settings import parse_settings


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("tempme.r=0", 0),
        ("visual.image_size=10000", 10_000),
        ("text.dropout=0", 0.0),
        ("text.norm_eps=1e-12", 1e-12),
        ("preprocessing.mean=0,-1,2.5", [0.0, -1.0, 2.5]),
        ("preprocessing.std=0.1,1,2", [0.1, 1.0, 2.0]),
        ("preprocessing.resize=nearest", "nearest"),
        ("tempme.join=2,0,3", (2, 0, 3)),
        ("token_mixing.layers=published", "published"),
        ("token_mixing.layers=0,4", (0, 4)),
        ("base=some/folder=x", "some/folder=x"),
    ],
)
def test_values_are_read(pair, value):
    assert parse_settings([pair]) == {pair.partition("=")[0]: value}


@pytest.mark.parametrize(
    "pair", ["tempme.r=-1", "visual.heads=10001", "text.dropout=1", "text.dropout=-0.1"]
)
def test_bounds_end_where_they_say(pair):
    with pytest.raises(
        ConversionError,
        match=f"--set {pair}: must be (a .* 0 to 10000|>= 0 and < 1)$",
    ):
        parse_settings([pair])


def test_an_activation_is_of_both_towers_unless_one_has_its_own():
    towers = {"visual.activation": "gelu", "text.activation": "gelu"}
    assert parse_settings(["activation=gelu"]) == towers
    own = parse_settings(["text.activation=quick_gelu", "activation=gelu"])
    assert own == towers | {"text.activation": "quick_gelu"}
