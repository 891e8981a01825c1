"""The example in the README does what it says."""

import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_example_of_the_python_api_runs(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    tiny.rename(tiny.with_name("my.yaml"))
    monkeypatch.chdir(tiny.parent)
    names: dict[str, object] = {}
    exec(example, names)
    kept = names["kept"]
    assert isinstance(kept, np.ndarray)
    assert 0 < len(kept) < len(names["scores"].values)  # type: ignore[attr-defined]
