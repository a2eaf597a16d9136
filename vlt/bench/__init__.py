"""`python -m vlt.bench --config=... [--against=...] [--peer=torch] [--json]`: speed here.

Rates count the multiply-accumulates that run (vlt.costs.flops), two operations each, over the
median time. The floor is the best float32 matmul rate measured in the same run. Everything compared
is timed in turn, and ratios are medians of the rounds' ratios. A torch peer gets the same weights
and batch, and its outputs are compared first.

Further benchmarks: `vlt.bench.input`, decoding videos, and `.shards`, decoding from shards;
`.generation`, captions beside transformers', and `.conversation`, answers;
`.viclip`, beside torch; `.mixing`, a single block; `.conversion`, of a 7B model;
`.embedding`, windows into an index, and `.search`, queries against large indices;
`.manifest`, the start on very many rows, and `.metrics`, of retrieval between very many;
`.slices`, what fits on which TPU slice; `.failures`, harmed runs; `.damaged_videos`. Each says more
with --help.
"""

from vlt.bench.forward import videos_per_second

__all__ = ["videos_per_second"]
