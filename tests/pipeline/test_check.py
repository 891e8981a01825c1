"""The check on small worlds in which it is known whether the scores are any good."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dsdm.artifacts import MANIFEST, PER_RUN, load_manifest, write_json
from dsdm.checking.config import CheckConfig, ProbeConfig
from dsdm.checking.measured import Check
from dsdm.datamodel.direction import load_direction, save_direction
from dsdm.experiment import Experiment, load_experiment
from dsdm.stages import run_check
from dsdm.stages.check import CHECK, load_check
from tests.toy import toy_experiment, write_world

PRECISE = {"precision": "float32"}
TRAIN = {"lr": 0.01, "batch_tokens": 512, **PRECISE}
CONFIG = CheckConfig(
    rows=250,
    exact_rows=32,
    tune_examples=30,
    probe=ProbeConfig(groups=4, steps=20, batch_tokens=256, lr_share=1.0),
)

SMALL = CheckConfig(
    rows=200,
    exact_rows=16,
    tune_examples=10,
    probe=ProbeConfig(groups=2, steps=6, batch_tokens=256, lr_share=1.0),
)


def experiment(folder: Path, run: str, **sections: dict[str, Any]) -> Experiment:
    settings: dict[str, dict[str, Any]] = {
        "proxies": {"count": 2, "fraction": 0.5, "epochs": 4.0, "train": TRAIN},
        "directions": {"estimators": ["ekfac"], "ekfac": {"curvature_rows": 128}, **PRECISE},
    }
    for name, section in sections.items():
        settings[name] = settings[name] | section
    return toy_experiment(folder, run=str(folder / run), scores=PRECISE, **settings)


def checked(experiment: Experiment, config: CheckConfig, **settings: Any) -> Check:
    configured = msgspec.structs.replace(experiment, check=config)
    return load_check(run_check(configured, **settings).folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, num_documents=600, num_targets=150)
    return folder


@pytest.fixture(scope="module")
def sane(world: Path) -> Check:
    return checked(experiment(world, "sane"), CONFIG)


def finished_bytes(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in PER_RUN]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def trained_beside(world: Path, run: str) -> Path:
    """A run with the sane one's proxies and no directions."""
    shutil.copytree(world / "sane", world / run)
    for name in ("check", "directions"):
        shutil.rmtree(world / run / name)
    return world / run


def test_a_sane_run_is_trusted(sane: Check) -> None:
    assert sane.verdict.reasons == []
    assert sane.verdict.trust


def test_a_sane_runs_figures_are_what_the_world_says(sane: Check) -> None:
    measured = sane.measured
    assert measured.confounds is not None
    assert measured.confounds.num_sources == 10
    assert measured.confounds.between_sources is not None
    assert measured.confounds.between_sources > 0.4
    halves = measured.between_halves[0].correlation
    assert halves is not None
    assert halves > 0.7
    assert measured.target_slopes["planted"].low > 0
    assert all(value is not None and value > 0.99 for value in measured.scorer)
    assert all(proxy.learned > 0.5 for proxy in measured.proxies)
    assert measured.probe is not None
    assert measured.probe.gain["planted"].mean > 0
    assert {group.kind for group in measured.probe.groups} == {"high", "random", "low"}


def test_groups_are_trained_on_as_many_tokens(sane: Check, world: Path) -> None:
    folders = [path for path in (world / "sane/check/probes").glob("[0-9]*")]
    manifests = [load_manifest(path) for path in folders]
    tokens = [manifest.counts["tokens"] for manifest in manifests if manifest]
    assert len(tokens) == 12
    assert 20 * 256 - 64 < min(tokens) <= max(tokens) <= 20 * 256


def test_a_probe_that_is_lost_is_made_again_to_the_same_bytes(sane: Check, world: Path) -> None:
    folder = world / "sane" / "check"
    before = finished_bytes(folder)
    for name in ("probes/03", "samples/1", "halves", "verdict"):
        shutil.rmtree(folder / name)
    made = []
    again = checked(experiment(world, "sane"), CONFIG, announce=lambda *found: made.append(found))
    assert again == sane == load_check(world / "sane")
    assert ("check", 4, 17) in made
    assert finished_bytes(folder) == before


def test_a_checked_run_is_described_as_the_user_has_it(sane: Check, world: Path) -> None:
    described = load_experiment(world / "sane" / "experiment.yaml")
    assert described == msgspec.structs.replace(experiment(world, "sane"), check=CONFIG)


def forget_digests(artifact: Path) -> None:
    """What is changed on purpose is taken for what was written."""
    manifest = json.loads((artifact / MANIFEST).read_text())
    write_json(artifact / MANIFEST, manifest | {"files": {}})


def test_flipped_directions_are_not_trusted(sane: Check, world: Path) -> None:
    folder = world / "flipped"
    shutil.copytree(world / "sane", folder)
    shutil.rmtree(folder / "check")
    for path in folder.glob("directions/ekfac/*/*.safetensors"):
        save_direction(load_direction(path).scaled(-1.0), path)
        forget_digests(path.parent)
    verdict = checked(experiment(world, "flipped"), SMALL).verdict
    text = " ".join(verdict.reasons)
    assert not verdict.trust
    assert "The sign is flipped." in text
    assert "point the wrong way" in text


def test_a_curvature_without_damping_on_too_few_rows_is_not_trusted(
    sane: Check, world: Path
) -> None:
    trained_beside(world, "undamped")
    undamped = {"ekfac": {"damping": 0.0, "curvature_rows": 12}}
    verdict = checked(experiment(world, "undamped", directions=undamped), SMALL).verdict
    assert not verdict.trust
    assert any("ill-posed: 12 rows for 129 dimensions" in reason for reason in verdict.reasons)


def test_proxies_that_are_barely_trained_are_not_trusted(world: Path) -> None:
    barely = {"count": 1, "epochs": 0.1, "train": TRAIN | {"lr": 0.001}}
    verdict = checked(experiment(world, "barely", proxies=barely), SMALL).verdict
    assert not verdict.trust
    assert any("proxy 0 is barely trained" in reason for reason in verdict.reasons)


def test_other_settings_are_checked_anew(sane: Check, world: Path) -> None:
    shutil.copytree(world / "sane", world / "small")
    found = checked(experiment(world, "small"), SMALL)
    assert found.measured.rows == 200
    assert found.measured.probe is not None
    assert len(found.measured.probe.groups) == 6
    assert (world / "small" / "check" / "verdict" / CHECK).exists()
