"""Hooks and fixtures for all tests."""

import collections
import gc
import hashlib
import importlib.util
import os
import pathlib
import platform
import re
import sys
import types
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import pytest
from absl import flags
from helpers import NO_TORCH, PATHS

# Most of the tests' time goes into compiling programs that run once, in subprocesses too.
FAST_COMPILATION = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
]
if tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    # Older emitters of fused loops compile gradients in 0.6 of the time; newer XLA no longer has
    # them, and ends the process on a flag that it does not know.
    FAST_COMPILATION.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FAST_COMPILATION])
# No lines of source with a program's operations: a tenth of the CPU time with warm caches.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")


def kind_of_cpu() -> str:
    """A name for this kind of CPU; a program compiled for one kind may not run on another."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    return hashlib.sha256("".join([platform.machine(), *flags]).encode()).hexdigest()[:12]


# What one process has compiled is found by the others and by the next run.
KEPT = pathlib.Path(__file__).resolve().parents[1] / ".pytest_cache"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(KEPT / f"programs-{kind_of_cpu()}"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# The same holds for generated data.
os.environ["VLT_CACHE"] = str(KEPT / "vlt")


def pytest_configure(config: pytest.Config) -> None:
    """Lets this process and its children keep bytecode, too, unless nothing is to be kept."""
    if config.pluginmanager.hasplugin("cacheprovider"):
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        sys.dont_write_bytecode = False


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """For `-n auto`: one worker more than there are cores, since some tests wait for processes."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (cores or 1) + 1


class WithoutTorch(pytest.Module):
    """A file of tests against torch, where torch is not installed."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip(NO_TORCH, allow_module_level=True)


def pytest_pycollect_makemodule(
    module_path: pathlib.Path, parent: pytest.Collector
) -> pytest.Module | None:
    if importlib.util.find_spec("torch") or not needs_torch(module_path):
        return None
    return WithoutTorch.from_parent(parent, path=module_path)


def needs_torch(file: pathlib.Path) -> bool:
    """Whether a file of tests imports torch at its top level, itself or through a helper."""
    left, seen = [file], {file}  # helpers may import each other
    while left:
        text = left.pop().read_text(encoding="utf-8")
        imported = re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)
        if "torch" in imported:
            return True
        helpers = {folder / f"{name}.py" for name in imported for folder in PATHS[1:]}
        new = {helper for helper in helpers - seen if helper.is_file()}
        left += new
        seen |= new
    return False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks all but the first cases of a test that is `quick(N)` as slow."""
    cases: collections.Counter[str] = collections.Counter()
    for item in items:
        test = item.nodeid.partition("[")[0]
        cases[test] += 1
        if (quick := item.get_closest_marker("quick")) and cases[test] > quick.args[0]:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Spares Linen the search for modules in fields of layers that cannot hold any.

    Linen looks at every field of every layer whenever one is traced: a tenth of the tracing time.
    """
    linen: Any = sys.modules.get("flax.linen")
    search = linen and getattr(linen.Module, "_register_submodules", None)
    if search:
        plain = (int, float, str, type, type(None), types.FunctionType)
        linen.Module._register_submodules = lambda layer, name, value: (
            object.__setattr__(layer, name, value)
            if isinstance(value, plain)
            else search(layer, name, value)
        )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden/configs")


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of given material (golden numbers, videos, vocabularies) beside the checkout."""
    folder = pathlib.Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "DESIGN.md").is_file():
        pytest.skip("needs the given material: no folder `shared` beside the checkout")
    return folder


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Collects garbage once per file: what JAX keeps grows, and collecting took 1/7 of the time."""
    gc.disable()
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def parsed_flags() -> None:
    """Marks absl flags as parsed: grain's workers read them, and only `app.run` parses them."""
    flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="module")
def highest_precision() -> Iterator[None]:
    """Computes float32 products in float32, also on devices that would round them."""
    import jax  # not before the flags above are set

    with jax.default_matmul_precision("highest"):
        yield
