"""Writes docs/performance.md from experiments/results/*.json; with --check, fails where it differs.

A section is written where its figures have been measured; the page states no number of its own.
"""

import sys
from collections.abc import Iterable
from typing import Any

from make_results import ROOT, format_number, load_results

PAGE = ROOT / "docs" / "performance.md"
Figures = dict[str, dict[str, Any]]

HEAD = """# Performance

Written by `make docs` from `experiments/results/*.json`; `make bench` and
`make bench-peers` measure most of the figures anew.
Every number is a row of [results.md](results.md), with its interval, machine and commit.
"""
PEERS_TEXT = """
## Scoring beside other libraries

One process a method, which take turns; the same weights, tokens and threads, and gradients in the
blocks' linear layers. *2 forwards* is the method's time over that of two plain forward passes in
that precision, from token ids to logits, without a loss. *Ours* is our rows a second in forward
scoring over the method's at the same precision: above 1, we are faster. *MiB* is the peak of
anonymous memory, *bytes a row* what it stores of a candidate. *Rank* is Spearman's
correlation with exact scores of what the method claims to compute, *slope* with the exact
derivative along the targets' mean gradient. What each method is, and in which settings:
[experiments/peers](../experiments/peers).

| method | precision | 2 fp32 forwards | 2 bf16 forwards | ours | MiB | bytes a row | rank | slope |
|---|---|---:|---:|---:|---:|---:|---:|---:|
"""
BEST_TEXT = """
Against forward scoring of every row in the machine's best precision, each peer at its fastest. The
last column is its best setting against ours and our default, which is to screen pools of 20,000
candidates or more: the pool's rows a second, by the share of a full scoring's time that screening
took (`screening.seconds`). No peer has the like, and what it leaves out of the selection is below.

| peer | best setting | scores | features | TRAK | best, ours screened |
|---|---:|---:|---:|---:|---:|
"""
SCREENING = "screening.seconds"
TRAINING_TEXT = """
## Training and scoring against the machine

The matrix-multiply rate is that of square products in the same turns; FLOPs are counted as in
`dsdm.lm.model.flops_per_token`.

| precision | GFLOP/s of a product | tokens/s in training | training's share | scoring's share |
|---|---:|---:|---:|---:|
"""
SELECTION_TEXT = """
## A whole selection over one training of the target model

FLOPs at measured passes: each stage's time over a plain forward pass is measured on the pilot's
proxy, and multiplied by tokens and counted FLOPs at either size
([bench_selection.py](../experiments/bench_selection.py)). Choosing what to score is not counted.

| | pilot, target of 10 times the proxy | paper's sizes |
|---|---:|---:|
"""
SELECTION_ROWS = {
    "proxies": "num_proxies",
    "tokens of each proxy": "proxy_tokens",
    "tokens of the pool": "pool_tokens",
    "share of it scored": "score_share",
    "tokens of the target training": "training_tokens",
    "cost: training proxies": "proxies",
    "cost: curvature": "curvature",
    "cost: directions": "directions",
    "cost: scoring": "scoring",
}
LABELS = ("fp32", "bf16")


def main(arguments: list[str]) -> int:
    """0 where the page is written, or, with --check, up to date."""
    rows = load_results(ROOT / "experiments" / "results")
    page = make_page({row["name"]: row for row in rows})
    if "--check" not in arguments:
        PAGE.write_text(page, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page:
        return 0
    print("docs/performance.md is not what experiments/results holds: run `make docs`.")
    return 1


def make_page(figures: Figures) -> str:
    """The whole page."""
    sections = (peers_section, training_section, selection_section, other_section)
    return HEAD + "".join(section(figures) for section in sections)


def peers_section(figures: Figures, device: str = "cpu") -> str:
    """Methods in the order of their names, ours first; then the ratios to our default."""
    prefix = f"speed.{device}."
    ends = (".peak_mib", ".failed")
    methods = [n.removeprefix(prefix).rsplit(".", 1)[0] for n in figures if n.endswith(ends)]
    if not methods:
        return ""
    ordered = sorted(set(methods), key=lambda m: (not m.startswith("ours."), m))
    rows = "".join(_method_row(figures, prefix, method) for method in ordered)
    peers = sorted({m.split(".")[0] for m in ordered} - {"ours"})
    best = "".join(_best_row(figures, prefix, peer) for peer in peers)
    text = PEERS_TEXT + rows + (BEST_TEXT + best if best else "")
    names = ("forward_over_two_forwards", "forward_rank_correlation")
    return text + _listed(figures, [prefix + name for name in names])


def training_section(figures: Figures, device: str = "cpu") -> str:
    """Rates and shares in each precision."""
    if f"speed.{device}.training_share_of_matmul" not in figures:
        return ""
    names = (
        "matmul_gflops",
        "training_tokens_per_second",
        "training_share_of_matmul",
        "forward_share_of_matmul",
    )
    rows = [
        _cells([label, *(_number(figures, f"speed.{device}.{name}.{label}") for name in names)])
        for label in LABELS
    ]
    return TRAINING_TEXT + "".join(rows)


def selection_section(figures: Figures) -> str:
    """The worked table."""
    whole = "selection.cost_over_target_training"
    if whole not in figures:
        return ""
    rows = [
        _cells(
            [label, *(_number(figures, f"selection.{c}.{name}") for c in ("pilot", "paper_sizes"))]
        )
        for label, name in SELECTION_ROWS.items()
    ]
    total = [_number(figures, whole), _number(figures, f"{whole}_paper_sizes")]
    rows.append(_cells(["**cost of the whole**", *(f"**{cell}**" for cell in total)]))
    return SELECTION_TEXT + "".join(rows)


def other_section(figures: Figures) -> str:
    """Memory, top k, start-up and screening: every figure of theirs."""
    prefixes = ("memory.", "screening.", "startup.", "topk.", "scoring.peak_memory")
    names = [name for name in figures if name.startswith(prefixes)]
    return "\n## Memory, top k, start-up, screening\n" + _listed(figures, names) if names else ""


def _method_row(figures: Figures, prefix: str, method: str) -> str:
    start = prefix + method
    peer, kind, label = method.split(".")
    if f"{start}.failed" in figures:
        return _cells([f"{peer} {kind}", label, f"failed: {figures[f'{start}.failed']['unit']}"])
    claimed = [n for n in figures if n.startswith(start) and n.endswith("_rank_correlation")]
    slope = f"{start}.slope_rank_correlation"
    own = next((name for name in claimed if name != slope), slope)
    ends = (
        "over_two_fp32_forwards",
        "over_two_bf16_forwards",
        "ratio",
        "peak_mib",
        "bytes_per_row",
    )
    names = [*(f"{start}.{end}" for end in ends), own, slope]
    return _cells([f"{peer} {kind}", label, *(_number(figures, name) for name in names)])


def _best_row(figures: Figures, prefix: str, peer: str) -> str:
    kinds = ("", ".score", ".features", ".trak")
    numbers = [_number(figures, f"{prefix}{peer}{kind}.ratio") for kind in kinds]
    if not any(numbers):
        return ""
    best, share = (figures.get(name) for name in (f"{prefix}{peer}.ratio", SCREENING))
    screened = format_number(best["value"] / share["value"]) if best and share else ""
    return _cells([peer, *numbers, screened])


def _listed(figures: Figures, names: Iterable[str]) -> str:
    found = [figures[name] for name in names if name in figures]
    lines = [f"- `{row['name']}`: {format_number(row['value'])} ({row['unit']})\n" for row in found]
    return "\n" + "".join(lines) if lines else ""


def _number(figures: Figures, name: str) -> str:
    return format_number(figures[name]["value"]) if name in figures else ""


def _cells(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
