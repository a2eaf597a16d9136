"""Which of a file's tensors are the model's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlt.convert.errors import ConversionError
from vlt.convert.files.state_dict import state_dict

PATH = Path("best.pth")
A, B = np.zeros(2), np.ones(2)
MODEL = {"visual.proj": A, "visual.conv1.weight": B}


@pytest.mark.parametrize(
    "wrapper",
    [
        *("state_dict", "model_state_dict", "model", "module", "net", "network", "student"),
        *("params", "weights", "model_ema", "ema_state_dict"),
    ],
)
def test_a_wrapper_is_taken_off_and_named(wrapper: str):
    found = state_dict(PATH, {"epoch": 3, wrapper: MODEL, "optimizer": {"state": {0: {"exp": A}}}})
    assert found.tensors == MODEL
    assert found.other == ["epoch", "optimizer"]
    assert found.notes == [f"tensors: those of the entry {wrapper}"]


@pytest.mark.parametrize("average", ["model_ema", "state_dict_ema", "teacher", "swa"])
def test_an_average_is_offered_and_taken_by_name(average: str):
    averaged = {f"module.{name}": x + 5 for name, x in MODEL.items()}
    saved = {average: averaged, "model": MODEL, "optimizer": {"state": {0: {"exp": A}}}}
    found = state_dict(PATH, saved)
    assert found.tensors == MODEL
    assert found.notes[1:] == [
        f"not taken: the entry {average}, with tensors of the same names (--key {average})"
    ]
    assert state_dict(PATH, saved, average).tensors == averaged


def test_two_entries_that_make_one_model_are_read_under_their_names():
    towers, head = {"visual.proj": A, "a": A}, {"module.a": B, "steps": 3}
    both = {"model_state_dict": towers, "fusion_model_state_dict": head}
    found = state_dict(PATH, {"epoch": 3, **both, "optimizer_state_dict": {"a": A}})
    assert [*found.tensors] == [
        "model_state_dict.visual.proj",
        "model_state_dict.a",
        "fusion_model_state_dict.module.a",
    ]
    assert found.tensors["fusion_model_state_dict.module.a"] is B
    assert found.other == ["epoch", "optimizer_state_dict", "fusion_model_state_dict.steps"]
    assert found.notes == [
        "tensors: those of the entries model_state_dict and fusion_model_state_dict"
    ]
    assert state_dict(PATH, both, "model_state_dict").tensors == towers
    # A head without weights, as saved for mean pooling.
    assert state_dict(PATH, both | {"fusion_model_state_dict": {}}).tensors == towers
    with pytest.raises(ConversionError, match="two values of the name model_state_dict.a.b"):
        state_dict(PATH, both | {"model_state_dict": {"a.b": A, "a": {"b": B}}})


def test_key_goes_into_nested_entries_and_into_names():
    nested = {"checkpoint": {"ema": {"module": MODEL}, "raw": {"a": A}}}
    assert state_dict(PATH, nested, "checkpoint.ema.module").tensors == MODEL
    flat = {f"teacher.{name}": x for name, x in MODEL.items()} | {"student.a": A}
    assert state_dict(PATH, flat, "teacher").tensors == MODEL
    with pytest.raises(ConversionError, match=r"--key ema: .*teacher \(2\).* student \(1\)"):
        state_dict(PATH, flat, "ema")


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "_fsdp_wrapped_module.", "a._checkpoint_wrapped_module.b."]
)
def test_names_of_wrapping_modules_come_out_wherever_they_stand(prefix: str):
    found = state_dict(PATH, {prefix + name: x for name, x in MODEL.items()})
    rest = "a.b." if prefix.startswith("a") else ""
    assert found.tensors == {rest + name: x for name, x in MODEL.items()}
    assert found.taken_off == [f"{prefix.strip('ab.')}."]


@pytest.mark.parametrize(
    "saved",
    [
        {"a.b": A, "a": {"b": B}},
        {"a": {"b": B}, "a.b": A},
        {"a": {1: A, "1": B}},
        {"a.b": A, "a": {"b": 3}},
        {"a": {"b": 3}, "a.b": A},
        {"_orig_mod.a": A, "a": B},
    ],
)
def test_of_two_values_of_one_name_none_is_lost(saved: dict[Any, Any]):
    with pytest.raises(ConversionError, match=r"best.pth: holds two (values|tensors) of the name"):
        state_dict(PATH, saved)


def test_the_counter_of_an_averaged_model_is_no_weight():
    found = state_dict(PATH, {"n_averaged": np.array(3)} | MODEL)
    assert found.tensors == MODEL and found.other == ["n_averaged"]


def test_keys_that_are_no_names_do_no_harm():
    odd = {(1, 2): "pair", None: 1, b"x": 2, 10**5000: 3, "\x1b[31mred": 4, 1.5: {2: 5}}
    found = state_dict(PATH, MODEL | {"odd": odd})
    assert found.tensors == MODEL
    names = ["<tuple>", "<NoneType>", "<bytes>", "<int>", r"\x1b[31mred", "<float>.2"]
    assert found.other == [f"odd.{name}" for name in names]


def test_arrays_of_texts_and_times_are_no_weights():
    odd = {"names": np.array(["a"]), "times": np.zeros(2, "M8[s]"), "any": np.array([None])}
    assert state_dict(PATH, MODEL | odd).other == ["names", "times", "any"]


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ([MODEL], "holds a list, not a dict of tensors"),
        ({}, "holds no tensors; its keys are none"),
        ({"epoch": 1, (1,): 2}, "holds no tensors; its keys are epoch, <tuple>"),
    ],
)
def test_what_holds_no_tensors(saved: Any, message: str):
    with pytest.raises(ConversionError, match=message):
        state_dict(PATH, saved)


def test_names_that_nobody_gave():
    assert state_dict(PATH, {"a" * 1000: A}).tensors
    with pytest.raises(ConversionError, match="1,001 characters, at most 1000 are read: a"):
        state_dict(PATH, {"a." * 500 + "b": A})
