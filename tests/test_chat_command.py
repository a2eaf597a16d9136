"""`vlt chat`: answers by video and question, and a dialogue that only its user ends."""

import json
import signal
import sys
from types import SimpleNamespace

import pytest
from helpers import ROOT, run_python

import vlt
from vlt import chat
from vlt.command_line.chat import parse
from vlt.data import moving_shapes
from vlt.data.text.texts import printable
from vlt.model_io.folder import ModelConfig, write_model_folder
from vlt.runtime import stopping

sys.path.append(str(ROOT / "tests" / "models"))
from golden_chat import Golden

PIXELS = {"image_size": 56, "mean": [0.5] * 3, "std": [0.5] * 3, "resize": "bicubic"}
QUESTIONS = ("What is the person doing?", "Is the dog running or sleeping?")
SHORT = {"max_length": 6}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of clips, one of which is no video."""
    manifest = moving_shapes.generate(tmp_path_factory.mktemp("shapes") / "train", 2)
    (manifest.parent / "videos" / "zz_broken.mov").write_text("no video\n")
    return manifest.parent / "videos"


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory):
    """A model folder of the golden LLaVA without its branch."""
    golden = Golden(shared / "golden" / "chat", "llava")
    config = ModelConfig("llava", golden.spec, {}, PIXELS | {"crop": "none"}, frames=3)
    path = tmp_path_factory.mktemp("model") / "llava"
    write_model_folder(path, config, golden.plain(), shared / "golden" / "chat" / "tokenizer")
    return path


@pytest.fixture(scope="module")
def model(folder):
    return vlt.load(folder)


def paths(clips):
    return sorted(map(str, clips.glob("*.mov")))


@pytest.fixture(scope="module")
def alone(model, clips):
    """Answers from dialogues of one question each."""
    return {
        (path, question): model.chat(path).ask(question, **SHORT)
        for path in paths(clips)[:-1]
        for question in QUESTIONS
    }


def test_answers_by_video_and_question(model, clips, alone, capsys):
    found = dict(chat.answers(model, paths(clips), QUESTIONS, **SHORT))
    *good, broken = paths(clips)
    for path in good:
        assert found[path] == [(question, alone[path, question]) for question in QUESTIONS]
    assert "zz_broken" in str(found[broken])
    assert len(set(alone.values())) > 2


@pytest.mark.slow
def test_the_command(folder, clips, alone):
    code = "import sys; from vlt import chat; print(chat.main(sys.argv[1:]))"
    asked = [f"--ask={question}" for question in QUESTIONS]
    *lines, status = run_python(
        code, clips, f"--model={folder}", *asked, "--json", "--set=max_length=6"
    ).splitlines()
    entries = [json.loads(line) for line in lines]
    assert status == "1" and "error" in entries.pop()
    found = {(entry["video"], entry["question"]): entry["answer"] for entry in entries}
    assert found == alone


def test_a_dialogue_that_goes_on(model, clips, alone, tmp_path, capsys):
    *good, broken = paths(clips)
    written = []
    talk = chat.Conversation(model.chat(), None, SHORT, written.append)
    assert talk.say(QUESTIONS[0])
    talk.show([broken, good[0]])
    errors = capsys.readouterr().err.splitlines()
    assert "no video was shown yet" in errors[0] and "zz_broken.mov" in errors[1]
    assert talk.say(f"  {QUESTIONS[0]}\n") and talk.say("")
    assert "".join(written) == printable(alone[good[0], QUESTIONS[0]]) + "\n" and len(written) > 2
    for line in ("/videos x", "/video nowhere/*.mp4", "/frames 0", "/save", f"/video {broken}"):
        assert talk.say(line)
    errors = capsys.readouterr().err
    assert errors.count("error: ") == 5 and "there are /video, /frames" in errors
    assert talk.say("/frames 2") and talk.say(f"/video {good[1]}") and talk.say(QUESTIONS[1])
    assert talk.say(f"/save {tmp_path / 'talk.json'}")
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert [turn["videos"] for turn in saved["turns"]] == [[good[0]], [good[1]]]
    assert saved["turns"][0]["answer"] == alone[good[0], QUESTIONS[0]]
    written.clear()
    assert talk.say("/reset") and talk.say("/frames 3") and talk.say(f"/video {good[0]}")
    assert talk.say(QUESTIONS[0])
    assert "".join(written) == printable(alone[good[0], QUESTIONS[0]]) + "\n"
    assert not capsys.readouterr().err
    assert not talk.say("/quit")


def test_ctrl_c_stops_an_answer_and_not_the_dialogue(model, clips, alone):
    clip, written = paths(clips)[0], []

    def write(text):
        written.append(text)
        if len(written) == 1:
            signal.raise_signal(signal.SIGINT)

    talk = chat.Conversation(model.chat(), None, SHORT, write)
    talk.show([clip])
    with stopping.signals():
        assert talk.say(QUESTIONS[0]) and written[-1] == "\nstopped\n"
        written[1:] = []
        assert talk.say(QUESTIONS[0])
    assert "".join(written[1:]) == printable(alone[clip, QUESTIONS[0]]) + "\n"


def test_a_request_to_end_ends_the_dialogue(model, clips):
    talk = chat.Conversation(
        model.chat(), None, SHORT, lambda _: signal.raise_signal(signal.SIGTERM)
    )
    talk.show(paths(clips)[:1])
    with pytest.raises(stopping.Stopped), stopping.signals():
        talk.say(QUESTIONS[0])


def test_what_is_typed_is_read(folder, clips, monkeypatch, capsys):
    """What is piped in is shown with its answer; a terminal is told what can be typed."""
    options = [paths(clips)[0], f"--model={folder}", "--set=max_length=3"]
    said = {}
    for terminal in (False, True):
        lines = iter([QUESTIONS[0], "/help", "/quit"])
        monkeypatch.setattr("builtins.input", lambda _, lines=lines: next(lines))
        monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda terminal=terminal: terminal))
        assert chat.main(options) == 0
        said[terminal] = capsys.readouterr().out
    piped, typed = said[False], said[True]
    assert piped.startswith(f"> {QUESTIONS[0]}\n") and piped.count(chat.HELP) == 1
    assert typed.startswith("Shown: ") and typed.count(chat.HELP) == 2
    answer = piped.split("\n")[1]
    assert answer and f"{chat.HELP}{answer}\n" in typed


def test_arguments_that_do_not_fit(capsys):
    for arguments, said in (
        (["a.mp4"], "one of --model and --workdir is needed"),
        (["a.mp4", "--model=b", "--json"], "--ask asks for JSON"),
        (["a.mp4", "--model=b", "--ask= "], "--ask: a question without words"),
        (["a.mp4", "--model=b", "--frames=0"], "a whole number above 0"),
        (["a.mp4", "--model=b", "--spacing=slow"], "invalid choice: 'slow'"),
    ):
        with pytest.raises(SystemExit):
            parse("vlt chat", arguments)
        assert said in capsys.readouterr().err
    assert chat.main(["a.mp4", "--model=tiny_blip", "--ask=?"]) == 1
    assert "a captioner, which answers no questions" in capsys.readouterr().err
    with pytest.raises(ValueError, match="temperature must be > 0"):
        chat.parse_search(["temperature=0"])
