"""How far scores agree in their order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from jaxtyping import Float

from dsdm.datamodel.config import MIX


@dataclass(frozen=True)
class Agreement:
    """The mean correlation of pairs of columns that differ in one thing."""

    method: str
    between: Literal["proxies", "targets"]
    over: str
    num_pairs: int
    mean: float


def rank_correlations(
    columns: Sequence[Float[np.ndarray, " candidates"]],
) -> Float[np.ndarray, "columns columns"]:
    """Spearman's correlation of each pair of columns; NaN for a column that is constant."""
    ranked = np.stack([ranks(column) for column in columns])
    centred = ranked - ranked.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1)
    products = centred @ centred.T
    scale = np.outer(norms, norms)
    undefined = np.full_like(products, math.nan)
    return np.asarray(np.divide(products, scale, out=undefined, where=scale > 0))


def mean_agreements(
    names: Sequence[str], correlations: Float[np.ndarray, "columns columns"], over: str
) -> list[Agreement]:
    """Each method's agreement between proxies, on the mix if it is there, and between targets.

    Args:
        names: METHOD.PROXY.TARGET, or another name, which is left out.
        correlations: Of the columns with these names.
        over: What the correlations are over.
    """
    pairs: dict[tuple[str, Literal["proxies", "targets"]], list[float]] = {}
    # Selection goes by the mix: targets that it balances out must not speak for it.
    has_mix = any(name.endswith(f".{MIX}") for name in names)
    for first, second in combinations(range(len(names)), 2):
        found = _difference(names[first], names[second])
        is_beside_mix = has_mix and not names[first].endswith(f".{MIX}")
        if found is not None and not (found[1] == "proxies" and is_beside_mix):
            pairs.setdefault(found, []).append(float(correlations[first, second]))
    return [
        Agreement(method, between, over, len(values), float(np.mean(values)))
        for (method, between), values in sorted(pairs.items())
    ]


def ranks(values: Float[np.ndarray, " candidates"]) -> Float[np.ndarray, " candidates"]:
    """Ranks from 1; equal values share their mean rank."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(sizes) - (sizes - 1) / 2
    return np.asarray(mean_ranks[group])


def _difference(first: str, second: str) -> tuple[str, Literal["proxies", "targets"]] | None:
    """The method of two columns and the one thing in which they differ, if that is all."""
    if first.count(".") < 2 or second.count(".") < 2:
        return None
    method, proxy, target = first.split(".", 2)
    other_method, other_proxy, other_target = second.split(".", 2)
    if method != other_method:
        return None
    if target == other_target and proxy != other_proxy:
        return method, "proxies"
    if proxy == other_proxy and MIX not in (target, other_target):
        return method, "targets"
    return None
