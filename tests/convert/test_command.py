"""python -m vlt.convert."""

import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.numpy
import torch
from helpers import environment, run_python

from vlt.convert.__main__ import main


def _command(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "vlt.convert", *map(str, arguments)]
    return subprocess.run(command, env=environment(1), capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_there_and_back(clip_folder: Path, tmp_path: Path, tokenizer: str):
    done = _command(clip_folder, tmp_path / "model", "--tokenizer", tokenizer)
    assert done.returncode == 0, done.stderr
    assert "visual: 48 pixels, patch 16, width 64, 4 layers, 2 heads" in done.stdout
    assert "preprocessing: CLIP's, assumed" in done.stdout
    assert main([str(tmp_path / "model"), str(tmp_path / "back.safetensors"), "--reverse"]) == 0
    original = safetensors.numpy.load_file(clip_folder / "model.safetensors")
    assert safetensors.numpy.load_file(tmp_path / "back.safetensors").keys() == original.keys()


def test_errors_are_one_message_and_a_status(clip_folder, tmp_path, capsys):
    assert main([str(clip_folder), str(tmp_path / "model")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {clip_folder}: holds no tokenizer")
    assert main([str(clip_folder), str(tmp_path / "model"), "--set", "visual.head=1"]) == 1
    assert "unknown key 'visual.head' (did you mean 'visual.heads'" in capsys.readouterr().err
    assert main([str(clip_folder), str(tmp_path / "back"), "--reverse"]) == 1
    assert "a Hugging Face folder must be converted first" in capsys.readouterr().err
    assert main([str(clip_folder), str(tmp_path / "back"), "--reverse", "--set", "base=x"]) == 1
    assert "leave out --set, --tokenizer" in capsys.readouterr().err
    assert main([str(clip_folder), str(tmp_path / "back"), "--reverse", "--key", "model"]) == 1
    assert "--key and --allow-nonfinite" in capsys.readouterr().err


def test_key_and_nonfinite_weights(clip, clip_folder, tmp_path, tokenizer, capsys):
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_text((clip_folder / "config.json").read_text())
    state = clip.state_dict()
    average = state | {"logit_scale": torch.tensor(float("nan"))}
    torch.save({"model": state, "ema": average}, folder / "pytorch_model.bin")
    command = [str(folder), str(tmp_path / "model"), "--tokenizer", tokenizer, "--key"]
    assert main([*command, "emma"]) == 1
    assert "--key emma: no entry of this name holds tensors" in capsys.readouterr().err
    assert main([*command, "ema"]) == 1
    assert "logit_scale: 1 NaN and 0 infinite of 1 values" in capsys.readouterr().err
    assert main([*command, "ema", "--allow-nonfinite"]) == 0
    assert "logit_scale: 1 NaN and 0 infinite of 1 values" in capsys.readouterr().out


@pytest.mark.slow
def test_works_without_torch_and_network(clip_folder: Path, tmp_path: Path, tokenizer: str):
    code = """
    import socket, sys
    sys.modules["torch"] = None
    def refuse(*arguments):
        raise OSError("no network here")
    socket.socket.connect = socket.getaddrinfo = refuse
    from vlt.convert.__main__ import main
    from vlt.model_io.folder import read_model_folder
    source, target, tokenizer = sys.argv[1:]
    assert main([source, target, "--tokenizer", tokenizer]) == 0
    print(read_model_folder(target)[1]["logit_scale"].shape)
    """
    assert run_python(code, clip_folder, tmp_path / "model", tokenizer).endswith("()\n")
