"""`--help` of a config: every key that it has, and words from where they stand."""

import dataclasses
import textwrap

import pytest
from helpers import ROOT

from vlt.command_line.keys import comments_of, listed, options_of
from vlt.configuration import apply_overrides, load_config
from vlt.configuration.values import keys_of, literal
from vlt.methods import method_classes


@pytest.fixture(autouse=True)
def _in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def lines(name: str) -> dict[str, tuple[str, str]]:
    """{key: (value, words)}."""
    found = {}
    for line in listed(load_config(name)).splitlines():
        setting, _, words = line.strip().partition("  ")
        key, _, value = setting.partition("=")
        found[key] = (value, words.strip())
    return found


def test_every_key_is_listed_and_every_listed_key_can_be_set():
    config = load_config("tempme:msrvtt_b32")
    found = lines("tempme:msrvtt_b32")
    branches = {key.rpartition(".")[0] for key in keys_of(config)}
    assert set(keys_of(config)) - branches == set(found) & set(keys_of(config)), "but what is empty"
    whole = {key: literal(value) for key, (value, _) in found.items() if "..." not in value}
    assert apply_overrides(config, whole).model.tempme.positions is True
    assert len(whole) > 60


def test_words_are_those_beside_the_keys_and_of_the_methods():
    found = lines("tempme")
    assert found["train.watchdog"] == (
        "300.0",
        "dump stacks after so many seconds without a step; 0: off",
    )
    assert found["data.train.group"][1] == "column whose equal values stay in one batch"
    assert found["rules"][1].startswith("What is trained, (regex of a leaf's path")
    assert found["model.tempme.keep_cross"][1].startswith("R_C and R_I, percent of a clip's tokens")
    assert found["model.tome.r"] == (
        "1",
        "patches a block takes from each frame (TempMe: 2 at B/32, 10 at B/16).",
    )
    assert found["model.lora.share_a"][0] == "True", "what the config leaves out"


def test_comments_of_a_source():
    source = """
        def base():
            return ConfigDict(
                {
                    "a": 1,  # one
                    # Two,
                    # or more.
                    "b": {"c": 3},
                    "d": {
                        "e": "# no",
                    },
                }
            )

        def part():
            return ConfigDict({"a": 2})  # another
    """
    assert comments_of(textwrap.dedent(source)) == {
        ("", "a"): "one", ("", "b"): "Two, or more.", ("", "b.c"): "Two, or more.", ("", "d"): "",
        ("", "d.e"): "", ("part", "a"): "",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(method_classes()))
def test_options_are_the_fields_of_the_method(name):
    told = [option for option, *_ in options_of(name)]
    assert told == [field.name for field in dataclasses.fields(method_classes()[name])]
