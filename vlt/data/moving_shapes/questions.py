"""Questions about moving shapes and their answers, for models that answer in words."""

import dataclasses
import json
import pathlib

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

from vlt.data.moving_shapes import grammar
from vlt.data.moving_shapes.grammar import VOCABULARY
from vlt.data.moving_shapes.scene import Scene
from vlt.data.text.sentencepiece_model import SPACE, byte_pair_tokenizer

CHAT_CONTEXT = 64  # tokens of the longest question and answer, video tokens included
UNKNOWN, START, END = "<unk>", "<s>", "</s>"
AROUND_VIDEO = ("<vid_patch>", "<vid_start>", "<vid_end>")

# By family, the question about what happens. A twin's answer differs, in its words alone.
_MOTION = {
    "horizontal": "which way does the {} move ?",
    "vertical": "which way does the {} move ?",
    "size": "does the {} grow or shrink ?",
    "presence": "does the {} appear or vanish ?",
    "orbit": "which way does the {} turn ?",
    "sequence": "what happens first ?",
}
DESCRIBE = "describe the video ."
LOOK = "what do you see ?"
KINDS = ("motion", "description", "look")


@dataclasses.dataclass(frozen=True)
class Question:
    """kind: one of KINDS; for `motion` and `description`, a twin's answer differs."""

    kind: str
    text: str
    answer: str


def questions(scene: Scene, moment: int | None = None) -> tuple[tuple[Question, ...], ...]:
    """One question of each kind about the scene, and about its reversal.

    moment: that of the single frame shown, whose looks are asked about; None for the whole clip.
    """
    look = Question("look", LOOK, grammar.appearance(scene, moment))
    asked = _MOTION[scene.family].format(scene.tracks[0].look.shape)
    captions, answers = grammar.clip_captions(scene), _motions(scene)
    return tuple(
        (Question("motion", asked, answer), Question("description", DESCRIBE, caption), look)
        for answer, caption in zip(answers, captions, strict=True)
    )


def _motions(scene: Scene) -> tuple[str, str]:
    """What happens in the scene, and in its reversal; with two shapes, what the first one does."""
    forward, backward = grammar.VERBS[scene.family]
    if len(scene.tracks) == 1:
        return f"it {forward}", f"it {backward}"
    first, second = (grammar.name(track.look) for track in scene.tracks)
    return f"{first} {forward}", f"{second} {backward}"


def _words() -> tuple[str, ...]:
    """All words of questions and answers beyond those of captions."""
    shapes = [question.format("") for question in _MOTION.values()]
    texts = [*shapes, DESCRIBE, LOOK, "it"]
    return tuple(dict.fromkeys(word for text in texts for word in text.split()))


def write_chat_tokenizer(folder: str | pathlib.Path) -> None:
    """Writes a tokenizer of LLaMA's kind, with these texts' words as pieces and a byte fallback.

    Ids: <unk> 0, <s> 1, </s> 2, bytes 3 to 258, then pieces, and `AROUND_VIDEO` last.
    """
    pieces, merges = _trained_pieces()
    vocabulary = [UNKNOWN, START, END, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    ids = {piece: index for index, piece in enumerate(vocabulary)}
    tokenizer = byte_pair_tokenizer(ids, merges, unk_token=UNKNOWN)
    tokenizer.add_special_tokens([UNKNOWN, START, END])
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in AROUND_VIDEO])
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": START,
        "eos_token": END,
        "unk_token": UNKNOWN,
        "model_max_length": CHAT_CONTEXT,
    }
    grammar.save_tokenizer(tokenizer, folder, settings)


def _trained_pieces() -> tuple[list[str], list[tuple[str, str]]]:
    """Pieces in order of their ids, and the merges that make each word one piece."""
    words = dict.fromkeys((*VOCABULARY[2:-2], *_words(), "USER:", "ASSISTANT:"))
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=2**14, show_progress=False)
    spaced = [word if word == "," else SPACE + word for word in words]
    trained.train_from_iterator(spaced, trainer)
    model = json.loads(trained.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [tuple(m) for m in model["merges"]]
