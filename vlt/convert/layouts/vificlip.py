"""ViFi-CLIP's layout with its second stage's prompts; `ost.py` has that of a whole model.

Neither has the embedding of words, which training does not change: class texts are kept embedded.
"""

import dataclasses

from vlt.convert.layouts.ost import OST
from vlt.convert.tables.table import Rule

_BLOCK = "transformer.resblocks.{i}.VPT_shallow"

VIFICLIP = dataclasses.replace(
    OST,
    name="vificlip",
    sign=r"^(module\.)?(prompt_learner\.|image_encoder\.(VPT$|.*\.VPT_shallow$))",
    dropped=r"prompt_learner\.(token_(prefix|suffix)|complete_text_embeddings)",
    rules=(
        *OST.rules,
        Rule("image_encoder.VPT", ("visual/vificlip_prompt",)),
        Rule(f"image_encoder.{_BLOCK}", ("visual/blocks_{i}/vificlip_prompt",)),
        Rule("prompt_learner.ctx", ("text/vificlip_prompt",)),
        Rule(f"text_encoder.{_BLOCK}", ("text/blocks_{i}/vificlip_prompt",)),
    ),
)
