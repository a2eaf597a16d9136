"""Plans of claims, what is kept of them, and the page; runs are made up."""

import dataclasses
import json
import re

import pytest

from vlt.data.skips import TooManyErrors
from vlt.study import __main__ as door
from vlt.study import plan, running, side_by_side
from vlt.study.claim import MEASURES, PAPERS, Claim, Comparison, Picture, Row
from vlt.study.claims import CLAIMS
from vlt.study.kept import KeptRows
from vlt.study.page import write_page
from vlt.study.verdict import Scores

FROZEN = Row("frozen", "btadapter", "zero-shot tiny CLIP", order=False)
BRANCH = Row("branch", "btadapter", "BT-Adapter", order=True)
DEEP = Row("deep", "btadapter", "BT-Adapter", {"model.btadapter.depth": 3})
SHALLOW = Row("shallow", "btadapter", "BT-Adapter", {"model.btadapter.depth": 1}, order=True)
BETTER = Claim(
    "better", "A branch helps.", "btadapter", "Table 6", "35 and 38",
    (FROZEN, BRANCH), (Comparison("branch", "frozen"),),
)  # fmt: skip
DEEPER = Claim(
    "deeper", "Depth helps.", "btadapter", "Figure 3", "a curve",
    (DEEP, SHALLOW, FROZEN), (Comparison("deep", "shallow"),),
    picture=Picture(x="layers", at={"deep": 3, "shallow": 1}, lines=(("shallow", "deep"),)),
)  # fmt: skip
OURS = {"better": BETTER, "deeper": DEEPER}


@pytest.fixture(autouse=True)
def _made_up(monkeypatch):
    """Runs are made up in this process, one after another, and leave nothing to collect."""
    for module in (plan, side_by_side):
        monkeypatch.setattr(module, "shares", lambda most: [set()])
    monkeypatch.setattr(running.jax, "clear_caches", lambda: None)
    monkeypatch.setattr(running.gc, "collect", lambda: None)


def fake(calls):
    """A runner that records in `calls` which runs it is asked for."""

    def run(run, folder):
        calls.append((run.row.name, run.seed))
        right = 4 if run.row.order or run.row.name == "deep" else 2
        digits = (
            "".join(str(right if k % 8 else 0) for k in range(520)) if right == 4 else "2" * 520
        )
        twins = 25 * sum(map(int, digits)) / 520
        values = {"twins/twins_v2t": twins, "trained_params": 1e5, "inspect/video_gmacs": 0.05}
        return Scores(values | {"static/t2v_R@1": 60.0 + run.seed}, {"twins": digits})

    return run


def test_runs_that_claims_share_and_what_trains_nothing_are_made_once():
    runs = plan.runs_of(OURS.values(), seeds=3)
    assert [(run.row.name, run.seed) for run in runs] == [
        ("frozen", 0), ("branch", 0), ("shallow", 0),
        ("branch", 1), ("shallow", 1), ("branch", 2), ("shallow", 2),
    ]  # fmt: skip
    assert all(run.config.seed == run.seed and not run.config.compare for run in runs)
    assert len({run.name for run in runs}) == 7


def test_rows_that_decide_nothing_have_one_seed_and_no_quick_run():
    claim = Claim("x", "", "ours", "", "", (BRANCH, SHALLOW), (Comparison("branch", 50.0),))
    assert [(r.row.name, r.seed) for r in plan.runs_of([claim], 2)] == [
        ("branch", 0), ("shallow", 0), ("branch", 1),
    ]  # fmt: skip
    (quick,) = plan.runs_of([claim], 1, quick=True)
    assert quick.config.train.steps == plan.LEAST_STEPS < 300 and quick.name.endswith("-quick")


def test_a_digest_is_of_what_a_run_computes():
    config = plan.resolved(BRANCH)
    code = plan.digest(config)
    assert re.fullmatch("[0-9a-f]{12}", code)
    for key, value in (("seed", 5), ("data.workers", 0), ("train.watchdog", 1.0), ("table", ())):
        other = plan.configuration.apply_overrides(config, {key: value})
        assert plan.digest(other) == code, key
    for key, value in (("optimizer.lr", 1e-3), ("train.steps", 5), ("evals.twins.min_pairs", 1)):
        other = plan.configuration.apply_overrides(config, {key: value})
        assert plan.digest(other) != code, key


def test_harder_clips_are_other_manifests_everywhere():
    config = plan.resolved(BRANCH, "noise=24,motion=0.5")
    names = [section.manifest for section in (config.data.train, *config.evals.values())]
    assert all(name.startswith("moving_shapes:clips,noise=24,motion=0.5:") for name in names)


def test_a_row_that_its_config_lacks_is_an_error_with_those_it_has():
    with pytest.raises(ValueError, match="no row 'Branch'; its rows are .*BT-Adapter"):
        plan.resolved(Row("x", "btadapter", "Branch"))


@pytest.mark.quick(1)
@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_every_claim_is_of_rows_that_exist_and_measures_that_they_have(claim):
    assert claim.paper in PAPERS
    for row in claim.rows:
        config = plan.resolved(row, claim.data)
        evaluations = {*config.evals, "inspect", "moving_shapes_base_to_novel"}
        for name in {*claim.columns, *(each.measure for each in claim.decides), claim.picture.y}:
            key = MEASURES[name].key
            assert "/" not in key or MEASURES[name].evaluation in evaluations, name


@pytest.mark.slow
@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_every_row_has_a_model_that_its_rules_fit(claim):
    running.check(plan.runs_of([claim], 1))


def test_a_row_whose_rules_do_not_fit_is_named_before_any_is_run():
    wrong = Row("wrong", BRANCH.config, BRANCH.entry, {"model.btadapter.gates": "none"})
    runs = [plan.run_of(BETTER, row, 0) for row in (FROZEN, wrong)]
    with pytest.raises(ValueError, match=r"gates='none': the rules do not fit"):
        running.check(runs)


def test_a_study_goes_on_where_it_was_stopped(tmp_path):
    calls: list = []
    runs = plan.runs_of([BETTER], 3)

    def stopped(run, folder):
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fake(calls)(run, folder)

    with pytest.raises(KeyboardInterrupt):
        running.run_left(runs, KeptRows(tmp_path), tmp_path / "w", stopped, say=lambda _: None)
    assert len(KeptRows(tmp_path).left(runs)) == 2
    running.run_left(runs, KeptRows(tmp_path), tmp_path / "w", fake(calls), say=lambda _: None)
    assert calls == [("frozen", 0), ("branch", 0), ("branch", 1), ("branch", 2)]
    (first, *_), names = sorted(tmp_path.glob("*.json")), {run.name for run in runs}
    kept = json.loads(first.read_text())
    assert {file.stem for file in tmp_path.glob("*.json")} == names
    assert kept["config"]["model.checkpoint"] == "'tiny_clip'" and len(kept["scores"]["pairs"]) == 1


def test_a_row_whose_config_has_changed_runs_again_and_says_so(tmp_path, monkeypatch):
    runs, calls, said = plan.runs_of([BETTER], 1), [], []
    running.run_left(runs, KeptRows(tmp_path), tmp_path / "w", fake(calls), say=said.append)
    before = {file.name for file in tmp_path.glob("*.json")}
    config = plan.configuration.apply_overrides(runs[1].config, {"optimizer.lr": 1e-2})
    changed = [runs[0], plan.Run(runs[1].row, 0, config, plan.digest(config))]
    running.run_left(changed, KeptRows(tmp_path), tmp_path / "w", fake(calls), say=said.append)
    assert calls == [("frozen", 0), ("branch", 0), ("branch", 0)]
    assert any("changed" in s and "optimizer.lr: 0.003, now 0.01" in s for s in said)
    after = {file.name for file in tmp_path.glob("*.json")}
    assert after == (before - {f"{runs[1].name}.json"}) | {f"{changed[1].name}.json"}


def test_the_same_row_of_harder_clips_is_another_row(tmp_path):
    harder = dataclasses.replace(BETTER, name="harder", data="noise=24")
    said: list = []
    for claim in (BETTER, harder):
        runs = plan.runs_of([claim], 1)
        running.run_left(runs, KeptRows(tmp_path), tmp_path / "w", fake([]), say=said.append)
    assert len(list(tmp_path.glob("*.json"))) == 4 and not any("changed" in s for s in said)


def test_a_run_that_diverges_is_kept_as_failed(tmp_path):
    def diverges(run, folder):
        if run.row.name == "branch":
            raise running.NonFiniteError("step 7: loss nan. The trained leaves are elsewhere")
        return fake([])(run, folder)

    kept = KeptRows(tmp_path / "claims")
    running.run_left(plan.runs_of([BETTER], 1), kept, tmp_path / "w", diverges, say=lambda _: None)
    write_page([BETTER], kept, tmp_path, seeds=1)
    page = (tmp_path / "CLAIMS.md").read_text()
    assert "**no verdict: a row failed**" in page and "step 7: loss nan" in page


def test_what_is_no_kept_row_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"name": "a"}')
    with pytest.raises(ValueError, match=r"a\.json is not a kept row"):
        KeptRows(tmp_path)


def run_door(monkeypatch, *arguments, calls=None):
    monkeypatch.setattr(door, "CLAIMS", OURS)
    monkeypatch.setattr(door, "prepare_libraries", lambda: None)
    monkeypatch.setattr(door, "check", lambda runs: None)
    monkeypatch.setattr(running, "measured", fake([] if calls is None else calls))
    return door.main(list(arguments))


def test_the_page_has_every_claim_with_its_verdict(tmp_path, monkeypatch, capsys):
    calls: list = []
    where = (f"--out={tmp_path}", f"--workdir={tmp_path / 'w'}")
    assert run_door(monkeypatch, "--claims=better", *where, calls=calls) == 0
    page = (tmp_path / "CLAIMS.md").read_text()
    head, *_ = page.split("## How a verdict is made")
    better, deeper = (line for line in head.splitlines() if line.startswith("| ["))
    assert (
        "**holds**" in better and "branch 87.5, frozen 50.0 (twins v2t, %, +37.5 +-2.9)" in better
    )
    assert "Of 2 claims: 1 holds, 1 not all run." in head, "they share a row"
    assert "**not all run**" in deeper and "`python -m vlt.study --claims=deeper`" in deeper
    assert len(calls) == 4 and "about" in capsys.readouterr().out
    assert (tmp_path / "pictures/claim-better.png").exists()
    run_door(monkeypatch, *where, calls=calls)
    page = (tmp_path / "CLAIMS.md").read_text()
    assert len(calls) == 7 and "**does not**" in page and "What differs" in page
    assert all((tmp_path / name).exists() for name in re.findall(r"\]\((pictures/\S+)\)", page))


def test_fewer_than_three_seeds_give_no_verdicts(tmp_path, monkeypatch, capsys):
    run_door(monkeypatch, "--seeds=2", f"--out={tmp_path}")
    assert "2 of 3 seeds: no verdicts" in capsys.readouterr().err
    head, *_ = (tmp_path / "CLAIMS.md").read_text().split("## How")
    assert head.count("**no verdict: 2 of 3 seeds**") == 2 and "holds**" not in head


def test_fewer_seeds_than_are_kept_take_no_verdict_back(tmp_path, monkeypatch):
    where = (f"--out={tmp_path}", f"--workdir={tmp_path / 'w'}")
    run_door(monkeypatch, *where)
    page = (tmp_path / "CLAIMS.md").read_text()
    run_door(monkeypatch, "--claims=better", "--seeds=1", *where)
    assert (tmp_path / "CLAIMS.md").read_text() == page


def test_a_seed_that_diverges_leaves_its_claim_without_verdict(tmp_path):
    def diverges(run, folder):
        if (run.row.name, run.seed) == ("branch", 3):
            raise running.NonFiniteError("step 7: loss nan. The trained leaves are elsewhere")
        return fake([])(run, folder)

    kept = KeptRows(tmp_path / "claims")
    running.run_left(plan.runs_of([BETTER], 4), kept, tmp_path / "w", diverges, say=lambda _: None)
    write_page([BETTER], kept, tmp_path, seeds=4)
    assert "**no verdict: a seed failed**" in (tmp_path / "CLAIMS.md").read_text()


def test_a_quick_page_is_marked_and_decides_nothing(tmp_path, monkeypatch):
    slow = dataclasses.replace(DEEPER, quick=False)
    monkeypatch.setitem(OURS, "deeper", slow)
    run_door(monkeypatch, "--quick", f"--out={tmp_path}")
    page = (tmp_path / "CLAIMS.md").read_text()
    assert "**not of a quick study**" in page
    assert "**A quick study" in page and "**no verdict: a quick study**" in page
    assert "**holds**" not in page and "--quick`" in page


def test_an_unknown_claim_is_an_error(monkeypatch):
    with pytest.raises(
        SystemExit, match="unknown claim 'beter'.*better.*choose from better, deeper"
    ):
        run_door(monkeypatch, "--claims=beter")


def test_errors_of_training_are_a_sentence(tmp_path, monkeypatch):
    def failing(*_, **__):
        raise TooManyErrors("train: 3 of 100 videos could not be read")

    monkeypatch.setattr(door, "run_left", failing)
    with pytest.raises(SystemExit, match="^error: train: 3 of 100 videos"):
        run_door(monkeypatch, f"--out={tmp_path}")


def test_the_list_and_the_plan_run_nothing(tmp_path, monkeypatch, capsys):
    calls: list = []
    run_door(monkeypatch, "--list", calls=calls)
    run_door(monkeypatch, "--plan", f"--out={tmp_path}", calls=calls)
    out = capsys.readouterr().out
    assert "A branch helps. (BT-Adapter, Table 6)" in out and "7 runs, 0 of them kept" in out
    assert not calls and not list(tmp_path.iterdir())


def test_choices_of_pairs_are_digits():
    scores = [[[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, 0], [0, 1]], [[0.5, 0.500001], [0, 0]]]
    assert running.choices([{"scores": each} for each in scores]) == "4032"
