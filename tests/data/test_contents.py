from pathlib import Path

import pytest

from dsdm.data.contents import contents_fingerprint
from dsdm.errors import DataError


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "target.jsonl"
    file.symlink_to("/proc/self/mem")  # reading it from the start is an input/output error
    with pytest.raises(DataError, match=r"target\.jsonl: cannot be read \(Input/output error\)"):
        contents_fingerprint([str(file)])


def test_what_is_no_file_here_counts_for_nothing(tmp_path: Path) -> None:
    nothing = contents_fingerprint([])
    assert contents_fingerprint([None, "s3://bucket/a", "org/model", str(tmp_path)]) == nothing
