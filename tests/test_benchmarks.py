"""The benchmarks at toy size, so that they can't rot; no time is asserted."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks import each other by name, and figures name the command that measured them."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    monkeypatch.setattr(sys, "argv", [str(ROOT / "experiments" / "bench_peers.py")])


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def toy_jobs(folder: Path) -> dict[str, Path]:
    job = module("peers.job")
    size = job.Size(
        layers=1,
        width=32,
        vocab=300,
        row_tokens=24,
        candidates=64,
        trak_candidates=6,
        targets=4,
        batch_rows=4,
        projection=512,
        train_rows=32,
    )
    return job.write_jobs(folder, size)


@pytest.fixture
def jobs(tmp_path: Path) -> dict[str, Path]:
    return toy_jobs(tmp_path)


def run(peer: str, method: str, precision: str, folder: Path) -> dict[str, Any]:
    """One run in the peer's environment, skipped where that is not installed."""
    environments, process = module("peers.environments"), module("peers.process")
    python = environments.installed_python(peer)
    if python is None:
        pytest.skip(f"{peer} is not installed under build/peers")
    started = process.MethodProcess(peer, method, precision, folder, python)
    try:
        return started.run()
    finally:
        started.stop()


def agreement(scores: list[float], exact: np.ndarray) -> float:
    return float(np.corrcoef(scores, exact[: len(scores)])[0, 1])


def test_our_methods_score_what_they_claim(jobs: dict[str, Path]) -> None:
    ours, worker, exact = module("peers.ours"), module("peers.worker"), module("peers.exact")
    slope = exact.all_exact(jobs)["slope"]
    job = worker.read_job(jobs["all"], "float32")
    answers = {name: worker.measure(make(job), job) for name, make in ours.METHODS.items()}
    assert all(answer.peak_bytes > 0 for answer in answers.values())
    assert {name for name, answer in answers.items() if answer.scores is None} == {
        "plain",
        "training",
    }
    assert agreement(answers["backward"].scores, slope) > 0.999
    assert agreement(answers["forward"].scores, slope) > 0.98


def test_a_method_in_a_process_of_its_own_becomes_figures(tmp_path: Path) -> None:
    bench, job = module("bench_peers"), module("peers.job")
    size = job.Size(1, 32, 300, 24, 8, 4, 4, 4, 16, train_rows=8)
    entries = [bench.Entry("ours", method, "float32", claim) for method, claim in METHODS]
    rows = {row["name"]: row for row in bench.bench(entries, size, 1, 1)}
    assert rows["speed.cpu.ours.plain.fp32.over_two_fp32_forwards"]["value"] == 0.5
    assert "speed.cpu.ours.forward.fp32.slope_rank_correlation" in rows
    assert rows["speed.cpu.forward_over_two_forwards"]["value"] > 0
    assert "KeyError" in rows["speed.cpu.ours.nothing.fp32.failed"]["unit"]
    page = module("make_performance").make_page(rows)
    assert "| ours forward | fp32 |" in page
    assert "| ours nothing | fp32 | failed: KeyError" in page


METHODS = [("plain", None), ("forward", "slope"), ("nothing", None)]


def test_a_screened_pool_is_set_against_a_peers_best() -> None:
    names = {"speed.cpu.bergson.score.fp32.peak_mib": 1.0, "speed.cpu.bergson.ratio": 1.5}
    rows = {name: {"value": value, "unit": ""} for name, value in names.items()}
    page = module("make_performance")
    assert "| bergson | 1.5 |  |  |  |  |" in page.make_page(rows)
    share = {"name": "screening.seconds", "value": 0.25, "unit": ""}
    assert "| bergson | 1.5 |  |  |  | 6 |" in page.make_page(rows | {"screening.seconds": share})


@pytest.mark.parametrize(
    ("peer", "method", "claim", "least"),
    [
        ("bergson", "score_full", "slope", 0.99),
        ("dattri-llm", "score", "slope", 0.99),
        ("kronfluence", "score", "ekfac", 0.99),
        ("traker", "trak", "trak", 0.5),
        ("dattri", "trak", "trak", 0.5),
    ],
)
def test_a_peer_computes_what_it_claims(
    peer: str, method: str, claim: str, least: float, jobs: dict[str, Path]
) -> None:
    exact = module("peers.exact").all_exact(jobs)[claim]
    answer = run(peer, method, "float32", jobs["trak" if method == "trak" else "all"])
    # Random projections of 512 dimensions agree roughly; the others compute the very thing.
    assert agreement(answer["scores"], exact) > least


def test_training_is_measured_against_matrix_products() -> None:
    rows = module("bench_training").bench(width=32, layers=1, num_rows=2, side=64, repeats=1)
    names = {row["name"] for row in rows}
    assert {"speed.cpu.training_share_of_matmul", "speed.cpu.forward_share_of_matmul"} <= names
    assert all(row["value"] > 0 for row in rows)
    page = module("make_performance").make_page({row["name"]: row for row in rows})
    assert page.count("\n| fp32 |") == 1


def test_the_allocators_benchmark_counts_tokens_and_faults() -> None:
    found = module("bench_allocator").measured(False, vocab=4096, num_rows=1, steps=2)
    assert found["tokens_per_cpu_second"] > 0
    assert found["peak"] > 0
    assert found["faults"] >= 0


def test_a_selections_cost_is_counted_from_measured_passes() -> None:
    bench = module("bench_selection")
    experiment = bench.load_experiment(bench.PILOT)
    found = bench.measure(experiment, num_rows=2, repeats=1)
    passes = bench.Passes(**{name: float(values[0]) for name, values in found.items()})
    assert min(found.values()) > 0
    rows = bench.case_figures("pilot", bench.pilot_case(experiment), passes)
    figures = {row["name"]: row for row in rows}
    parts = sum(figures[f"selection.pilot.{part}"]["value"] for part in bench.PARTS)
    assert figures["selection.cost_over_target_training"]["value"] == pytest.approx(parts)
    assert "**cost of the whole**" in module("make_performance").make_page(figures)


def test_the_papers_selection_costs_what_was_counted_of_it() -> None:
    """Four proxies on 80,000 batches of 1,024 rows, each row's gradient: 4.5 times the training."""
    bench = module("bench_selection")
    experiment = bench.load_experiment(bench.PILOT)
    case = bench.paper_case(4, 80_000 * 1024.0 * 1024.0, 1.0, experiment)
    shares = bench.cost_shares(case, bench.Passes(training=3, gradient=3, curvature=3, scoring=3))
    assert sum(shares.values()) == pytest.approx(4.5, rel=0.1)
