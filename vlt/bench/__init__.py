"""`python -m vlt.bench --config=... [--against=...] [--peer=torch] [--json]`: speed here.

Rates are of multiply-accumulates that run (vlt.count), two operations each, over the median time.
The floor is the best float32 matmul rate measured in the same run. Whatever is compared is timed
turn by turn, and ratios are medians of the rounds' ratios. A torch peer gets the same weights and
batch, and its outputs are compared first. `python -m vlt.bench.input` times the decoders of
videos, `python -m vlt.bench.generation` captions beside transformers', `python -m
vlt.bench.viclip` ViCLIP beside torch.
"""

from vlt.bench.forward import videos_per_second

__all__ = ["videos_per_second"]
