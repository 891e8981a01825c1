"""A bank of models retrained on a tiny pool, and the scores that it is asked about."""

import runpy
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from dsdm.artifacts import load_cost
from dsdm.config import as_dict, parse_config
from dsdm.data.examples import counted_lengths
from dsdm.errors import ArtifactError, ConfigError
from dsdm.experiment import Experiment, load_experiment, save_experiment
from dsdm.pipeline import Run, Workers, run_experiment
from dsdm.pipeline.bank_scores import (
    Rival,
    alone_work,
    cosine_work,
    proxy_trainings,
    rival_scores,
)
from dsdm.pipeline.bank_stages import (
    bank_folder,
    bank_work,
    finished_models,
    make_bank,
    retrained_work,
)
from dsdm.pipeline.work import Work, perform
from dsdm.trust.bank import Bank, load_bank
from dsdm.trust.lds import lds_board
from dsdm.trust.lds_config import LdsConfig
from tests.data.pools import write_jsonl
from tests.tiny_chat import write_chat_experiment
from tests.tiny_runs import target_records, write_data, write_experiment
from tests.toy import PLANTED, toy_experiment, write_world

ROOT = Path(__file__).parents[2]
TRAIN = {"batch_tokens": 256, "lr": 1e-2, "precision": "float32"}


def config(**fields: object) -> LdsConfig:
    settings = {"halves": 2, "skewed": 1, "seeds": 2, "train": TRAIN}
    return parse_config(settings | fields, LdsConfig, where="test")


def tiny_experiment(folder: Path) -> Experiment:
    """Two targets, two proxies, and scores for each target."""
    write_data(folder)
    write_jsonl(folder / "other.jsonl", target_records(30)[::-1])
    targets = [{"name": n, "file": str(folder / f"{f}.jsonl")} for n, f in TARGET_FILES.items()]
    path = write_experiment(
        folder,
        targets=targets,
        proxies={"count": 2, "epochs": 1.0},
        directions={"estimators": ["gradient"]},
        scores={"per_target": True},
    )
    return load_experiment(path)


TARGET_FILES = {"words": "target", "others": "other"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose scores are finished."""
    return run_experiment(tiny_experiment(tmp_path_factory.mktemp("bank")), until="scores")


@pytest.fixture(scope="module")
def bank(run: Run) -> Bank:
    return make_bank(run, config())


def finished(run: Run) -> dict[str, int]:
    """When each retrained model was finished."""
    manifests = (run.folder / "lds" / "models").glob("*/_manifest.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in manifests}


def test_a_bank_has_the_mean_loss_of_each_subset_and_seed(run: Run, bank: Bank) -> None:
    assert bank.kinds == ("half", "skewed", "half")
    assert {name: values.shape for name, values in bank.losses.items()} == dict.fromkeys(
        TARGET_FILES, (3, 2)
    )
    assert all((values > 0).all() for values in bank.losses.values())
    lost = finished_models(run, config())["half-001-1"].losses
    assert bank.losses["others"][2, 1] == lost["others"]


def test_subsets_have_half_of_the_tokens_and_seeds_share_them(run: Run, bank: Bank) -> None:
    assert np.array_equal(bank.tokens, run.examples.candidate_tokens)
    shares = bank.inclusion @ bank.tokens / bank.tokens.sum()
    assert shares == pytest.approx(0.5, abs=0.03)
    assert shares.max() <= 0.5
    models = run.folder / "lds" / "models"
    first, second = (np.load(models / f"skewed-000-{seed}" / "subset.npy") for seed in (0, 1))
    assert np.array_equal(first, second)
    assert np.array_equal(first, np.flatnonzero(bank.inclusion[1]))


def test_seeds_and_subsets_give_different_losses(bank: Bank) -> None:
    assert len(np.unique(bank.losses["words"])) == 6


def test_the_candidates_texts_are_in_the_bank(run: Run, bank: Bank) -> None:
    table = pq.read_table(bank_folder(run) / "candidates.parquet")
    assert table["candidate"].to_pylist() == list(range(bank.num_candidates))
    assert table["text"][3].as_py() == run.examples.text_of(3, run.tokenizer)
    assert set(table["source"].to_pylist()) == {"a", "b"}


def test_weights_and_checkpoints_are_not_kept(run: Run, bank: Bank) -> None:
    models = run.folder / "lds" / "models"
    assert list(models.rglob("*.safetensors")) == []
    assert list(models.glob(".*")) == []


def test_a_larger_bank_keeps_what_a_smaller_one_made(run: Run, bank: Bank) -> None:
    before = finished(run)
    made: list[tuple[str, int, int]] = []
    larger = make_bank(run, config(skewed=2), announce=lambda *done: made.append(done))
    assert made == [("lds", 2, 8)]
    assert finished(run).items() >= before.items()
    assert np.array_equal(larger.inclusion[:3], bank.inclusion)
    again = make_bank(run, config())
    assert np.array_equal(again.losses["words"], bank.losses["words"])


def test_a_model_that_is_lost_is_trained_again_to_the_same_losses(run: Run, bank: Bank) -> None:
    (lost,) = [work for work in retrained_work(run, config()) if work.path.name == "half-000-1"]
    before = finished_models(run, config())
    (lost.path / "_manifest.json").unlink()
    assert "half-000-1" not in finished_models(run, config())
    assert perform(lost)
    assert finished_models(run, config()) == before


def test_models_that_are_known_are_not_trained(run: Run, bank: Bank, tmp_path: Path) -> None:
    elsewhere = moved(run, tmp_path)
    known = finished_models(run, config())
    again = make_bank(elsewhere, config(), known=known)
    assert np.array_equal(again.inclusion, bank.inclusion)
    assert all(np.array_equal(again.losses[t], losses) for t, losses in bank.losses.items())
    assert finished_models(elsewhere, config()) == known
    costs = [load_cost(work.path)["flops"] for work in retrained_work(elsewhere, config())]
    assert costs == [0] * 6


def test_losses_of_other_candidates_are_refused(run: Run, bank: Bank, tmp_path: Path) -> None:
    known = finished_models(run, config())
    swapped = {"half-000-0": known["half-001-0"]}
    with pytest.raises(ArtifactError, match="trained on other candidates"):
        make_bank(moved(run, tmp_path), config(), known=swapped)


def test_losses_of_another_training_are_refused(run: Run, bank: Bank, tmp_path: Path) -> None:
    known = finished_models(run, config())
    with pytest.raises(ArtifactError, match="or with other settings"):
        make_bank(moved(run, tmp_path), config(epochs=2), known=known)


def test_models_of_other_settings_are_not_among_the_finished(run: Run, bank: Bank) -> None:
    assert finished_models(run, config(epochs=2)) == {}


def moved(run: Run, folder: Path) -> Run:
    """The run without its bank, in another folder."""
    copied = folder / "run"
    shutil.copytree(run.folder, copied, ignore=shutil.ignore_patterns("lds"))
    return Run(msgspec.structs.replace(run.experiment, run=str(copied)))


def test_a_bank_made_with_other_settings_is_stale(run: Run, bank: Bank) -> None:
    states = {work.state()[0] for work in retrained_work(run, config(epochs=2))}
    assert states == {"stale"}
    assert [work.state()[0] for work in bank_work(run, config(seeds=1))] == ["stale"]


def test_an_estimators_scores_are_the_mean_over_its_proxies(run: Run) -> None:
    table = pq.read_table(run.folder / "scores" / "all" / "scores.parquet")
    columns = [table[f"gradient.{i}.words"].to_numpy() for i in range(2)]
    for count in (1, 2):
        found = rival_scores(run, Rival("gradient", count), 80)["words"]
        assert found == pytest.approx(np.mean(columns[:count], axis=0), abs=1e-6)


def made(works: list[Work]) -> list[Work]:
    for work in works:
        perform(work)
    return works


def test_cosines_rank_otherwise_than_dot_products(run: Run) -> None:
    assert len(made(list(cosine_work(run)))) == 2
    # Of one proxy: two proxies' gradients differ in length, so the signs of their means may.
    found = rival_scores(run, Rival("cosine", 1), 80)["others"]
    assert np.abs(found).max() <= 1
    gradient = rival_scores(run, Rival("gradient", 1), 80)["others"]
    assert (np.sign(found) == np.sign(gradient)).mean() > 0.9
    assert not np.array_equal(np.argsort(found), np.argsort(gradient))


def test_a_baseline_is_asked_for_each_target_alone(run: Run) -> None:
    works = made(list(alone_work(run, ["bm25"])))
    assert [work.path.relative_to(run.folder).parts[:3] for work in works] == [
        ("lds", "alone", name) for name in TARGET_FILES
    ]
    assert [set(work.config["weights"]) for work in works] == [{name} for name in TARGET_FILES]
    found = rival_scores(run, Rival("bm25"), 80)
    assert not np.array_equal(found["words"], found["others"])


def test_costs_are_in_trainings_of_one_proxy(run: Run) -> None:
    made([*cosine_work(run), *alone_work(run, ["bm25"])])
    parts = ("proxies/0", "proxies/1", "directions/gradient/0", "directions/gradient/1")
    seconds = {part: load_cost(run.folder / part)["seconds"] for part in parts}
    scoring = [load_cost(path)["seconds"] for path in run.folder.glob("scores/gradient/0*")]
    expected = (sum(seconds.values()) + sum(scoring)) / np.mean(list(seconds.values())[:2])
    assert proxy_trainings(run, Rival("gradient", 2)).seconds == pytest.approx(expected)
    assert proxy_trainings(run, Rival("gradient", 1)).seconds == pytest.approx(expected / 2)
    assert proxy_trainings(run, Rival("gradient", 1)).flops > 1
    assert proxy_trainings(run, Rival("cosine", 2)).flops > 2
    bm25 = proxy_trainings(run, Rival("bm25"))
    assert bm25.flops == 0 < bm25.seconds


def test_scores_of_the_mix_alone_are_refused(run: Run) -> None:
    settings = as_dict(run.experiment) | {"scores": {"per_target": False}}
    experiment = parse_config(settings, Experiment, where="test")
    with pytest.raises(ConfigError, match=r"Set scores\.per_target to true"):
        rival_scores(Run(experiment), Rival("gradient", 1), 80)


def test_scores_of_other_settings_are_not_taken_for_these(run: Run) -> None:
    settings = as_dict(run.experiment)
    settings["scores"] |= {"shrinkage": 0.5}
    experiment = parse_config(settings, Experiment, where="test")
    with pytest.raises(ArtifactError, match="scores/all: is stale"):
        rival_scores(Run(experiment), Rival("gradient", 1), 80)


def test_settings_that_make_no_bank_are_refused() -> None:
    for fields in ({"share": 1.0}, {"halves": 1, "skewed": 0}, {"seeds": 0}, {"skew": 0}):
        with pytest.raises(ConfigError):
            config(**fields)


@pytest.mark.slow
def test_two_processes_make_the_same_bank_as_one(tmp_path: Path, bank: Bank) -> None:
    other = run_experiment(tiny_experiment(tmp_path), until="targets")
    found = make_bank(other, config(), workers=Workers(2))
    assert np.array_equal(found.losses["words"], bank.losses["words"])
    assert np.array_equal(load_bank(bank_folder(other)).inclusion, bank.inclusion)


@pytest.mark.slow
def test_knowing_the_targets_language_predicts_retraining_and_chance_does_not(
    tmp_path: Path,
) -> None:
    write_world(tmp_path, num_documents=300)
    run = run_experiment(toy_experiment(tmp_path), until="targets")
    train = TRAIN | {"batch_tokens": 512}
    bank = make_bank(run, config(halves=0, skewed=16, seeds=1, epochs=4, train=train))
    sources = pq.read_table(bank_folder(run) / "candidates.parquet")["source"].to_pylist()
    knows = np.array([float(source == f"language{PLANTED}") for source in sources])
    board = lds_board(bank, {"knows": {"planted": knows}}, replicates=200)
    assert board.interval("knows", "skewed").mean > 0.7
    assert board.interval("knows", "skewed").low > 0.3


def test_subsets_for_fine_tunes_have_as_many_conversations(tmp_path: Path) -> None:
    path = write_chat_experiment(tmp_path, model={"lora": None})
    run = run_experiment(load_experiment(path), until="targets")
    bank = make_bank(run, config(train=TRAIN | {"batch_tokens": 8192, "batch_rows": 8}))
    assert set(bank.inclusion.sum(axis=1)) == {30}
    counted = counted_lengths(run.folder / "examples" / "00000")
    np.testing.assert_array_equal(bank.tokens, counted)


@pytest.mark.slow
def test_one_command_makes_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_world(tmp_path, num_documents=150)
    experiment = toy_experiment(
        tmp_path,
        proxies={"count": 4, "train": TRAIN},
        directions={"estimators": ["ekfac", "trak", "gradient"], "projection": 4},
        scores={"per_target": True, "precision": "float32"},
    )
    save_experiment(experiment, tmp_path / "toy.yaml")
    bank = config(halves=3, skewed=3, seeds=2)
    (tmp_path / "toy_bank.json").write_bytes(msgspec.json.encode(bank))
    script = runpy.run_path(str(ROOT / "experiments" / "lds" / "lds.py"))
    script["main"]([str(tmp_path / "toy.yaml"), "--no-figures"])
    table = capsys.readouterr().out
    assert (tmp_path / "run" / "lds" / "table.md").read_text(encoding="utf-8") == table
    for name in (*script["rivals_of"](experiment), "random", "noise ceiling"):
        assert table.count(f"\n| {name} | ") == 2
    script["main"]([str(tmp_path / "toy.yaml"), "--no-figures"])
    assert capsys.readouterr().out == table
