"""Scores that are shrunk towards the means of their groups, from file to selection."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsdm.data.examples import Unit
from dsdm.datamodel.columns import ScoreColumn, score_field
from dsdm.datamodel.config import MIX
from dsdm.datamodel.groups import GroupMoments
from dsdm.experiment import load_experiment
from dsdm.learners import topics
from dsdm.stages import run_of
from dsdm.stages.making.selection import target_scores
from dsdm.stages.scores_table import PROVENANCE, SCORES, Shrinkage, merge_scores
from tests.data.pools import write_jsonl
from tests.tiny_runs import Dsdm, target_records, write_experiment

METHOD_COLUMNS = ("ekfac", "ekfac.0.words", "ekfac.1.words", "ekfac.0.mix", "ekfac.1.mix")


def write_kinds(folder: Path, count: int) -> Path:
    """A pool with two files of each of two kinds of text, and an experiment that groups them."""
    rng = np.random.default_rng(0)
    (folder / "pool").mkdir()
    for name in ("a1", "b1", "a2", "b2"):
        words = [f"{name[0]}{i}" for i in range(20)]
        records = [{"text": " ".join(rng.choice(words, 12))} for _ in range(count)]
        write_jsonl(folder / "pool" / f"{name}.jsonl", records)
    write_jsonl(folder / "target.jsonl", target_records(20))
    return write_experiment(
        folder,
        proxies={"count": 2},
        scores={"per_target": True, "mode": "backward"},
        examples={"unit": "document"},
    )


def merged(run: Path) -> pa.Table:
    return pq.read_table(run / "scores" / "all" / "scores.parquet")


def as_scored(run: Path) -> pa.Table:
    files = sorted((run / "scores" / "ekfac").glob("*/scores.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files])


def groups(run: Path) -> np.ndarray:
    return np.concatenate([np.load(f) for f in sorted(run.glob("topics/0*/group.npy"))])


@pytest.mark.parametrize("unit", ["document", "row"])
def test_merged_scores_are_shrunk_towards_the_means_of_like_texts(
    tmp_path: Path, dsdm: Dsdm, unit: Unit
) -> None:
    experiment, run = write_kinds(tmp_path, 80), tmp_path / "run"
    code, _, err = dsdm("run", experiment, "--examples.unit", unit)
    assert code == 0, err
    group, before, after = groups(run), as_scored(run), merged(run)
    is_a = np.array([source.startswith("a") for source in before["source"].to_pylist()])
    assert len(group) == len(is_a) >= 200
    if unit == "document":
        assert set(group[is_a]).isdisjoint(group[~is_a])
    for name in METHOD_COLUMNS:
        scores, moments = before[name].to_numpy(), GroupMoments(int(group.max()) + 1)
        moments.add(group, scores)
        expected = 0.7 * scores + 0.3 * moments.means()[group]
        np.testing.assert_allclose(after[name].to_numpy(), expected, rtol=1e-5, atol=1e-6)
    others = [name for name in after.column_names if not name.startswith("ekfac")]
    assert after.select(others).equals(before.select(others))


def test_another_shrinkage_scores_nothing_again(tmp_path: Path, dsdm: Dsdm) -> None:
    experiment, run = write_kinds(tmp_path, 60), tmp_path / "run"
    assert dsdm("run", experiment)[0] == 0
    made = {file: file.stat().st_mtime_ns for file in run.rglob("ekfac/*/_manifest.json")}
    code, _, err = dsdm("run", experiment, "--scores.shrinkage", 0)
    assert code == 0, err
    assert made == {file: file.stat().st_mtime_ns for file in run.rglob("ekfac/*/_manifest.json")}
    for name in METHOD_COLUMNS:
        assert merged(run)[name].equals(as_scored(run)[name])


def test_texts_of_one_group_keep_their_scores(tmp_path: Path, dsdm: Dsdm) -> None:
    experiment, run = write_kinds(tmp_path, 40), tmp_path / "run"
    assert dsdm("run", experiment)[0] == 0
    assert not groups(run).any()
    assert merged(run)["ekfac"].equals(as_scored(run)["ekfac"])


@pytest.mark.parametrize("shrinkage", [0.3, 1.0])
def test_the_first_checkpoint_says_the_means_of_groups_and_the_last_what_is_in_them(
    tmp_path: Path, dsdm: Dsdm, shrinkage: float
) -> None:
    experiment, run = write_kinds(tmp_path, 60), tmp_path / "run"
    settings = ("--proxies.checkpoints", 2, "--scores.shrinkage", shrinkage)
    assert dsdm("run", experiment, *settings)[0] == 0
    made = {file: file.stat().st_mtime_ns for file in run.rglob("ekfac/*/_manifest.json")}
    plain = merged(run)
    code, _, err = dsdm("run", experiment, *settings, "--scores.group_means_from", "first")
    assert code == 0, err
    assert made == {file: file.stat().st_mtime_ns for file in run.rglob("ekfac/*/_manifest.json")}
    group, before, after = groups(run), as_scored(run), merged(run)
    # Two proxies, each at two checkpoints.
    first, last = (
        np.mean([before[f"ekfac.{i}.mix"].to_numpy() for i in points], axis=0)
        for points in ((0, 2), (1, 3))
    )
    means = []
    for scores in (first, last):
        moments = GroupMoments(int(group.max()) + 1)
        moments.add(group, scores)
        means.append(moments.means()[group])
    expected = means[0] + (1 - shrinkage) * (last - means[1])
    np.testing.assert_allclose(after["ekfac"].to_numpy(), expected, rtol=1e-4, atol=1e-5)
    others = [name for name in after.column_names if name != "ekfac"]
    assert after.select(others).equals(plain.select(others))
    assert not after["ekfac"].equals(plain["ekfac"])


def test_single_targets_have_group_means_as_the_mix_has(tmp_path: Path, dsdm: Dsdm) -> None:
    path, folder = write_kinds(tmp_path, 60), tmp_path / "run"
    settings = {"proxies.checkpoints": "2", "scores.group_means_from": "first"}
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    code, _, err = dsdm("run", path, *words)
    assert code == 0, err
    run = run_of(load_experiment(path, list(settings.items())))
    mix = target_scores(run, "ekfac", MIX)
    np.testing.assert_allclose(mix.values, merged(folder)["ekfac"].to_numpy(), rtol=1e-5, atol=1e-6)
    group, before = groups(folder), as_scored(folder)
    first, last = (
        np.mean([before[f"ekfac.{i}.words"].to_numpy() for i in points], axis=0)
        for points in ((0, 2), (1, 3))
    )
    scores = target_scores(run, "ekfac", "words").values
    for kind in np.unique(group):
        found = scores[group == kind]
        expected = last[group == kind]
        np.testing.assert_allclose(
            found - found.mean(), 0.9 * (expected - expected.mean()), rtol=1e-4, atol=1e-5
        )
        # Means of groups are shrunk to the pool's a little.
        assert found.mean() == pytest.approx(first[group == kind].mean(), abs=0.05)


def test_of_one_group_the_last_checkpoint_decides(tmp_path: Path, dsdm: Dsdm) -> None:
    experiment, run = write_kinds(tmp_path, 40), tmp_path / "run"
    settings = ("--proxies.checkpoints", 2, "--scores.group_means_from", "first")
    assert dsdm("run", experiment, *settings)[0] == 0
    assert not groups(run).any()
    before, after = as_scored(run), merged(run)["ekfac"].to_numpy()
    last = np.mean([before[f"ekfac.{i}.mix"].to_numpy() for i in (1, 3)], axis=0)
    np.testing.assert_array_equal(np.argsort(after, stable=True), np.argsort(last, stable=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((), "set proxies.checkpoints to 2 or more"),
        (("--proxies.checkpoints", 2, "--scores.shrinkage", 0), "set scores.shrinkage"),
        (("--proxies.checkpoints", 2, "--directions.estimators", "[metagradient]"), "has none"),
    ],
)
def test_group_means_that_there_are_not_are_refused(
    tmp_path: Path, dsdm: Dsdm, settings: tuple[object, ...], message: str
) -> None:
    experiment = write_kinds(tmp_path, 10)
    code, _, err = dsdm("run", experiment, *settings, "--scores.group_means_from", "first")
    assert code == 2
    assert message in err


def test_dropped_candidates_are_shrunk_and_shrink_nobody(tmp_path: Path) -> None:
    slopes, group = np.array([1.0, 3.0, 9.0, -4.0, -2.0]), np.array([0, 0, 0, 1, 1])
    is_counted = np.array([True, True, False, True, True])
    lines: dict[str, object] = {name: ["x"] * 5 for name in PROVENANCE} | {"candidate": range(5)}
    (tmp_path / "part").mkdir()
    table = pa.table(lines)
    table = table.append_column(score_field(ScoreColumn("ekfac"), pa.float64()), pa.array(slopes))
    pq.write_table(table, tmp_path / "part" / SCORES)
    merge_scores(
        [[tmp_path / "part"]], tmp_path / SCORES, Shrinkage({"ekfac": 1.0}, group, is_counted)
    )
    moments = GroupMoments(2)
    moments.add(group[is_counted], slopes[is_counted])
    found = pq.read_table(tmp_path / SCORES)["ekfac"].to_numpy()
    np.testing.assert_allclose(found, moments.means()[group], rtol=1e-6)


def test_a_long_text_is_sorted_by_its_first_tokens(
    tmp_path: Path, dsdm: Dsdm, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, run = write_kinds(tmp_path, 60), tmp_path / "run"
    for path in sorted((tmp_path / "pool").glob("*.jsonl")):
        texts = [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]
        write_jsonl(path, [{"text": f"{text} {'b3 b4 ' * 40}"} for text in texts])
    monkeypatch.setattr(topics, "MOST_TOKENS", 12)
    assert dsdm("run", experiment, "--until", "topics")[0] == 0
    by_file = np.split(groups(run), 4)
    assert set(by_file[0]).isdisjoint(by_file[2])
