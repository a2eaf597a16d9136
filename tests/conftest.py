"""Fixtures of all tests."""

import pathlib

import pytest
from absl import flags


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
