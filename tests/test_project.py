"""The project's rules, as tests."""

import ast
import functools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "dsdm"
MODULES = sorted(SRC.rglob("*.py"))
TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in MODULES}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

MAX_LINES = 400
IMPORT_NAMES = {
    "jinja2": "jinja2",
    "lm-eval": "lm_eval",
    "mosaicml-streaming": "streaming",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
}
IMPORTED_BY_OTHERS = {
    "accelerate",  # lm-eval's models need it
    "zstandard",  # fsspec opens .zst files through it
}
UNTRACKED = {".git", ".hypothesis", ".venv", "build", "dist", "runs", "__pycache__"}
REGISTRY_HOST = re.compile(
    r"(?:pypi|pythonhosted|npmjs|anaconda|crates|deb\.debian|download\.pytorch)\.(?:org|com|io)"
)


def modules_except(*names: str) -> list[Path]:
    return [file for file in MODULES if str(file.relative_to(SRC)) not in names]


def nodes(file: Path, kind: type[ast.AST]) -> Iterator[ast.AST]:
    return (node for node in ast.walk(TREES[file]) if isinstance(node, kind))


def found(file: Path, pattern: str, kind: type[ast.AST]) -> list[str]:
    """`file:line` of nodes whose source has the pattern at its start."""
    return [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for node in nodes(file, kind)
        if re.match(pattern, ast.unparse(node))
    ]


def test_modules_are_short():
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in MODULES}
    assert [file for file, length in lengths.items() if length > MAX_LINES] == []


def test_modules_are_named_after_what_they_hold():
    vague = re.compile(r"(?:^|_)(?:utils?|common|helpers?|manager|misc)(?:_|$)")
    assert [file for file in MODULES if vague.search(file.stem)] == []


def test_only_the_command_line_prints():
    library = modules_except("cli.py")
    assert [place for file in library for place in found(file, r"print\(", ast.Call)] == []


def test_only_the_command_line_reads_the_environment():
    pattern = r"os\.(?:environ|getenv)\b"
    # memory.py reads none of our settings: it leaves alone what is said there to malloc.
    library = modules_except("cli.py", "lm/memory.py")
    assert [place for file in library for place in found(file, pattern, ast.Attribute)] == []


def test_only_the_command_line_configures_logging():
    pattern = r"logging\.(?:basicConfig|disable)|.*\.(?:setLevel|addHandler)\("
    library = modules_except("cli.py")
    assert [place for file in library for place in found(file, pattern, ast.Call)] == []


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?:torch|joblib|pickle|dill)\.loads?\(",
        r"(?:eval|exec)\(",
        r"yaml\.(?:unsafe_|full_)",
        r".*\ballow_pickle=True",
        r".*\btrust_remote_code=(?!False)",
    ],
)
def test_a_loaded_file_can_run_nothing(pattern: str):
    assert [place for file in MODULES for place in found(file, pattern, ast.Call)] == []


def test_nothing_imports_pickle():
    unsafe = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert {file: imports(file) & unsafe for file in MODULES if imports(file) & unsafe} == {}


def config_fields() -> Iterator[tuple[str, ast.AnnAssign, ast.stmt | None]]:
    """Place, field and the statement after it, for every field of every Config class."""
    for file in MODULES:
        for node in nodes(file, ast.ClassDef):
            if "Config" not in [ast.unparse(base) for base in node.bases]:
                continue
            for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign):
                    yield f"{file.relative_to(ROOT)}:{field.lineno}", field, after


def test_every_setting_has_a_help_text():
    def is_text(after: ast.stmt | None) -> bool:
        return isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)

    def is_section(field: ast.AnnAssign) -> bool:
        return "Config" in ast.unparse(field.annotation)

    without = [p for p, f, after in config_fields() if not is_text(after) and not is_section(f)]
    assert without == []


def test_every_setting_is_read():
    read = {node.attr for file in MODULES for node in nodes(file, ast.Attribute)}
    assert [place for place, field, _ in config_fields() if field.target.id not in read] == []


def declared(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", line).group().lower() for line in requirements}


def dependencies() -> set[str]:
    return declared(PROJECT["project"]["dependencies"])


def development() -> set[str]:
    return declared(PROJECT["project"]["optional-dependencies"]["dev"])


def extras() -> set[str]:
    groups = PROJECT["project"]["optional-dependencies"]
    return declared([line for name, lines in groups.items() if name != "dev" for line in lines])


@functools.cache
def imports(file: Path) -> frozenset[str]:
    """Top-level names of what a module imports."""
    names = {alias.name for node in nodes(file, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes(file, ast.ImportFrom) if node.module}
    return frozenset(name.split(".")[0] for name in names)


def imported() -> set[str]:
    names = {name for file in MODULES for name in imports(file)}
    return names - set(sys.stdlib_module_names) - {"dsdm"}


def import_name(package: str) -> str:
    return IMPORT_NAMES.get(package, package.replace("-", "_"))


def test_every_declared_dependency_is_imported():
    names = dependencies() - IMPORTED_BY_OTHERS
    assert {name for name in names if import_name(name) not in imported()} == set()


def test_every_import_is_declared():
    assert imported() <= {import_name(name) for name in dependencies() | extras()}


def test_every_dependency_is_explained():
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    first_cells = " ".join(re.findall(r"^\| ([^|]+) \| ", text, re.MULTILINE)).lower()
    names = dependencies() | extras() | development()
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", first_cells)] == []


def test_constraints_pin_every_dependency():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.lower().split("==") for line in lines if not line.startswith("#"))
    names = dependencies() | development()
    assert {name for name in names if not {name, name.replace("-", "_")} & set(pins)} == set()
    assert pins["torch"] == "2.13.0"


def test_readme_opens_with_the_two_commands():
    commands = re.findall(r"^(?:make|dsdm) .*", README, re.MULTILINE)
    assert commands[:2] == ["make demo", "make test"]


def test_every_make_command_in_the_readme_is_a_target():
    targets = set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", README)) - {"sure"} <= targets


def test_ci_runs_what_the_readme_names():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = re.findall(r"^make (\w+)", script, re.MULTILINE)
    assert commands == ["check", "test"]
    assert all(f"make {command}" in README for command in commands)


def test_files_that_the_readme_names_exist():
    linked = re.findall(r"\]\((?!http)([^)#]+)", README)
    mapped = re.findall(r"^\| `([^`*]+)` \|", README, re.MULTILINE)
    assert mapped
    assert [name for name in [*linked, *mapped] if not (ROOT / name).exists()] == []


def test_commands_in_the_readme_exist():
    call = "import sys; from dsdm.cli import main; sys.argv = ['dsdm', '--help']; sys.exit(main())"
    shown = subprocess.run(
        [sys.executable, "-c", call], capture_output=True, text=True, check=True
    ).stdout
    code = " ".join(re.findall(r"```\n.*?```|`[^`\n]+`", README, re.DOTALL))
    commands = set(re.findall(r"\bdsdm ([a-z]+)", code))
    assert commands
    assert {name for name in commands if not re.search(rf"\b{name}\b", shown)} == set()


def project_files() -> Iterator[Path]:
    for file in ROOT.rglob("*"):
        parts = file.relative_to(ROOT).parts
        is_cache = any(part in UNTRACKED or part.endswith("_cache") for part in parts)
        if file.is_file() and not is_cache:
            yield file


def test_no_file_names_a_registry_host():
    named = []
    for file in project_files():
        text = file.read_bytes().decode("utf-8", errors="ignore")
        named += [file.relative_to(ROOT)] if REGISTRY_HOST.search(text) else []
    assert named == []


def quickstart_documents() -> list[dict[str, str]]:
    files = sorted((ROOT / "experiments" / "quickstart" / "pool").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def test_the_quickstart_pool_is_what_its_attribution_says():
    documents = quickstart_documents()
    page = (ROOT / "experiments" / "quickstart" / "ATTRIBUTION.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \|", page, re.MULTILINE)
    stated = {name: (int(count), int(size)) for name, count, size in rows}
    texts: dict[str, list[bytes]] = {}
    for document in documents:
        texts.setdefault(document["source"], []).append(document["text"].encode())
    assert stated == {name: (len(of), sum(map(len, of))) for name, of in texts.items()}
    assert f"{len(documents):,} documents" in " ".join(page.split())


def test_the_quickstart_pool_is_clean():
    documents = quickstart_documents()
    assert len({document["id"] for document in documents}) == len(documents)
    assert all(200 <= len(document["text"]) <= 2000 for document in documents)
    assert not any(REGISTRY_HOST.search(document["text"]) for document in documents)


def test_the_quickstart_reports_on_other_examples_than_it_selects_with():
    folder = ROOT / "experiments" / "quickstart" / "targets"
    for task in ("squad", "lambada"):
        selects = set((folder / f"{task}.jsonl").read_text(encoding="utf-8").splitlines())
        reports = set((folder / f"{task}_report.jsonl").read_text(encoding="utf-8").splitlines())
        assert (len(selects), len(reports), len(selects & reports)) == (400, 300, 0)


@pytest.mark.parametrize("name", ["make_results.py", "make_performance.py"])
def test_pages_of_figures_are_what_the_results_hold(name: str):
    script = ROOT / "docs" / name
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_installs_again_only_where_requirements_changed(tmp_path: Path):
    (tmp_path / ".venv").mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path)
    made = ["pyproject.toml", "constraints.txt"]
    made += [f".venv/{name}" for name in ("pyvenv.cfg", ".installed", ".installed-dev")]
    for when, name in enumerate(made):
        write_at(tmp_path / name, when)
    assert is_up_to_date(tmp_path)
    write_at(tmp_path / "constraints.txt", len(made))
    assert not is_up_to_date(tmp_path)


def write_at(file: Path, when: int) -> None:
    """Write a file at a given second: two writes within a clock's tick would have one time."""
    file.touch()
    os.utime(file, times=(when, when))


def is_up_to_date(folder: Path) -> bool:
    make = ["make", "--question", ".venv/.installed-dev"]
    return subprocess.run(make, cwd=folder, capture_output=True, check=False).returncode == 0
