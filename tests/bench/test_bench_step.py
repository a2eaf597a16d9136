"""Which step time is divided by which, without compiling a step; test_bench.py runs one."""

from types import SimpleNamespace

import numpy as np
import pytest

from vlt.bench import step


@pytest.fixture
def steps(monkeypatch):
    """Steps that stand for the names of their configs, each with a fixed number of peak bytes."""
    made = []

    class Named:
        def __init__(self, config, batch):
            made.append((config, batch))
            self.config = self.compiled = config

        def start(self):
            return self

        def run(self):
            return self.config

    monkeypatch.setattr(step, "Step", Named)
    monkeypatch.setattr(step, "backbone_forward", lambda main: lambda: f"backbone of {main.config}")
    peaks = SimpleNamespace(mine=300, first=200, second=600)
    monkeypatch.setattr(step, "memory", lambda name: {"peak_bytes": getattr(peaks, name)})
    return made


def test_times_are_of_turns_and_ratios_of_rounds(steps, monkeypatch):
    def turns(*functions, rounds):
        names = [function() for function in functions]
        assert names == ["mine", "backbone of mine", "first", "second"] and rounds == 3
        return np.array([[2.0, 0.5, 6.0, 1.0], [4.0, 1.0, 12.0, 2.0], [3.0, 1.0, 12.0, 1.5]])

    monkeypatch.setattr(step, "turns", turns)
    against = {"a": "first", "b": "second"}
    found = step.bench_step("mine", 6, against, rounds=3)
    assert (found["step_s"], found["videos_per_s"], found["backbone_forward_s"]) == (3.0, 2.0, 1.0)
    assert (found["step_over_forward"], found["peak_bytes"]) == (4.0, 300)
    assert found["against"] == {
        "a": {"step_s": 12.0, "times_as_fast": 3.0},
        "b": {"step_s": 1.5, "times_as_fast": 0.5},
    }
    assert steps == [("mine", 6), ("first", 6), ("second", 6)]


def test_alone_it_is_beside_its_backbone_only(steps, monkeypatch):
    monkeypatch.setattr(step, "turns", lambda *functions, rounds: np.array([[2.0, 1.0]]))
    assert "against" not in step.bench_step("mine", 4)
    assert step.step_memory("mine", 4) == {"peak_bytes": 300}


def test_peaks_are_shares_of_the_others(steps):
    found = step.step_memory("mine", 4, {"a": "first", "b": "second"})
    assert found["against"] == {
        "a": {"peak_bytes": 200, "of_its_peak": 1.5},
        "b": {"peak_bytes": 600, "of_its_peak": 0.5},
    }
