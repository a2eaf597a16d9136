"""Prompts of video language models: templates of dialogues, as data.

A template's texts are split at its `tokens`, each of which is one id, and at VIDEO, where a video's
tokens stand. What users write is split at VIDEO alone: none of it becomes a special token.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence

from vlt.pytrees.fields import near

VIDEO = "<video>"
START, END = "<s>", "</s>"
CURIOUS_HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions."
)
CURIOUS_USER = CURIOUS_HUMAN.replace("human", "user")
LLAVA = (
    "You are LLaVA, a large language and vision assistant trained by UW Madison WAIV Lab."
    "You are able to understand the visual content that the user provides, and assist the user "
    "with a variety of tasks using natural language."
    "Follow the instructions carefully and explain your answers in detail."
)
VIDEO_CHATGPT = (
    "You are Video-ChatGPT, a large vision-language assistant. You are able to understand the "
    "video content that the user provides, and assist the user with a variety of tasks using "
    "natural language.Follow the instructions carefully and explain your answers in detail based "
    "on the provided video."
)
MINIGPT4 = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I "
    "provide it to you. Please answer my questions."
)
ENERGY = (
    "What are the key differences between renewable and non-renewable energy sources?",
    "Renewable energy sources are those that can be replenished naturally in a relatively short "
    "amount of time, such as solar, wind, hydro, geothermal, and biomass. Non-renewable energy "
    "sources, on the other hand, are finite and will eventually be depleted, such as coal, oil, "
    "and natural gas. Here are some key differences between renewable and non-renewable energy "
    "sources:\n"
    "1. Availability: Renewable energy sources are virtually inexhaustible, while non-renewable "
    "energy sources are finite and will eventually run out.\n"
    "2. Environmental impact: Renewable energy sources have a much lower environmental impact than "
    "non-renewable sources, which can lead to air and water pollution, greenhouse gas emissions, "
    "and other negative effects.\n"
    "3. Cost: Renewable energy sources can be more expensive to initially set up, but they "
    "typically have lower operational costs than non-renewable sources.\n"
    "4. Reliability: Renewable energy sources are often more reliable and can be used in more "
    "remote locations than non-renewable sources.\n"
    "5. Flexibility: Renewable energy sources are often more flexible and can be adapted to "
    "different situations and needs, while non-renewable sources are more rigid and inflexible.\n"
    "6. Sustainability: Renewable energy sources are more sustainable over the long term, while "
    "non-renewable sources are not, and their depletion can lead to economic and social "
    "instability.\n",
)


@dataclasses.dataclass(frozen=True)
class Template:
    """The dialogue format of one family of checkpoints.

    system: what a dialogue begins with. user, assistant: what precedes a question, an answer;
        opening: what precedes the answer that the model is to write. after_user, after_assistant:
        what follows a question, an answer.
    question: a question and its videos, if the question itself does not contain VIDEO. video: what
        stands for one video, with VIDEO for its tokens. patch: the token whose id stands there.
    tokens: texts in the above that are one id each. exchange: turns that precede the first.
    stops: texts that end an answer, besides the tokenizer's end token.
    penalize_prompt: whether a repetition penalty, and the length of a beam, count the prompt; else
        they count the answer, and a start token before it, as transformers up to 4.31 does for
        prompts given as embeddings.
    apart: whether an answer, with what ends it, is tokenized apart from what precedes it.
    """

    system: str
    user: str
    assistant: str
    opening: str
    after_user: str
    after_assistant: str
    question: str = "{question}\n{video}"
    video: str = "<vid_start><video><vid_end>"
    patch: str = "<vid_patch>"
    tokens: tuple[str, ...] = (START, END, "<vid_start>", "<vid_end>")
    exchange: tuple[tuple[str, str], ...] = ()
    stops: tuple[str, ...] = ()
    penalize_prompt: bool = True
    apart: bool = False


def _vicuna(system: str, **fields: object) -> Template:
    """A template of Vicuna 1.1: two separators, no space after </s>."""
    made = Template(f"{START}{system} ", "USER: ", "ASSISTANT: ", "ASSISTANT:", " ", END)
    return dataclasses.replace(made, **fields)  # type: ignore[arg-type]


def _vicuna_v0(system: str, exchange: tuple[str, str], **fields: object) -> Template:
    """A template of Vicuna 0: one separator."""
    made = Template(f"{START}{system}###", "Human: ", "Assistant: ", "Assistant:", "###", "###")
    made = dataclasses.replace(made, exchange=(exchange,), stops=("###",))
    return dataclasses.replace(made, **fields)  # type: ignore[arg-type]


def _minigpt4(system: str, after_user: str) -> Template:
    return Template(
        f"{START}{system}###",
        "Human: ",
        "Assistant: ",
        "Assistant: ",
        after_user,
        "###",
        question="{video} {question}",
        video="<Img><video></Img>",
        patch="",
        tokens=(START, END),
        stops=("###",),
        penalize_prompt=False,
    )


# LLaVA's tokens around an image, and in its places.
_IMAGE = {
    "video": "<im_start><video><im_end>",
    "patch": "<im_patch>",
    "tokens": (START, END, "<im_start>", "<im_end>"),
}

TEMPLATES: dict[str, Template] = {
    # For inference with BT-Adapter and Video-ChatGPT; for their training, and LLaVA's.
    "video_chatgpt_v1": _vicuna(VIDEO_CHATGPT),
    "vicuna_v1_1": _vicuna(CURIOUS_USER),
    # LLaVA's: of June 2023; of the same name since 1.0; of 1.5, without tokens around an image.
    "llava_v1": _vicuna(LLAVA, **_IMAGE),
    "llava_v1_since_1.0": _vicuna(CURIOUS_HUMAN, **_IMAGE),
    "llava_v1_5": _vicuna(
        CURIOUS_USER,
        question="{video}\n{question}",
        video=VIDEO,
        patch="",
        tokens=(START, END),
    ),
    "llava_v0": _vicuna_v0(LLAVA, ("Hi!", "Hi there!  How can I help you today?\n"), **_IMAGE),
    "vicuna_v0": _vicuna_v0(CURIOUS_HUMAN, ENERGY),
    "minigpt4": _minigpt4(MINIGPT4, "###"),
    # MiniGPT-4's instructions have an extra space, and no system text.
    "minigpt4_training": dataclasses.replace(_minigpt4("", " ###"), apart=True),
    # Vicuna's without a system text, for the tiny chat model in the package.
    "plain": dataclasses.replace(_vicuna(""), system=START),
    # The same for training a language model on texts alone: no place for a video.
    "words": dataclasses.replace(_vicuna(""), system=START, question="{question}", video=""),
    # The raw question after the video; several turns stand on a line each, which is our reading.
    "instructblip": Template(
        "",
        "",
        "\n",
        "",
        "",
        "\n",
        question="{video}{question}",
        video=VIDEO + START,
        patch="",
        tokens=(START, END),
        penalize_prompt=False,
    ),
    "instructblip_training": Template(
        "",
        "",
        "",
        "",
        "",
        END,
        question="{video}{question}",
        video=VIDEO + START,
        patch="",
        tokens=(START, END),
        penalize_prompt=False,
        apart=True,
    ),
}


def template(name: str) -> Template:
    """The template of this name. Raises ValueError, which suggests others, for an unknown one."""
    if name not in TEMPLATES:
        raise ValueError(f"template={name!r}{near(name, TEMPLATES)}")
    return TEMPLATES[name]


@dataclasses.dataclass(frozen=True)
class Turn:
    """A question with its videos, and the answer, or '' for one that the model is to write."""

    question: str
    answer: str = ""
    videos: int = 0


@dataclasses.dataclass(frozen=True)
class Piece:
    """A text, or one token by its name; VIDEO for a video's tokens.

    answer: whether it is the model's to write. apart: whether it is tokenized apart from a text
    before it.
    """

    text: str
    token: bool = False
    answer: bool = False
    apart: bool = False


def render(used: Template, turns: Sequence[Turn]) -> list[Piece]:
    """The dialogue, piece by piece; adjacent texts belong together unless marked apart.

    Raises:
        ValueError: a question has VIDEO, but not as often as it has videos.
    """
    pieces = list(_pieces(used.system, used.tokens))
    given = [Turn(*exchange) for exchange in used.exchange]
    for turn in [*given, *turns]:
        pieces += [*_pieces(used.user, used.tokens), *_question(used, turn)]
        if not turn.answer:
            pieces += _pieces(used.after_user + used.opening, used.tokens)
            continue
        pieces += _pieces(used.after_user + used.assistant, used.tokens)
        pieces.append(Piece(turn.answer, answer=True, apart=used.apart))
        ends = _pieces(used.after_assistant, used.tokens)
        pieces += [dataclasses.replace(piece, answer=True) for piece in ends]
    return pieces


def _question(used: Template, turn: Turn) -> Iterator[Piece]:
    places = turn.question.count(VIDEO)
    if places and places != turn.videos:
        raise ValueError(
            f"a question with {places} places {VIDEO} and {turn.videos} videos; each video needs "
            "one place, or none is said"
        )
    if places or not turn.videos:
        parts = re.split(f"({VIDEO})", turn.question)
    else:
        before, after = used.question.split("{question}")
        videos = VIDEO * turn.videos
        parts = [
            *_split(before.replace("{video}", videos)),
            turn.question,
            *_split(after.replace("{video}", videos)),
        ]
    for part in parts:
        yield from _pieces(used.video, used.tokens) if part == VIDEO else [Piece(part)]


def _split(text: str) -> list[str]:
    return re.split(f"({VIDEO})", text)


def _pieces(text: str, tokens: tuple[str, ...]) -> Iterator[Piece]:
    """Splits one of a template's texts into texts and tokens."""
    for part in _cut(tokens).split(text):
        if part:
            yield Piece(part, token=part == VIDEO or part in tokens)


@functools.cache
def _cut(tokens: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("(" + "|".join(map(re.escape, (VIDEO, *tokens))) + ")")
