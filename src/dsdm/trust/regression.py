"""Datamodels as they were first defined: a regression of losses on what was trained on."""

from typing import Literal

import numpy as np
from jaxtyping import Float

ALPHAS = np.geomspace(1e-3, 1e4, 29)
FOLDS = 5


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
        inclusion: The share of each group that is in each subset (`subsets.group_inclusion`).
        losses: The target's mean loss after training on each subset, also over seeds.
        penalty: `ridge` or `lasso`.

    Raises:
        ValueError: there are fewer subsets than the cross-validation has folds.
    """
    if len(losses) < FOLDS:
        raise ValueError(f"a regression datamodel needs {FOLDS} subsets or more, got {len(losses)}")
    spread = inclusion.std(axis=0)
    varies = spread > 0
    # A group that varies little must not be penalised for its large coefficient.
    inputs = (inclusion[:, varies] - inclusion[:, varies].mean(axis=0)) / spread[varies]
    scale = float(losses.std())
    weights = np.zeros(inclusion.shape[1])
    if scale > 0 and varies.any():
        found = _coefficients(inputs, (losses - losses.mean()) / scale, penalty)
        weights[varies] = -found * scale / spread[varies]
    return weights


def _coefficients(
    inputs: Float[np.ndarray, "subsets groups"],
    outputs: Float[np.ndarray, " subsets"],
    penalty: Literal["ridge", "lasso"],
) -> Float[np.ndarray, " groups"]:
    """For inputs and outputs of mean 0 and spread 1."""
    from sklearn.linear_model import LassoCV, RidgeCV

    if penalty == "ridge":
        model = RidgeCV(ALPHAS, fit_intercept=False)  # leaves out one subset at a time
    else:
        model = LassoCV(cv=FOLDS, fit_intercept=False, max_iter=100_000)
    return np.asarray(model.fit(inputs, outputs).coef_)
