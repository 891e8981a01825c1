"""A bank of models retrained on a tiny pool, and the scores that it is asked about."""

from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from lds.bank import BankConfig, bank_config, load_bank, losses_file, read_losses
from lds.lds import main as make_table
from lds.lds import methods_of
from lds.methods import Method, method_scores, proxy_trainings
from lds.retrain import bank_folder, loss_settings, make_bank

from dsdm.config import as_dict, parse_config
from dsdm.data.examples import counted_lengths
from dsdm.errors import ArtifactError, ConfigError
from dsdm.evaluation.lds import lds_table
from dsdm.experiment import Experiment, load_experiment, save_experiment
from dsdm.stages import run_experiment
from dsdm.stages.run import Run, run_of
from tests.data.pools import write_jsonl
from tests.tiny_chat import write_chat_experiment
from tests.tiny_runs import target_records, write_data, write_experiment
from tests.toy import PLANTED, toy_experiment, write_world

TRAIN = {"batch_tokens": 256, "lr": 1e-2, "precision": "float32"}
TARGET_FILES = {"words": "target", "others": "other"}


def config(**fields: object) -> BankConfig:
    settings = {"halves": 2, "skewed": 1, "seeds": 2, "train": TRAIN}
    return parse_config(settings | fields, BankConfig, where="test")


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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose scores are finished."""
    return run_experiment(tiny_experiment(tmp_path_factory.mktemp("bank")), until="scores")


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("losses") / "tiny_losses.jsonl"


@pytest.fixture(scope="module")
def bank(run: Run, losses: Path):
    return make_bank(run, config(), losses)


def known(run: Run, losses: Path):
    return read_losses(losses, loss_settings(run.experiment, config()))


def test_a_bank_has_the_mean_loss_of_each_subset_and_seed(run, bank, losses) -> None:
    assert bank.kinds == ("half", "skewed", "half")
    shapes = {name: values.shape for name, values in bank.losses.items()}
    assert shapes == dict.fromkeys(TARGET_FILES, (3, 2))
    assert all((values > 0).all() for values in bank.losses.values())
    assert bank.losses["others"][2, 1] == known(run, losses)["half-001-1"].losses["others"]
    assert len(np.unique(bank.losses["words"])) == 6


def test_subsets_have_half_of_the_tokens(run, bank) -> None:
    assert np.array_equal(bank.tokens, run.examples.candidate_tokens)
    shares = bank.inclusion @ bank.tokens / bank.tokens.sum()
    assert shares == pytest.approx(0.5, abs=0.03)
    assert shares.max() <= 0.5


def test_a_finished_bank_is_read_as_it_was_made(run, bank) -> None:
    again = load_bank(bank_folder(run))
    assert again.kinds == bank.kinds
    assert np.array_equal(again.inclusion, bank.inclusion)
    assert np.array_equal(again.losses["words"], bank.losses["words"])
    table = pq.read_table(bank_folder(run) / "candidates.parquet")
    assert table["candidate"].to_pylist() == list(range(bank.num_candidates))
    assert table["text"][3].as_py() == run.examples.text_of(3, run.tokenizer)


def test_a_folder_without_a_bank_is_said(tmp_path) -> None:
    with pytest.raises(ArtifactError, match="holds no bank of retrained models"):
        load_bank(tmp_path)


def test_models_that_are_known_are_not_trained_and_others_are_added(run, bank, losses) -> None:
    before, announced = losses.read_text(), []
    larger = make_bank(run, config(skewed=2), losses, announce=lambda *done: announced.append(done))
    assert announced == [(6, 8), (7, 8), (8, 8)]
    assert set(before.splitlines()) < set(losses.read_text().splitlines())
    assert np.array_equal(larger.inclusion[:3], bank.inclusion)
    again = make_bank(run, config(), losses)
    assert np.array_equal(again.losses["words"], bank.losses["words"])


def test_a_model_whose_line_is_lost_is_trained_again_to_the_same_losses(
    run, bank, losses, tmp_path
) -> None:
    other = tmp_path / "losses.jsonl"
    kept = [line for line in losses.read_text().splitlines() if "half-000-1" not in line]
    other.write_text("\n".join(kept) + "\n")
    make_bank(run, config(), other)
    assert known(run, other)["half-000-1"] == known(run, losses)["half-000-1"]


def test_losses_of_other_candidates_are_refused(run, bank, losses, tmp_path) -> None:
    swapped = losses.read_text().replace("half-000-0", "half-x").replace("half-001-0", "half-000-0")
    (tmp_path / "losses.jsonl").write_text(swapped)
    with pytest.raises(ArtifactError, match="trained on other candidates"):
        make_bank(run, config(), tmp_path / "losses.jsonl")


def test_losses_of_another_training_are_refused_field_by_field(run, bank, losses) -> None:
    for changes, said in (
        ({"epochs": 2}, r"epochs: 1\.0 -> 2\.0"),
        ({"train": TRAIN | {"lr": 0.5}}, r"train\.lr: 0\.01 -> 0\.5"),
    ):
        with pytest.raises(ArtifactError, match=said):
            make_bank(run, config(**changes), losses)
    seconds = config(train=TRAIN | {"checkpoint_seconds": 1.0})
    assert make_bank(run, seconds, losses).kinds == bank.kinds


@pytest.mark.parametrize("setup", ["scratch", "finetune"])
def test_the_committed_losses_are_of_the_committed_settings(setup) -> None:
    path = Path(__file__).parents[2] / "experiments" / "lds" / f"{setup}.yaml"
    experiment, bank = load_experiment(path), bank_config(path)
    found = read_losses(losses_file(path), loss_settings(experiment, bank))
    assert len(found) == bank.seeds * (bank.halves + bank.skewed)
    assert all(set(one.losses) == {t.name for t in experiment.targets} for one in found.values())


def test_an_estimators_scores_are_the_mean_over_its_proxies(run) -> None:
    table = pq.read_table(run.folder / "scores" / "all" / "scores.parquet")
    columns = [table[f"gradient.{i}.words"].to_numpy() for i in range(2)]
    for count in (1, 2):
        found = method_scores(run, Method("gradient", count))["words"]
        assert found == pytest.approx(np.mean(columns[:count], axis=0), abs=1e-6)


def test_cosines_rank_otherwise_than_dot_products(run) -> None:
    # Of one proxy: two proxies' gradients differ in length, so the signs of their means may.
    found = method_scores(run, Method("cosine", 1))["others"]
    assert np.abs(found).max() <= 1
    gradient = method_scores(run, Method("gradient", 1))["others"]
    assert (np.sign(found) == np.sign(gradient)).mean() > 0.9
    assert not np.array_equal(np.argsort(found), np.argsort(gradient))
    again = method_scores(run, Method("cosine", 1))["others"]
    assert np.array_equal(found, again)


def test_a_baseline_is_asked_for_each_target_alone(run) -> None:
    found = method_scores(run, Method("bm25"))
    assert not np.array_equal(found["words"], found["others"])
    cost = proxy_trainings(run, Method("bm25"))
    assert cost.flops == 0 < cost.seconds


def test_costs_are_in_trainings_of_one_proxy(run) -> None:
    one, two = (proxy_trainings(run, Method("gradient", count)) for count in (1, 2))
    assert one.seconds == pytest.approx(two.seconds / 2)
    assert one.flops > 1
    assert proxy_trainings(run, Method("cosine", 2)).flops > 2


def test_scores_of_the_mix_alone_are_refused(run) -> None:
    settings = as_dict(run.experiment) | {"scores": {"per_target": False}}
    experiment = parse_config(settings, Experiment, where="test")
    with pytest.raises(ConfigError, match=r"Set scores\.per_target to true"):
        method_scores(run_of(experiment), Method("gradient", 1))


def test_settings_that_make_no_bank_are_refused() -> None:
    for fields in ({"share": 1.0}, {"halves": 1, "skewed": 0}, {"seeds": 0}, {"skew": 0}):
        with pytest.raises(ConfigError):
            config(**fields)


def test_subsets_for_fine_tunes_have_as_many_conversations(tmp_path: Path) -> None:
    path = write_chat_experiment(tmp_path, model={"lora": None})
    run = run_experiment(load_experiment(path), until="targets")
    settings = config(train=TRAIN | {"batch_tokens": 8192, "batch_rows": 8})
    bank = make_bank(run, settings, tmp_path / "losses.jsonl")
    assert set(bank.inclusion.sum(axis=1)) == {30}
    np.testing.assert_array_equal(bank.tokens, counted_lengths(run.examples))


@pytest.mark.slow
def test_two_processes_make_the_same_bank_as_one(run, bank, tmp_path: Path) -> None:
    found = make_bank(run, config(), tmp_path / "losses.jsonl", processes=2)
    assert np.array_equal(found.losses["words"], bank.losses["words"])


@pytest.mark.slow
def test_knowing_the_targets_language_predicts_retraining_and_chance_does_not(
    tmp_path: Path,
) -> None:
    write_world(tmp_path, num_documents=300)
    run = run_experiment(toy_experiment(tmp_path), until="targets")
    settings = config(halves=0, skewed=16, seeds=1, epochs=4, train=TRAIN | {"batch_tokens": 512})
    bank = make_bank(run, settings, tmp_path / "losses.jsonl")
    sources = pq.read_table(bank_folder(run) / "candidates.parquet")["source"].to_pylist()
    knows = np.array([float(source == f"language{PLANTED}") for source in sources])
    table = lds_table(bank.of_kind("skewed"), {"knows": {"planted": knows}}, replicates=200)
    assert table.interval("knows").mean > 0.7
    assert table.interval("knows").low > 0.3


@pytest.mark.slow
def test_one_command_makes_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_world(tmp_path, num_documents=150)
    experiment = toy_experiment(
        tmp_path,
        proxies={"count": 4, "train": TRAIN},
        directions={"estimators": ["ekfac", "trak", "gradient"], "trak": {"projection": 4}},
        scores={"per_target": True, "precision": "float32"},
    )
    save_experiment(experiment, tmp_path / "toy.yaml")
    bank = config(halves=3, skewed=3, seeds=2)
    (tmp_path / "toy_bank.json").write_bytes(msgspec.json.encode(bank))
    make_table([str(tmp_path / "toy.yaml"), "--no-figures"])
    table = capsys.readouterr().out
    assert (tmp_path / "run" / "lds" / "table.md").read_text(encoding="utf-8") == table
    for name in (*methods_of(experiment), "random", "noise ceiling"):
        assert table.count(f"\n| {name} | ") == 2
    make_table([str(tmp_path / "toy.yaml"), "--no-figures"])
    assert capsys.readouterr().out == table
