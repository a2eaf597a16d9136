"""What a judge is asked: the five scores of the VideoChatGPT benchmark (Maaz et al.,
arXiv:2306.05424, Section 5), and whether an answer of MSVD-, MSRVTT- or ActivityNet-QA is right.

The wording is ours. Published scores come from other wordings and from models that are gone: a
score is comparable only with those of the same judge and the same wording.
"""

import dataclasses
from collections.abc import Collection

from vlt.judging.endpoint import Messages
from vlt.tasks.answered_questions import Asked

# Mistakes of published programs that can be reproduced; each is off by default.
PUBLISHED = {
    "truncate": "a score of 4.8 counts as 4",
    "yes_in_text": "any verdict with 'yes' in it counts as right, also 'yes or no'",
    "first_question_twice": "the judge of consistency reads the first question in both places",
}
QUESTION_SETS = {  # with the criteria of each
    "generic": ("correctness", "detail", "context"),
    "temporal": ("temporal",),
    "consistency": ("consistency",),
    "qa": ("qa",),
}
FIVE = ("correctness", "detail", "context", "temporal", "consistency")


@dataclasses.dataclass(frozen=True)
class Criterion:
    """aim: what is judged. points: what to look at. verdict: whether the judge also says right or
    wrong. two: whether two questions have one answer."""

    aim: str
    points: tuple[str, ...]
    verdict: bool = False
    two: bool = False


CRITERIA = {
    "correctness": Criterion(
        "how correct the information in a predicted answer is",
        (
            "Compare the facts of the prediction with those of the correct answer; it must not "
            "contradict them, misread them or make up others.",
            "Synonyms and other wordings of the same facts are as good as the words themselves.",
        ),
    ),
    "detail": Criterion(
        "how detailed a predicted answer is",
        (
            "Completeness: the prediction names all that the correct answer names of the video.",
            "Specificity: it names particulars of the video, where a general remark would fit any.",
            "Synonyms and other wordings of the same details are as good as the words themselves.",
        ),
    ),
    "context": Criterion(
        "how well a predicted answer understands the context of the video",
        (
            "The prediction fits what the video as a whole is about, not only one of its details.",
            "It keeps to the main themes and the mood of the correct answer.",
            "Synonyms and other wordings of the same themes are as good as the words themselves.",
        ),
    ),
    "temporal": Criterion(
        "how well a predicted answer understands the order of events in the video",
        (
            "Events come in the prediction in the order of the correct answer, each at its time.",
            "Synonyms and other wordings are good as long as that order is kept.",
        ),
    ),
    "consistency": Criterion(
        "how consistent two predicted answers to two similar questions are",
        (
            "Both predictions agree with the correct answer, and with each other.",
            "What differs in wording alone is consistent; what contradicts the other is not.",
        ),
        two=True,
    ),
    "qa": Criterion(
        "whether a predicted answer to a question about a video is right",
        (
            "The prediction is right if its meaning matches that of the correct answer.",
            "Synonyms and other wordings of the correct answer count as a match.",
        ),
        verdict=True,
    ),
}


def messages(
    name: str, asked: Asked, predicted: tuple[str, ...], published: Collection[str] = ()
) -> Messages:
    """The messages to the judge. name: the criterion's. published: keys of `PUBLISHED`."""
    criterion = CRITERIA[name]
    rules = "\n".join(f"- {point}" for point in criterion.points)
    system = (
        f"You are a careful judge of answers to questions about videos. You judge {criterion.aim}."
        f"\n## INSTRUCTIONS\n{rules}"
    )
    user = f"{_case(asked, predicted, 'first_question_twice' in published)}\n\n{_form(criterion)}"
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _case(asked: Asked, predicted: tuple[str, ...], first_twice: bool) -> str:
    answers = " / or: ".join(asked.answers)
    if len(asked.questions) == 1:
        return (
            f"Question: {asked.questions[0]}\nCorrect answer: {answers}\n"
            f"Predicted answer: {predicted[0]}"
        )
    first, second = asked.questions
    return (
        f"Question 1: {first}\nQuestion 2: {first if first_twice else second}\n"
        f"Correct answer: {answers}\n"
        f"Predicted answer to question 1: {predicted[0]}\n"
        f"Predicted answer to question 2: {predicted[1]}"
    )


def _form(criterion: Criterion) -> str:
    scale = "a whole number from 0, the worst, to 5, the best"
    if criterion.verdict:
        return (
            'Answer with a Python dictionary of two keys and nothing else: "pred", which is "yes" '
            f'if the prediction is right and else "no", and "score", {scale}. '
            'For example: {"pred": "yes", "score": 4}'
        )
    return (
        f'Answer with a Python dictionary of one key and nothing else: "score", {scale}. '
        'For example: {"score": 4}'
    )
