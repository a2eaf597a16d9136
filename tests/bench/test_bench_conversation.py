"""The benchmark of answers reports its figures beside torch's, and both sides write the same."""

import pytest

from vlt.bench.conversation import bench_conversation
from vlt.models.spec import LlamaSpec


@pytest.mark.slow
def test_both_sides_write_the_same():
    found = bench_conversation(LlamaSpec(64, 50, 32, 1, 2, 48), "float32", 9, 2, 4, 1)
    assert found["same_ids"] == 1
    assert all(found[name] > 0 for name in ("prefill_s", "prefill_matmul_share"))
    assert {"times_as_fast", "memory_share"} <= found.keys()  # too few tokens to compare times
