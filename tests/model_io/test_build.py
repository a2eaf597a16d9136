"""Methods by name, with options of the right types, in a model of the config's size."""

import re
import sys

import pytest

from configs import common
from vlt.methods import build_methods
from vlt.model_io.build import build_model, method_options

LISTED = (
    "actionclip, adapter, adaptformer, attention_probe, btadapter, .*, tome, vificlip, .*, xclip$"
)


@pytest.mark.parametrize("name", ["matching", "branch", "over_time", "", "../lora"])
def test_what_holds_no_method_is_unknown_and_not_suggested(name):
    with pytest.raises(ValueError, match="unknown method") as error:
        build_methods({name: {}})
    start = f"unknown method {name!r}"
    hint = re.fullmatch(rf"{start}( \(did you mean (.*)\?\)|; choose from (.*))", str(error.value))
    suggested = re.findall(r"\w+", hint[2] or hint[3])
    assert suggested and not {"matching", "branch", "over_time"} & set(suggested)


@pytest.mark.parametrize("name", ["lora.x", "vlt.adapters.nothing", "antigravity.x"])
def test_a_module_of_another_package_is_never_imported_for_a_folder(name):
    with pytest.raises(ValueError, match=f"unknown method '{name}': .* no model folder may import"):
        build_methods({name: {}})
    assert name not in sys.modules


def test_a_module_without_a_method_is_none():
    with pytest.raises(ValueError, match=r"os.path.METHOD must be a class of vlt.models.points"):
        build_methods({"os.path": {}})


def test_nearest_methods_are_suggested_or_all_listed():
    with pytest.raises(ValueError, match="unknown method 'tempm' .did you mean 'tempme'"):
        build_methods({"tempm": {}})
    with pytest.raises(ValueError, match=LISTED):
        build_methods({"qqq": {}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tempme": {"r": "x"}}, "method 'tempme'.r must be a whole number.*, got 'x'"),
        (
            {"tempme": {"r": 10**12}},
            "method 'tempme'.r must be a whole number.*, got 1000000000000",
        ),
        (
            {"tempme": {"layers": 3}},
            "method 'tempme'.layers must be a list of whole numbers.*, got 3",
        ),
        ({"tempme": {"positions": 1}}, "method 'tempme'.positions must be true or false.*, got 1"),
        (
            {"lora": {"alpha": float("nan")}},
            "method 'lora'.alpha must be a finite number or null.*, got nan",
        ),
        ({"lora": {"rnk": 3}}, "method 'lora' has no option 'rnk' .did you mean 'rank'"),
        ({"lora": 3}, "method 'lora' must be {option: value, ...}, got 3"),
        ({"separate_st": {"layers": ()}}, "separate_st.layers is empty"),
        ({"btadapter": {"depth": 0}}, "btadapter.depth must be >= 1, got 0"),
        ({"btadapter": {"drop_path": 1.0}}, "btadapter.drop_path must be >= 0 and < 1, got 1.0"),
    ],
)
def test_options_of_another_type_or_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_methods(options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("lora", "tome", "lora")}, r"model.methods=.* names lora twice"),
        ({"methods": "lora"}, "model.methods must be names of methods, .* got 'lora'"),
        ({"methods": (3,)}, r"model.methods must be names of methods, .* got \(3,\)"),
        ({"frames": 0}, "model.frames must be between 1 and .* got 0"),
        ({"frames": -3}, "model.frames must be between 1 and .* got -3"),
        ({"frames": 10**7}, "model.frames must be between 1 and .* got 10000000"),
        ({"drop_path": 1.0}, "model.drop_path must be >= 0 and < 1, got 1.0"),
        ({"size": "clip_b23"}, "unknown size 'clip_b23' .did you mean 'clip_b"),
        (
            {"dtype": "float16"},
            "unknown model.dtype: 'float16' .did you mean 'bfloat16' or 'float32'",
        ),
        # Blocks 20 to 23, none of which exists in a tower of 4.
        ({"methods": ("separate_st",)}, r"separate_st.layers must be blocks from 0 to 3"),
    ],
)
def test_sections_that_cannot_be_a_model_are_refused(changes, message):
    config = dict(common.base().model) | {"size": "tiny_clip"} | changes
    with pytest.raises(ValueError, match=message):
        build_model(config)


def test_options_of_the_config_go_before_those_of_the_folder():
    config = {"methods": ("lora",), "lora": {"rank": 2}}
    found = method_options(config, {"lora": {"rank": 4, "alpha": 1.0}, "tome": {}})
    assert found == {"lora": {"rank": 2, "alpha": 1.0}, "tome": {}}
