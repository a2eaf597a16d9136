"""Shards of an index by the recipes of launch/README.md, and an index in a stand-in for S3.

They need the extra `beam`, ray[data] and moto[server].
"""

import os
import re
import socket
import subprocess
import sys
import time

import documents
import pytest
from helpers import ROOT, environment_with_vlt

from vlt.data import moving_shapes

lancedb = pytest.importorskip("lancedb")

from vlt.indexing.store import Store  # noqa: E402

RECIPES = documents.snippets((ROOT / "launch/README.md").read_text("utf-8"))
VIDEOS = 8
pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    """A folder with my/videos in it."""
    moving_shapes.generate(tmp_path / "my", VIDEOS // 2)
    return tmp_path


def run(folder, *command, **more):
    env = environment_with_vlt(folder / "bin") | more
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(("library", "recipe"), zip(("apache_beam", "ray"), RECIPES, strict=True))
def test_recipe_makes_a_whole_index(library, recipe, folder):
    pytest.importorskip(library)
    (folder / "embed.py").write_text(recipe.replace("num_gpus=1", "num_gpus=0"))
    status, printed = run(folder, sys.executable, "embed.py")
    assert status == 0, printed
    uri = re.search(r"--out=(my/\w+)", recipe)[1]
    assert len(Store(str(folder / uri)).entries()) == VIDEOS


@pytest.fixture
def s3(monkeypatch):
    """A server that speaks S3, with an empty bucket `films`; the environment names it."""
    pytest.importorskip("moto.server")
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    at = f"http://127.0.0.1:{port}"
    settings = {"ENDPOINT": at, "ALLOW_HTTP": "true", "REGION": "us-east-1"}
    settings |= {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert server.poll() is None, "the server ended"
            time.sleep(0.1)
    boto3.client("s3", endpoint_url=at).create_bucket(Bucket="films")
    yield "s3://films/index"
    server.kill()
    server.wait()


def test_an_index_in_a_store_is_as_in_a_folder(s3, folder):
    """Made in shards, searched, and made once more, of which nothing is new."""
    settings = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}

    def vlt(*words):
        return run(folder, "vlt", *words, **settings)

    made = "embed", "my/videos", "--model=tiny_clip"
    for shard in ("0/2", "1/2"):
        status, printed = vlt(*made, f"--out={s3}", f"--shard={shard}")
        assert status == 0, printed
        status, printed = vlt("embed", "--commit", f"--out={s3}")
        if shard == "0/2":
            assert status == 1 and "have not ended: 1" in printed
    assert status == 0, printed
    assert vlt(*made, "--out=local")[0] == 0
    printed = [vlt("search", "a circle", f"--index={uri}", "--json")[1] for uri in (s3, "local")]
    found = [sorted(x for x in text.splitlines() if x.startswith("{")) for text in printed]
    assert found[0] == found[1] and len(found[0]) == VIDEOS
    assert f"{VIDEOS} of {VIDEOS} were in it as they are" in vlt(*made, f"--out={s3}")[1]
