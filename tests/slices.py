"""TPU slices to compile for, which are not here."""

import importlib.util

import pytest

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install -e '.[tpu]'"
)
TOPOLOGIES = ("v5e:2x2", "v5p:2x2x1", "v6e:2x2")
