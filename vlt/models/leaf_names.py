"""Leaves that others count, blend and resize: their '/'-joined paths, and patterns of whole paths.

A test checks that every path and pattern here matches a leaf of some model.
"""

# Tables of positions: of patches in a frame, of frames, and of words.
PLACES = "visual/position_embedding"
FRAMES = "visual/temporal_embedding"
WORDS = "text/position_embedding"

SCALE = "logit_scale"  # scales cosines

# Leaves that no video passes through; videos pass through the vision tower's, and shared ones.
NOT_VIDEO = (
    "text/.*",
    "question/.*",
    "text_projection/.*",
    "itm_head/.*",
    "logit_scale",
    "logit_bias",
    "temperature",
)
# What CLIP4Clip's and TempMe's counts of full fine-tuning leave out.
EMBEDDINGS = (
    ".*patch_embedding/.*",
    ".*token_embedding/.*",
    ".*class_embedding",
    ".*position_embedding",
    ".*temporal_embedding",
    ".*pooler/probe",
    "logit_scale",
    "logit_bias",
)
# Not weights in the sense of MSTA's counts: embeddings of pixels, class and positions.
NOT_WEIGHTS = ("visual/patch_embedding/.*", "visual/class_embedding", PLACES, FRAMES)
# Token Mixing also leaves out BLIP's projection into the joint space, no part of its encoder.
BLIP_NOT_WEIGHTS = (*NOT_WEIGHTS, "visual/projection/.*")
# Leaves that the embeddings of a `Retriever` do not pass through.
NOT_EMBEDDING = (
    "itm_head/.*",
    r"text/blocks_\d+/cross_attention/.*",
    r"text/blocks_\d+/cross_attention_norm/.*",
    "temperature",
)
