"""A tuple or dict whose form does not fit its key gives one sentence, wherever it comes from."""

import pytest

from configs import common
from vlt.configuration import ConfigError, apply_overrides, checked
from vlt.configuration.forms import FORMS, NEEDED, wrong_form

ANY = (
    ("x",),
    (3,),
    (None,),
    (("x",),),
    (("x", 3),),
    (("a", "b", "c", "d"),),
    (("[", ("tensor",)),),
    ({"a": 1},),
    None,
    {"a": 1},
)
KEYS = (
    "sharding.params", "sharding.activations", "sharding", "rules", "model.methods", "model",
    "task.losses", "data", "data.train", "evals", "optimizer", "optimizer.schedule", "train",
    "compare", "repeats", "table", "more_tables",
)  # fmt: skip
# The values above that fit their keys.
RIGHT = {
    "model.methods": (("x",),),
    "task.losses": ({"a": 1},),
    "data.train": ({"a": 1},),  # what it lacks is reported where it is read
    "optimizer.schedule": ({"a": 1},),
}


@pytest.mark.parametrize("key", KEYS)
def test_a_value_of_another_form_is_named_with_what_would_be_right(key):
    for value in ANY:
        if value in RIGHT.get(key, ()):
            checked(apply_overrides(common.base(), {key: value}))
            continue
        with pytest.raises(ConfigError, match=rf"config\.{key}\b.*(must be|lacks) ") as told:
            checked(apply_overrides(common.base(), {key: value}))
        assert len(str(told.value).splitlines()) == 1


def test_a_row_and_its_repeats_are_looked_at():
    for row in ({"sharding.params": ("x",)}, {"repeats": ("x",)}):
        config = apply_overrides(common.base(), {"compare": (("one", row),)})
        with pytest.raises(ConfigError, match="must be a tuple of"):
            checked(config)


def test_no_evaluation_takes_the_name_of_the_training_data():
    config = common.base()
    config.evals.train = common.twins("caption_twins", frames=8)
    with pytest.raises(ConfigError, match="evals.train.*: must be under another name than `train`"):
        checked(config)


def test_the_sections_that_every_config_shares_fit():
    assert not wrong_form(common.base())
    assert {*common.base()} >= NEEDED.keys()


@pytest.mark.parametrize("entry", FORMS, ids=lambda entry: entry[0])
def test_no_form_lets_everything_through(entry):
    _, check, wanted = entry
    assert not check(3) and not check(None) and wanted
