"""Fixtures of all tests."""

import os
import pathlib

import pytest
from absl import flags

# Most of the tests' time is compilation of programs that run once; also of those in subprocesses.
# XLA's older emitters of fused loops compile gradients in 0.6 of the time of those of today.
FAST_COMPILATION = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false"
)
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILATION}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden/configs")


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of given material (golden numbers, videos, vocabularies) beside the checkout."""
    folder = pathlib.Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "DESIGN.md").is_file():
        pytest.skip("needs the given material: no folder `shared` beside the checkout")
    return folder


@pytest.fixture(scope="session", autouse=True)
def parsed_flags() -> None:
    """grain's worker processes read absl flags, which only `app.run` parses."""
    flags.FLAGS.mark_as_parsed()
