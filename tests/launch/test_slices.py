"""TPU slices, against Google Cloud's documentation of them."""

import argparse

import pytest

from launch.slices import SLICES, slice_of


@pytest.mark.parametrize(
    ("name", "chips", "hosts", "accelerator_type", "machine_type"),
    [
        ("v5e:1x1", 1, 1, "v5litepod-1", "ct5lp-hightpu-1t"),
        ("v5e:2x4", 8, 1, "v5litepod-8", "ct5lp-hightpu-8t"),
        ("v5e:4x4", 16, 4, "v5litepod-16", "ct5lp-hightpu-4t"),
        ("v5e:16x16", 256, 64, "v5litepod-256", "ct5lp-hightpu-4t"),
        ("v5p:2x2x1", 4, 1, "v5p-8", "ct5p-hightpu-4t"),
        ("v5p:4x4x4", 64, 16, "v5p-128", "ct5p-hightpu-4t"),
        ("v5p:16x16x24", 6144, 1536, "v5p-12288", "ct5p-hightpu-4t"),
        ("v6e:2x2", 4, 1, "v6e-4", "ct6e-standard-4t"),
        ("v6e:4x4", 16, 4, "v6e-16", "ct6e-standard-4t"),
    ],
)
def test_slices(name, chips, hosts, accelerator_type, machine_type):
    part = slice_of(name)
    assert (part.chips, part.hosts) == (chips, hosts)
    assert (part.accelerator_type, part.machine_type) == (accelerator_type, machine_type)


def test_hosts_have_all_chips_between_them():
    for part in SLICES.values():
        assert part.hosts * part.chips_per_host == part.chips
    assert len({part.accelerator_type for part in SLICES.values()}) == len(SLICES)


def test_an_unknown_slice_lists_the_known():
    with pytest.raises(argparse.ArgumentTypeError) as wrong:
        slice_of("v5e:3x3")
    assert all(name in str(wrong.value) for name in SLICES)
    with pytest.raises(argparse.ArgumentTypeError, match=r"'v5p-128' \(it is called v5p:4x4x4"):
        slice_of("v5p-128")
