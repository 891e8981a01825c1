"""A whole comparison on a tiny pool: what each arm is trained on, and what is measured."""

import json
import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from dsdm.artifacts import Draft, load_manifest
from dsdm.errors import NumericalError
from dsdm.evaluation.arms import parse_arm
from dsdm.experiment import load_experiment
from dsdm.lm.config import TrainConfig
from dsdm.reporting.summary import summary_lines
from dsdm.reporting.view import RunView
from dsdm.selection import select
from dsdm.stages import Run, redo, run_experiment, run_of, run_status
from dsdm.stages.compare import tuned_rate
from dsdm.stages.making import compare
from dsdm.stages.making.compare import arm_scores, held_out, training_order
from tests.data.pools import write_jsonl
from tests.tiny_runs import target_records, write_data, write_experiment

ARMS = (
    *("top", "bottom", "random", "random@0.5", "repeated", "source-matched", "best-source"),
    *("bm25", "low_loss", "dsir-bottom", "ekfac:other", "top-1epochs"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("compared")
    write_data(folder)
    write_jsonl(folder / "other.jsonl", target_records(40)[20:])
    heldout = {"name": "far", "file": str(folder / "other.jsonl")}
    path = write_experiment(
        folder,
        targets=[
            {"name": name, "file": str(folder / f"{file}.jsonl")}
            for name, file in (("words", "target"), ("other", "other"))
        ],
        scores={"per_target": True},
        compare={
            "arms": ARMS,
            "epochs": 2,
            "seeds": 2,
            "new_proxies": True,
            "parts": ["tune", "report"],
            "heldout": [heldout],
            "pool_slice": 6,
            "train": {},
            "learning_rates": [1e-2, 1e-6],
        },
    )
    return run_experiment(load_experiment(path))


def order_of(run: Run, name: str) -> np.ndarray:
    (arm,) = (arm for arm in run.experiment.compared_arms if arm.name == name)
    return training_order(run, arm, 1)


def candidates_of(run: Run, name: str) -> set[int]:
    return set(run.examples.candidate_of_row[order_of(run, name)].tolist())


def test_everything_is_done_once(run: Run) -> None:
    assert {status.state for status in run_status(run.experiment)} == {"done"}


def test_every_arm_has_its_share_of_the_same_training_tokens(run: Run) -> None:
    lengths = run.examples.lengths
    wanted = 2 * int(0.2 * run.examples.num_tokens)
    for name in ARMS:
        budget = wanted // 2 if name == "random@0.5" else wanted
        assert budget - lengths.max() < lengths[order_of(run, name)].sum() <= budget, name


def test_no_arm_is_trained_on_the_slice_of_the_pool_that_is_measured(run: Run) -> None:
    assert len(held_out(run)) == 6
    for name in ARMS:
        assert not candidates_of(run, name) & set(held_out(run).tolist())


def test_fewer_epochs_take_more_of_the_same_ranking(run: Run) -> None:
    top, wider = candidates_of(run, "top"), candidates_of(run, "top-1epochs")
    assert len(wider) > 1.5 * len(top)
    ranked = np.argsort(-arm_scores(run, run.experiment.compared_arms[0]).values)
    assert set(ranked[:5].tolist()) - set(held_out(run).tolist()) <= top & wider


def test_source_matched_rows_are_others_of_the_same_sources(run: Run) -> None:
    scores = arm_scores(run, run.experiment.compared_arms[0])

    def shares(name: str) -> np.ndarray:
        chosen = sorted(candidates_of(run, name))
        return np.bincount(scores.sources[chosen], scores.num_tokens[chosen], 2)

    top, matched = candidates_of(run, "top"), candidates_of(run, "source-matched")
    assert len(top - matched) > len(top) / 3
    assert np.abs(shares("top") - shares("source-matched")).max() <= scores.num_tokens.max()
    # Only the tail that the best source's tokens don't fill may be of another.
    assert shares("best-source").min() <= scores.num_tokens.max()


@pytest.mark.parametrize("rule", [{"temperature": 1.0}, {"random_share": 0.3}])
def test_a_source_matched_arm_matches_a_selection_by_any_rule(
    run: Run, rule: dict[str, float]
) -> None:
    selection = msgspec.structs.replace(run.experiment.selection, **rule)
    ruled = run_of(msgspec.structs.replace(run.experiment, selection=selection))
    scores = arm_scores(run, run.experiment.compared_arms[0])

    def shares(name: str) -> np.ndarray:
        chosen = sorted(candidates_of(ruled, name))
        return np.bincount(scores.sources[chosen], scores.num_tokens[chosen], 2)

    # What is left of a budget is smaller than a candidate, in either arm.
    assert np.abs(shares("top") - shares("source-matched")).max() <= 2 * scores.num_tokens.max()


def test_random_has_its_tokens_where_the_pool_is_smaller(run: Run) -> None:
    lengths, wanted = run.examples.lengths, run.examples.num_tokens * 5 // 2
    fraction = msgspec.structs.replace(run.experiment.selection, fraction=1.0)
    compare = msgspec.structs.replace(run.compare, epochs=2.5)
    larger = run_of(msgspec.structs.replace(run.experiment, selection=fraction, compare=compare))
    for seed in range(10):
        order = training_order(larger, parse_arm("random", "ekfac", ("ekfac",)), seed)
        assert wanted - lengths.max() < lengths[order].sum() <= wanted


def test_an_arm_for_one_target_ranks_by_its_scores_alone(run: Run) -> None:
    (arm,) = (arm for arm in run.experiment.compared_arms if arm.name == "ekfac:other")
    (mix,) = (arm for arm in run.experiment.compared_arms if arm.name == "top")
    assert arm_scores(run, arm).target == "other"
    assert not np.array_equal(arm_scores(run, arm).values, arm_scores(run, mix).values)


def test_a_seed_that_renews_has_proxies_and_rankings_of_its_own(run: Run) -> None:
    first, second = run.replicates
    assert second.folder == run.folder / "replicates" / "1"
    assert second.examples.num_rows == first.examples.num_rows
    subsets = [np.load(r.folder / "proxies" / "0" / "subset.npy") for r in run.replicates]
    assert not np.array_equal(*subsets)
    top = run.experiment.compared_arms[0]
    rankings = [select(arm_scores(r, top), run.experiment.selection) for r in run.replicates]
    assert not np.array_equal(*rankings)


def test_a_models_folder_says_which_rows_it_was_trained_on(run: Run) -> None:
    for name in ARMS:
        folder = run.folder / "models" / f"{name}-0"
        rows = np.load(folder / "rows.npy")
        assert np.array_equal(rows, np.unique(rows))
        assert len(rows) == load_manifest(folder).counts["distinct_rows"] > 0


def test_the_rate_of_an_arm_is_the_best_on_the_tune_part(run: Run) -> None:
    for arm in run.experiment.compared_arms:
        losses = {
            rate: sum(
                json.loads(
                    (run.folder / "tuning" / f"{arm.name}-{rate:g}" / "losses.json").read_text()
                ).values()
            )
            for rate in (1e-2, 1e-6)
        }
        assert tuned_rate(run, arm) == min(losses, key=losses.__getitem__) == 1e-2
        manifest = load_manifest(run.folder / "models" / f"{arm.name}-1")
        assert manifest is not None
        assert manifest.config["train"]["lr"] == 1e-2
    assert not list((run.folder / "tuning").rglob("*.safetensors"))


def test_a_rate_is_chosen_by_what_is_selected_for_and_not_where_training_diverged(
    run: Run, tmp_path: Path
) -> None:
    shutil.copytree(run.folder / "tuning", tmp_path / "tuning")
    other = msgspec.structs.replace(run.experiment.targets[1], weight=0.0)
    targets = (run.experiment.targets[0], other)
    copied = run_of(msgspec.structs.replace(run.experiment, targets=targets, run=str(tmp_path)))
    arm = run.experiment.compared_arms[0]

    def write(rate: float, **losses: float) -> None:
        (tmp_path / "tuning" / f"{arm.name}-{rate:g}" / "losses.json").write_text(
            json.dumps(losses)
        )

    write(1e-2, words=2.0, other=9.0)
    write(1e-6, words=3.0, other=1.0)
    assert tuned_rate(copied, arm) == 1e-2
    write(1e-2)
    assert tuned_rate(copied, arm) == 1e-6


def test_a_training_that_diverges_while_rates_are_tried_is_no_error(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*arguments: object) -> None:
        raise NumericalError("the loss is nan")

    monkeypatch.setattr(compare, "train_arm", diverge)
    compare.tune(run, Draft(tmp_path), run.experiment.compared_arms[0], 0, TrainConfig())
    assert json.loads((tmp_path / "losses.json").read_text()) == {}


def test_each_model_is_measured_on_targets_other_tasks_and_the_pool(run: Run) -> None:
    for name in ARMS:
        folder = run.folder / "evaluations"
        for kind, tasks in (("tune", 2), ("report", 2), ("heldout", 1)):
            assert len(list((folder / kind / f"{name}-1").glob("*.npy"))) == tasks
        assert len(np.load(folder / "heldout" / f"{name}-0" / "far.npy")) == 20
        bits = json.loads((folder / "pool" / f"{name}-0" / "results.json").read_text())
        assert 1 < bits["bits_per_byte"] < 20


def test_redoing_a_stage_redoes_it_for_every_seed(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    experiment = msgspec.structs.replace(run.experiment, run=str(copy))
    redo(experiment, "directions")
    assert not list(copy.glob("**/directions/*/*"))
    assert list(copy.glob("models/random-*"))


def test_the_terminal_shows_losses_other_tasks_and_multipliers(run: Run) -> None:
    text = "\n".join(summary_lines(RunView(run.folder, run.experiment)))
    for title in (
        "Loss on the targets' tune part",
        "Loss on the targets' report part",
        "Loss on tasks that nothing was selected for",
        "Compute that random needs for the same loss",
    ):
        assert title in text
    assert re.search(r"^words +dsir-bottom +(>= |<= )?\d", text, re.MULTILINE)
