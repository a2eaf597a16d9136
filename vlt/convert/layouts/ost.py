"""The layout of OST, and of a whole ViFi-CLIP: OpenAI's names in two encoders. OST's matching of
sentences has no tensors; a config adds the method.
"""

from vlt.convert.layouts.clip import SCALE, openai_text, openai_vision
from vlt.convert.tables.family import Family
from vlt.convert.tables.table import CONV
from vlt.model_io.view import View

OST = Family(
    name="ost",
    sign=r"^(module\.)?image_encoder\.conv1\.weight$",
    renames=((r"^module\.", ""),),
    adapter=r"(?!text_encoder\.token_embedding\.).*",
    alone="no embedding of words, as ViFi-CLIP's; --set base=FOLDER names the model folder of the "
    "CLIP it was trained on",
    completed=r"text/token_embedding/.*",
    view=View("segment_centre", 8),
    rules=(
        *openai_vision("image_encoder.", CONV),
        *openai_text("text_encoder."),
        SCALE,
    ),
)
