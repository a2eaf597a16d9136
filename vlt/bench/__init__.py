"""`python -m vlt.bench --config=... [--against=...] [--peer=torch] [--json]`: speed here.

Rates are of multiply-accumulates that run (vlt.costs.flops), two operations each, over the median
time. The floor is the best float32 matmul rate measured in the same run. Whatever is compared is
timed turn by turn, and ratios are medians of the rounds' ratios. A torch peer gets the same weights
and batch, and its outputs are compared first.

Beside it: `vlt.bench.input`, decoders of videos, and `.shards`, the same out of shards;
`.generation`, captions beside transformers', and `.conversation`, answers;
`.viclip` beside torch, `.mixing`, a block alone;
`.search`, queries of large indices;
`.slices`, what fits on which TPU slice; `.failures`, harmed runs; `.damaged_videos`. Each says more
by --help.
"""

from vlt.bench.forward import videos_per_second

__all__ = ["videos_per_second"]
