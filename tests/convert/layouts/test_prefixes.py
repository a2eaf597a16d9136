"""Prefixes in front of all names."""

from pathlib import Path

import numpy as np
import pytest

from vlt.convert.errors import ConversionError
from vlt.convert.files.reading import Checkpoint
from vlt.convert.layouts.families import FAMILIES
from vlt.convert.layouts.prefixes import told_family


def _names(family: str) -> list[str]:
    layout = FAMILIES[family]
    kinds = [kind.rules for kind in layout.kinds.values()][:1]
    rules = [rule for part in (layout.rules, *kinds) for rule in part]
    return [rule.source.replace("{i}", "0") for rule in rules]


def _checkpoint(names: list[str], prefix: str = "") -> Checkpoint:
    tensors = {prefix + name: np.zeros(1) for name in names}
    return Checkpoint(tensors, path=Path("weights.pt"))


# Prefixes that turn names into those of another layout, or of the same.
READ = {("llava", "model."), ("eva", "student.backbone.")}


@pytest.mark.parametrize(
    ("family", "prefix"),
    [
        (family, prefix)
        for prefix in ("", "net.", "model.", "student.backbone.", "my_own.net.")
        for family in sorted(FAMILIES.keys() - {"openai"})
        if (family, prefix) not in READ
    ],
)
def test_every_family_is_told_behind_any_prefix(family: str, prefix: str):
    names = _names(family)
    checkpoint = _checkpoint(names, prefix)
    assert told_family(checkpoint).name == family
    assert [*checkpoint.tensors] == names
    assert checkpoint.taken_off == ([prefix] if prefix else [])
    checkpoint = _checkpoint(names, prefix)
    assert told_family(checkpoint, family).name == family
    assert [*checkpoint.tensors] == names


@pytest.mark.parametrize(
    ("family", "prefix"),
    [("open_clip", "module."), ("open_clip", "clip."), ("viclip", "module."), ("blip", "module.")],
)
def test_prefixes_that_a_family_knows_stay_in_the_names(family: str, prefix: str):
    checkpoint = _checkpoint(_names(family), prefix)
    assert told_family(checkpoint).name == family
    assert checkpoint.taken_off == []
    assert all(name.startswith(prefix) for name in checkpoint.tensors)


def test_what_not_all_names_share_stays_and_can_be_chosen():
    names = [f"model.{name}" for name in _names("open_clip")] + ["loss.scale"]
    with pytest.raises(ConversionError, match=r"for --key: model \(\d+\).* loss \(1\)"):
        told_family(_checkpoint(names))


def test_no_more_words_are_tried_than_anybody_puts_in_front():
    prefix = "a." * 8
    assert told_family(_checkpoint(_names("open_clip"), prefix)).name == "open_clip"
    tried = _checkpoint(_names("open_clip"), "a." * 400)
    with pytest.raises(ConversionError, match="no known family has names like"):
        told_family(tried)
