"""`--help` of a config: every key that it has, with the words beside its definition."""

import dataclasses
import textwrap

import pytest
from helpers import ROOT

from vlt.command_line.keys import described, listed, options_of, sections_of, words_of
from vlt.configuration import apply_overrides, load_config
from vlt.configuration.values import keys_of, literal
from vlt.methods import method_classes


@pytest.fixture(autouse=True)
def _in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def lines(name: str) -> dict[str, tuple[str, str]]:
    """{key: (value, words)} of a config's help."""
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
        "patches that a block merges in each frame (TempMe: 2 at B/32, 10 at B/16).",
    )
    assert found["model.lora.share_a"][0] == "True", "what the config leaves out"


SOURCE = textwrap.dedent("""
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
                "task": {"a": 0},
            }
        )

    def part(given):
        section = ConfigDict({"a": given})  # another
        section.update({"f": {"a": 5} | given})  # of f

    def some_task():
        return ConfigDict({"a": 2})  # of a task
""")


def test_what_a_source_tells_of_keys():
    assert sections_of(SOURCE) == {
        "base": {
            "a": ("1", "one"), "b": ("{'c': 3}", "Two, or more."), "b.c": ("3", "Two, or more."),
            "d": ("{'e': '# no'}", ""), "d.e": ("'# no'", ""), "task": ("{'a': 0}", ""),
            "task.a": ("0", ""),
        },
        "part": {
            "a": ("given", "another"), "f": ("{'a': 5} | given", "of f"), "f.a": ("5", "of f"),
        },
        "some_task": {"a": ("2", "of a task")},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("a", "one"),
        ("b.c", "Two, or more."),
        ("evals.own.a", "another"),
        ("evals.own.f.a", "of f"),
        ("evals.own.f.g", "of f"),  # of its section
        ("task.a", "of a task"),
        ("d.e", ""),
        ("h.i", ""),
    ],
)
def test_words_of_a_key(key, words):
    assert words_of(key, sections_of(SOURCE)) == words


def test_words_of_options():
    docstring = """What it is: not an option. width: of it (Eq. 4): see there. depth, height: both,
        on two lines.

        In between.

        kind: last.
    """
    assert described(docstring, ["width", "depth", "height", "kind"]) == {
        "width": "of it (Eq. 4): see there.",
        **dict.fromkeys(("depth", "height"), "both, on two lines."),
        "kind": "last.",
    }


@pytest.mark.parametrize(
    "name", ["btadapter", "tempme", "token_mixing:msvd_mix", "msta", "clip:b32"]
)
def test_every_key_has_words(name):
    assert [key for key, (_, words) in lines(name).items() if not words] == []


@pytest.mark.parametrize("name", sorted(method_classes()))
def test_options_are_the_fields_of_the_method(name):
    fields = {field.name: field.default for field in dataclasses.fields(method_classes()[name])}
    told = options_of(name)
    assert list(told) == list(fields)
    assert all(option.words for option in told.values())
    written = {key: literal(of.default) for key, of in told.items() if not of.default.isupper()}
    assert written == {key: fields[key] for key in written}, "but what another function computes"
