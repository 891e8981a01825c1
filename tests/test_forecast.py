"""`dsdm run FILE --dry-run`: what a run will cost."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsdm.experiment import load_experiment
from dsdm.forecast import calibration, forecast, pool_sample
from dsdm.forecast.calibration import measure_speed
from dsdm.forecast.inputs import Cost
from dsdm.forecast.pool_sample import PoolSample, read_pool_sample
from dsdm.stages import run_of
from tests.conftest import VOCAB, tiny_model
from tests.data.pools import texts
from tests.tiny_runs import Dsdm, write_experiment

TEXTS = texts(3000)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "PASS_SECONDS", 0.1)


def rows(out: str) -> dict[str, list[str]]:
    """Cells of the table, by stage."""
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("stage"))
    return {line.split()[0]: re.split(r"  +", line)[1:] for line in lines[start + 1 :] if line}


def test_nothing_is_written(tiny: Path, dsdm: Dsdm) -> None:
    before = sorted(tiny.parent.rglob("*"))
    code, out, _ = dsdm("run", tiny, "--dry-run")
    assert code == 0
    assert sorted(tiny.parent.rglob("*")) == before
    assert {cells[0] for stage, cells in rows(out).items() if stage in ("tokenizer", "scores")} == {
        "to do"
    }
    assert "80 documents" in out
    assert "estimated from" in out


def test_what_is_done_costs_nothing_more(tiny: Path, dsdm: Dsdm) -> None:
    assert dsdm("run", tiny, "--until", "proxies")[0] == 0
    out = dsdm("run", tiny, "--dry-run")[1]
    table = rows(out)
    assert table["proxies"] == table["examples"] == ["done"]
    assert table["scores"][0] == "to do"
    assert "5.38K tokens in 80 documents (209 rows) of 2 files, counted" in out


def test_what_was_made_with_other_settings_is_called_stale(tiny: Path, dsdm: Dsdm) -> None:
    assert dsdm("run", tiny, "--until", "proxies")[0] == 0
    out = dsdm("run", tiny, "--dry-run", "--proxies.epochs", "3")[1]
    assert rows(out)["proxies"][0] == "stale"
    assert "Made with other settings: proxies." in out


def test_tokens_are_counted_as_the_run_will_read_them(tiny: Path) -> None:
    path = write_experiment(
        tiny.parent,
        proxies={"count": 3, "fraction": 0.5, "epochs": 2.0},
        scores={"per_target": False},
        compare={"arms": ["top", "random"], "seeds": 2, "epochs": 4.0},
    )
    table = rows(forecast(load_experiment(path, [])))
    assert table["proxies"][1] == "16.2K"  # 3 x 0.5 x 2 x 5,384
    assert table["scores"][1] == "32.3K"  # two passes for each of three proxies
    assert table["models"][1] == "17.2K"  # 2 arms x 2 seeds x 4 epochs x a fifth of the pool


def test_proxies_of_so_many_tokens_are_counted_by_them(tiny: Path) -> None:
    path = write_experiment(tiny.parent, proxies={"count": 3, "tokens": 1000, "epochs": 2.0})
    assert rows(forecast(load_experiment(path, [])))["proxies"][1] == "6K"


def test_a_screened_pool_is_read_in_part(tiny: Path) -> None:
    screening = {"sample": 0.1, "share": 0.25}
    path = write_experiment(tiny.parent, scores={"screening": screening})
    table = rows(forecast(load_experiment(path, [])))
    assert table["screening"][1] == "1.08K"  # two passes over a tenth of 5,384
    assert table["scores"][1] == "1.62K"  # and over the rest of a quarter


def test_a_comparisons_baselines_budgets_rates_and_replicates_are_counted(tiny: Path) -> None:
    path = write_experiment(
        tiny.parent,
        compare={
            "arms": ["top", "random@2", "low_loss", "semdedup", "bm25"],
            "seeds": 2,
            "epochs": 1.0,
            "new_proxies": True,
            "learning_rates": [1e-2, 1e-3],
            "pool_slice": 1,
        },
    )
    out = forecast(load_experiment(path, []))
    table = rows(out)
    assert table["proxies"][1] == "8.61K"  # 2 seeds x 0.4 x 2 epochs x 5,384
    assert table["baselines"][1] == "21.5K"  # two of them read the pool once for each seed
    assert table["models"][1] == table["tuning"][1] == "12.9K"  # 6 budgets x 2 x a fifth
    assert "anything but the targets is not counted" in out


def test_a_budget_above_the_pool_is_said(tiny: Path) -> None:
    path = write_experiment(tiny.parent, selection={"tokens": 1e6, "fraction": None})
    assert "budget is larger than the pool" in forecast(load_experiment(path, []))


def test_a_model_that_cannot_be_made_is_an_error_beforehand(tiny: Path, dsdm: Dsdm) -> None:
    code, _, err = dsdm("run", tiny, "--dry-run", "--model.config.model_type", "nonsense")
    assert code == 2
    assert "cannot be made" in err


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz"])
def test_a_small_sample_tells_the_size_of_the_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.table({"text": TEXTS}), path)
    else:
        lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
        path.write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    monkeypatch.setattr(pool_sample, "SAMPLE_BYTES", sum(map(len, TEXTS)) // 4)
    found = sample_of(tmp_path, path)
    assert len(found.texts) < 0.35 * len(TEXTS)
    assert found.documents == pytest.approx(len(TEXTS), rel=0.1)
    assert found.text_bytes == pytest.approx(sum(len(t.encode()) for t in TEXTS), rel=0.1)


def sample_of(folder: Path, pool: Path) -> PoolSample:
    experiment = load_experiment(write_experiment(folder, pool={"files": [str(pool)]}), [])
    return read_pool_sample(run_of(experiment))


def test_a_larger_cost_is_the_sum_in_time_and_the_most_in_memory() -> None:
    total = Cost(seconds=1, disk=2, memory=5) + Cost(seconds=3, disk=4, memory=3)
    assert (total.seconds, total.disk, total.memory) == (4, 6, 5)
    assert total.share(0.5) == Cost(seconds=2.0, disk=3.0, memory=5)
    assert total.share(0) == Cost(tokens=0, seconds=0, flops=0, disk=0, memory=0)


def test_speeds_are_of_the_model_that_was_given(tmp_path: Path) -> None:
    model = tiny_model()
    experiment = load_experiment(write_experiment(tmp_path), [])
    speed = measure_speed(model, VOCAB, np.full(9, 12), experiment, 0.0)
    assert min(speed.train, speed.gradient, speed.forward, speed.eigh_seconds) > 0
    assert speed.parameters == sum(p.numel() for p in model.parameters())


def test_steps_of_many_rows_are_followed_back_in_parts(tiny: Path) -> None:
    """Rows decide how long a step is, where they are given, and not the tokens beside them."""

    def flops(**train: int) -> float:
        path = write_experiment(
            tiny.parent,
            proxies={"train": {"micro_batch_tokens": 64, **train}},
            directions={"estimators": ["metagradient"]},
        )
        return float(rows(forecast(load_experiment(path, [])))["directions"][3])

    in_parts = flops(batch_tokens=128)
    assert flops(batch_tokens=32, batch_rows=4) == in_parts
    assert flops(batch_tokens=128, batch_rows=1) < in_parts
