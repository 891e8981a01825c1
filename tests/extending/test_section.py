"""A section in one file outside of the project, with its template beside it."""

import json
import re

from dsdm.cli import main
from dsdm.reporting.section import SECTIONS
from tests.tiny_runs import write_data, write_experiment


def test_a_section_of_a_plugin_is_in_the_page_and_in_the_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(SECTIONS, "_found", dict(SECTIONS._found))
    write_data(tmp_path)
    path = write_experiment(tmp_path, plugins=["tests.extending.longest_section"])
    assert main(["run", str(path)]) == 0, capsys.readouterr().err
    longest = json.loads((tmp_path / "run" / "figures.json").read_text())["longest"]
    assert len(longest) == 3
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert f"<li>{longest[0]} tokens</li>" in page
    sections = re.findall(r'<section id="(\w+)"', page)
    assert sections[:3] == ["longest", "sources", "scores"]
