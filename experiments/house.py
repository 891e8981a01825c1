"""Prints how large the code is and how it is cut: reported, none of it a bar.

python experiments/house.py [SOURCE]
"""

import argparse
import ast
import re
from collections import Counter
from pathlib import Path

import numpy as np
from record import ROOT

SMALL = 8
"""Lines of a private function from which on it is not small."""


def main() -> None:
    """Counts lines by kind, lengths of functions, and small private functions called once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, nargs="?", default=ROOT / "src" / "dsdm")
    source: Path = parser.parse_args().source
    modules = sorted(source.rglob("*.py"))
    templates = [p for p in source.rglob("*") if p.suffix in (".j2", ".css", ".js", ".yaml")]
    experiments = sorted((ROOT / "experiments").rglob("*.py"))
    print(f"src          {_lines(modules):7,} lines in {len(modules)} files")
    print(f"  templates  {_lines(templates):7,} lines in {len(templates)} files")
    print(f"experiments  {_lines(experiments):7,} lines in {len(experiments)} files")
    print(f"tests        {_lines(sorted((ROOT / 'tests').rglob('*.py'))):7,} lines")
    for folder in sorted({path.relative_to(source).parts[0] for path in modules}):
        inside = [path for path in modules if path.relative_to(source).parts[0] == folder]
        print(f"  {folder:22} {_lines(inside):6,}")
    functions = [
        (path, node)
        for path in modules
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = np.array([node.end_lineno - node.lineno + 1 for _, node in functions])  # type: ignore[operator]
    median, p90 = np.quantile(lengths, [0.5, 0.9])
    print(f"functions    {len(lengths):7,}, median {median:.0f} lines, p90 {p90:.0f}")
    longest = Counter({path: _lines([path]) for path in modules}).most_common(5)
    print("longest      " + ", ".join(f"{p.relative_to(source)} {n}" for p, n in longest))
    words = Counter(re.findall(r"\b_[a-z]\w*", "".join(p.read_text() for p in modules)))
    private = [node for _, node in functions if re.match(r"_[a-z]", node.name)]
    small = [n for n in private if n.end_lineno - n.lineno < SMALL and words[n.name] == 2]  # type: ignore[operator]
    print(f"private      {len(private):7,}, small and called once {len(small)}")


def _lines(paths: list[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


if __name__ == "__main__":
    main()
