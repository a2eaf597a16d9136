"""Compiled programs are kept, unless the user sets another place or turns it off, and counted."""

import jax
import jax.numpy as jnp
import pytest
from helpers import run_python

from vlt.runtime.compilation import ProgramCount

KEPT = """
    from vlt.runtime.compilation import keep_programs
    keep_programs()
    import jax
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.block_until_ready(jax.jit(lambda x: x + 1)(1.0))
"""


def test_programs_are_kept_in_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("VLT_CACHE", str(tmp_path / "vlt"))
    run_python(KEPT)
    assert list((tmp_path / "vlt" / "programs").iterdir())


@pytest.mark.parametrize("elsewhere", ["other", ""])
def test_what_jax_was_told_goes_first(tmp_path, monkeypatch, elsewhere):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", elsewhere and str(tmp_path / elsewhere))
    monkeypatch.setenv("VLT_CACHE", str(tmp_path / "vlt"))
    run_python(KEPT)
    assert not (tmp_path / "vlt").exists()
    assert (tmp_path / "other").exists() == bool(elsewhere)


def test_programs_are_counted_once_each():
    programs = ProgramCount()
    double = jax.jit(lambda x: 2 * x)
    x, longer = jnp.ones(3), jnp.ones(4)
    before = programs.count
    for _ in range(3):
        double(x)
    assert programs.count == before + 1
    double(longer)
    assert programs.count == before + 2, "another shape is another program"
    programs.close()
    jax.jit(lambda x: 3 * x)(x)
    assert programs.count == before + 2
