"""Regression datamodels: losses of retrained models, regressed on what each was trained on."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

ALPHAS = np.geomspace(1e-3, 1e4, 29)
FOLDS = 5


def group_inclusion(
    inclusion: Bool[np.ndarray, "subsets candidates"],
    groups: Int[np.ndarray, " candidates"],
    tokens: Int[np.ndarray, " candidates"],
) -> Float[np.ndarray, "subsets groups"]:
    """The share of each group's tokens that is in each subset; 0 for a group without tokens.

    Args:
        inclusion: Whether each candidate is in each subset.
        groups: Number of each candidate's group, from 0: its source, its cluster.
        tokens: Tokens in each candidate.
    """
    totals = np.bincount(groups, tokens)
    sums = np.stack([np.bincount(groups, tokens * chosen, len(totals)) for chosen in inclusion])
    return np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0)


def regression_datamodel(
    inclusion: Float[np.ndarray, "subsets groups"],
    losses: Float[np.ndarray, " subsets"],
    penalty: Literal["ridge", "lasso"] = "ridge",
) -> Float[np.ndarray, " groups"]:
    """Utility of each group: how much including the whole of it lowers the target's loss, in nats.

    The datamodel of Ilyas et al. (2022): losses of models trained on random subsets, regressed
    linearly on what was in each. Theirs is for single examples and needs as many models as
    examples; for some tens of groups (sources, clusters) some hundred models do. The strength of
    the penalty is chosen by cross-validation.

    Differs from the paper: the sign, as everywhere here higher = keep; and `ridge` is offered
    beside their `lasso`, as few groups are expected to have no effect.

    Args:
        inclusion: The share of each group that is in each subset (`group_inclusion`).
        losses: The target's mean loss after training on each subset, also over seeds.
        penalty: `ridge` or `lasso`.

    Raises:
        ValueError: there are fewer subsets than the cross-validation has folds.
    """
    if len(losses) < FOLDS:
        raise ValueError(f"a regression datamodel needs {FOLDS} subsets or more, got {len(losses)}")
    from sklearn.linear_model import LassoCV, RidgeCV  # takes seconds to import

    if penalty == "ridge":
        model = RidgeCV(ALPHAS, fit_intercept=False)  # leaves out one subset at a time
    else:
        model = LassoCV(cv=FOLDS, fit_intercept=False, max_iter=100_000)
    spread, scale = inclusion.std(axis=0), float(losses.std())
    varies = spread > 0
    utilities = np.zeros(inclusion.shape[1])
    if scale > 0 and varies.any():
        # At unit spread: what varies little must not be penalised for a large coefficient.
        inputs = (inclusion[:, varies] - inclusion[:, varies].mean(axis=0)) / spread[varies]
        found = model.fit(inputs, (losses - losses.mean()) / scale).coef_
        utilities[varies] = -found * scale / spread[varies]
    return utilities
