import json
import pathlib
import sys
import textwrap

import ml_collections
import pytest
from absl import flags
from helpers import ROOT, run_python

from vlt import configuration
from vlt.configuration import ConfigError
from vlt.configuration.flags import check_names
from vlt.configuration.record import is_run

FILE = """
    from ml_collections import ConfigDict
    from vlt import configuration

    def default():
        return ConfigDict(dict(
            seed=0,
            rules=(("visual/btadapter/.*", dict(weight_decay=0.05, lr=10.0)), (".*", "frozen")),
            optimizer=dict(lr=2e-6, clip=5.0, schedule=dict(name="constant")),
            model=dict(checkpoint="", methods=("btadapter",), frames=8, mask=0.0, remat=False),
            train=dict(steps=100, best_metric=None),
        ))

    def masked():
        config = default()
        config.model.mask = 0.7
        return config

    VARIANTS = {"": default, "masked": masked}

    def get_config(variant=""):
        return configuration.choose_variant(VARIANTS, variant)
"""


@pytest.fixture
def config_file(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "btadapter.py").write_text(textwrap.dedent(FILE))
    (folder / "tiny_clip.py").write_text("def get_config(variant=''): ...")
    (folder / "common.py").write_text("def base(): ...")
    return "configs/btadapter.py"


def message(function, *arguments) -> str:
    with pytest.raises(ConfigError) as raised:
        function(*arguments)
    return str(raised.value)


def test_a_file_and_its_variant(config_file):
    assert configuration.load_config(config_file).model.mask == 0.0
    config = configuration.load_config(f"{config_file}:masked", {"train.steps": 7})
    assert config.model.mask == 0.7 and config.train.steps == 7
    assert configuration.run_name(config_file) == "btadapter"
    assert configuration.run_name(f"{config_file}:masked") == "btadapter-masked"


def test_an_unknown_variant_lists_the_known(config_file):
    said = message(configuration.load_config, f"{config_file}:maskd")
    assert "no variant 'maskd' (did you mean 'masked'?); variants: (none), masked" in said


def test_an_unknown_file_lists_the_known(config_file):
    said = message(configuration.load_config, "configs/btadaptor.py:masked")
    assert "unknown config 'configs/btadaptor.py' (did you mean 'btadapter'" in said
    here_and_packaged = "; choose from btadapter, tiny_clip, btadapter_zeroshot, clip, "
    assert here_and_packaged in said and said.endswith(", or give the path of a file")
    for name in ("nowhere/x.py", "tiny_clap:masked"):
        assert here_and_packaged in message(configuration.load_config, name)
    said = message(configuration.load_config, "tiny_clap:masked")
    assert "unknown config 'tiny_clap' (did you mean 'tiny_clip'" in said
    pathlib.Path("mine.py").write_text("def get_config(variant=''): ...")
    said = message(configuration.load_config, "./mone.py")
    assert "unknown config './mone.py' (did you mean 'mine'?); choose from mine.py, btada" in said


def test_a_name_is_that_of_a_file_here_or_of_the_package(config_file, monkeypatch):
    """Files and folders of the same name in the working directory do not matter."""
    pathlib.Path("btadapter").write_text("a file")
    pathlib.Path("clip").mkdir()
    assert configuration.load_config("btadapter:masked").model.mask == 0.7
    assert configuration.load_config("clip:b16").model.size == "clip_b16"
    assert configuration.run_name("btadapter:masked") == "btadapter-masked"
    monkeypatch.chdir("clip")
    assert configuration.load_config("btadapter:webvid_l14").model.size == "clip_l14"
    assert configuration.load_config("../configs/btadapter.py:masked").model.mask == 0.7


def test_configs_of_the_package_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configuration.load_config("configs/btadapter.py:webvid_l14").model.size == "clip_l14"
    assert "; choose from btadapter, " in message(configuration.load_config, "x.py")
    for name in ("other/btadapter.py", "btadapter.py", "../configs/btadapter.py"):
        assert "unknown config" in message(configuration.load_config, name)


def test_a_foreign_package_of_that_name_is_not_read(tmp_path, monkeypatch):
    folder = tmp_path / "configs"
    folder.mkdir()
    for name in ("__init__", "common"):
        (folder / f"{name}.py").write_text("raise RuntimeError('read')")
    (folder / "latin.py").write_bytes(b"# \xe9")
    (folder / "folder.py").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "configs", raising=False)
    monkeypatch.delitem(sys.modules, "configs.common", raising=False)
    for name in ("btadapter_zeroshot.py:msrvtt", "clip.py:b16", "tempme.py"):
        assert configuration.load_config(f"configs/{name}").seed == 0
    assert "unknown config 'configs/x.py'" in message(configuration.load_config, "configs/x.py")


def test_a_file_takes_parts_of_its_own_folder_or_of_the_package(tmp_path, monkeypatch):
    own = "from . import btadapter, common, parts\ndef get_config(variant=''):\n"
    own += "    config = btadapter.get_config(variant)\n    config.seed = parts.SEED\n"
    (tmp_path / "my.own.py").write_text(own + "    return config")
    (tmp_path / "parts.py").write_text("SEED = 5")
    config = configuration.load_config(f"{tmp_path}/my.own.py:webvid_l14")
    assert (config.seed, config.model.size) == (5, "clip_l14")


def test_a_file_without_get_config_says_so(config_file):
    pathlib.Path("configs/other.py").write_text("x = 1")
    assert "no function get_config" in message(configuration.load_config, "configs/other.py")


@pytest.mark.parametrize(
    "words",
    [
        ("--config=btadapter", "--out", "--odd"),
        ("--config", "--odd", "--yes"),
        ("--noyes", "--config.model.odd=1", "--config[0]=2", "-yes", "-5"),
        ("a", "--", "--odd"),
        ("--flagfile=x",),
    ],
)
def test_names_of_flags_are_those_that_are_defined(words, monkeypatch):
    monkeypatch.setattr(flags, "FLAGS", flags.FlagValues())
    flags.DEFINE_string("out", "", "", flag_values=flags.FLAGS)
    flags.DEFINE_string("config", "", "", flag_values=flags.FLAGS)
    flags.DEFINE_bool("yes", False, "", flag_values=flags.FLAGS)
    check_names(["vlt train", *words])
    for wrong in ("--odd", "-odd=1", "--yse", "--confg.model.odd=1", "--out-side=1"):
        with pytest.raises(flags.UnrecognizedFlagError):
            check_names(["vlt train", wrong, *words])


@pytest.mark.parametrize(
    "given, words",
    [
        (["--config=configs/btadaptor.py"], "unknown config 'configs/btadaptor.py'"),
        (["--config", "configs/btadapter.py:maskd"], "did you mean 'masked'"),
        (["--config=configs/btadapter.py", "--config.train.step=3"], "did you mean 'train.steps'"),
    ],
)
def test_flags_are_checked_before_they_are_parsed(config_file, given, words):
    assert words in message(configuration.check_flags, ["main.py", *given])


def test_flags_that_fit_pass(config_file):
    fit = ["--config", f"{config_file}:masked", "--config.train.steps=3", "--workdir=x"]
    configuration.check_flags(["main.py", *fit, "--config.model.methods[0]='lora'"])
    configuration.check_flags(["main.py", "--help"])


def test_overrides_change_a_copy(config_file):
    config = configuration.load_config(config_file)
    changed = configuration.apply_overrides(
        config,
        {
            "optimizer.lr": 1,
            "optimizer.schedule": {"name": "cosine", "warmup": 0.1},
            "model.methods": ["lora", "btadapter"],
            "train.best_metric": "R@1",
        },
    )
    assert configuration.differing_keys(config, changed) == {
        "model.methods": ("('btadapter',)", "('lora', 'btadapter')"),
        "optimizer.lr": ("2e-06", "1.0"),
        "optimizer.schedule.name": ("'constant'", "'cosine'"),
        "optimizer.schedule.warmup": (configuration.ABSENT, "0.1"),
        "train.best_metric": ("None", "'R@1'"),
    }
    assert config.optimizer.schedule.name == "constant"


def test_what_refers_to_a_value_follows_it_until_it_has_its_own():
    config = ml_collections.ConfigDict({"train": {"manifest": "a"}, "own": {"manifest": ""}})
    config.own.manifest = config.train.get_oneway_ref("manifest")
    followed = configuration.apply_overrides(config, {"train.manifest": "b"})
    assert (followed.own.manifest, config.own.manifest) == ("b", "a")
    apart = configuration.apply_overrides(followed, {"own.manifest": "c"})
    assert (apart.train.manifest, apart.own.manifest, followed.own.manifest) == ("b", "c", "b")


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("optimizer.lrr", 1.0, "no key 'optimizer.lrr' (did you mean 'optimizer.lr'"),
        ("optimiser.lr", 1.0, "did you mean 'optimizer.lr'"),
        ("seed.x", 1, "no key 'seed.x'"),
        ("model.missing.deep", 1, "no key 'model.missing.deep'"),
        ("train.steps", 1.5, "config.train.steps=1.5 is of type float; it must be of type int"),
        ("train.steps", True, "config.train.steps=True is of type bool; it must be of type int"),
        ("train.steps", "9", "must be of type int, like 100"),
        ("optimizer", 3, "must be of type dict"),
        ("model.methods", "lora", "must be of type tuple, like ('btadapter',)"),
    ],
)
def test_overrides_that_do_not_fit(config_file, key, value, words):
    config = configuration.load_config(config_file)
    assert words in message(configuration.apply_overrides, config, {key: value})


def test_the_text_is_sorted_and_literal(config_file):
    expected = """\
        model.checkpoint = ''
        model.frames = 8
        model.mask = 0.0
        model.methods = ('btadapter',)
        model.remat = False
        optimizer.clip = 5.0
        optimizer.lr = 2e-06
        optimizer.schedule.name = 'constant'
        rules[0] = ('visual/btadapter/.*', {'lr': 10.0, 'weight_decay': 0.05})
        rules[1] = ('.*', 'frozen')
        seed = 0
        train.best_metric = None
        train.steps = 100
    """
    config = configuration.load_config(config_file)
    assert configuration.resolved_text(config) == textwrap.dedent(expected)


def test_the_text_does_not_depend_on_order_or_on_references():
    first = ml_collections.ConfigDict({"a": 1, "b": {"c": (1, {"x": 1, "y": [2]}), "d": 2.0}})
    second = ml_collections.ConfigDict({"b": {"d": 2.0, "c": (1, {"y": (2,), "x": 1})}})
    second.a = ml_collections.FieldReference(1)
    assert configuration.resolved_text(first) == configuration.resolved_text(second)
    assert configuration.differing_keys(first, second) == {}


def test_a_long_tuple_keeps_its_order():
    config = ml_collections.ConfigDict({"rules": tuple((f"r{i}", "frozen") for i in range(12))})
    values = list(configuration.flatten(config).values())
    assert values == [f"('r{i}', 'frozen')" for i in range(12)]


def test_a_value_that_is_no_text_is_refused():
    config = ml_collections.ConfigDict({"model": {"dtype": int}})
    assert "config.model.dtype is a type" in message(configuration.resolved_text, config)


def test_a_run_is_written_and_read_back(config_file, tmp_path):
    config = configuration.load_config(f"{config_file}:masked")
    configuration.save_run(tmp_path / "run", config)
    saved = configuration.load_saved(tmp_path / "run")
    assert configuration.differing_keys(config, saved) == {}
    assert saved.rules == config.rules and isinstance(saved.model.methods, tuple)
    text = (tmp_path / "run" / "config.txt").read_text()
    assert text == configuration.resolved_text(config)
    assert json.loads((tmp_path / "run" / "versions.json").read_text())["jax"]
    names = sorted(entry.name for entry in (tmp_path / "run").iterdir())
    assert names == ["config.json", "config.txt", "versions.json"]


def written_run(folder, **changes) -> str:
    config = configuration.load_config("clip:own", changes)
    configuration.save_run(folder, config)
    return f"{folder}/config.json"


def test_the_config_of_a_run_is_a_config(tmp_path):
    file = written_run(tmp_path, **{"model.frames": 4})
    config = configuration.load_config(file, {"evals.own.batch_size": 5})
    assert (config.model.frames, config.evals.own.batch_size) == (4, 5)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    assert "is not the config of a run" in message(configuration.load_config, file)


def test_the_config_of_a_run_imports_nothing(tmp_path, monkeypatch):
    package = tmp_path / "strange"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "method.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    file = written_run(tmp_path / "run")
    text = pathlib.Path(file).read_text().replace('"methods": []', '"methods": ["strange.method"]')
    pathlib.Path(file).write_text(text)
    said = message(configuration.load_config, file)
    assert "names the method 'strange.method' of another package, which no folder may" in said


def test_a_folder_that_is_no_run_says_so(tmp_path):
    assert "is not the folder of a run" in message(configuration.load_saved, tmp_path)
    (tmp_path / "config.json").write_text('{"a": ')
    assert "config.json is not JSON" in message(configuration.load_saved, tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert "holds a list" in message(configuration.load_saved, tmp_path)
    for text in ("[" * 100_000, '{"a": ' * 990 + "1" + "}" * 990):
        (tmp_path / "config.json").write_text(text)
        assert "is nested too deeply" in message(configuration.load_saved, tmp_path)
        assert not is_run(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    assert "cannot be read: Is a directory" in message(configuration.load_saved, tmp_path)


def test_versions_name_packages_and_commit(monkeypatch):
    found = configuration.versions()
    for package in ("python", "platform", "jax", "flax", "optax", "orbax-checkpoint", "numpy"):
        assert found[package]
    if (ROOT / ".git").exists():
        commit = found["commit"].removesuffix("-dirty")
        assert len(commit) == 40 and set(commit) <= set("0123456789abcdef")
    monkeypatch.setenv("PATH", "")
    assert configuration.versions()["commit"] == "none"


def test_reading_configs_does_not_import_jax():
    code = """
        import sys
        from vlt import configuration
        print('jax' in sys.modules)
    """
    assert run_python(code) == "False\n"
