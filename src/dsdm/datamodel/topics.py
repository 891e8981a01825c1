"""What a row is about, by the tokens in it: latent semantic analysis of a sample's rows."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

MOST = 64
"""Topics. Of 16, 32, 64 and 128 it was best on the comparison's pool (LOG.md, 2026-11-29)."""
ROWS_A_TOPIC = 20
"""Rows of the sample that a topic needs."""


@dataclass(frozen=True)
class Topics:
    """Directions in the space of token counts that a sample's rows differ along most."""

    rarity: Float[np.ndarray, " tokens"]
    """Of each token, the log of the share of rows that have it, negated."""
    components: Float[np.ndarray, "tokens topics"]

    def of(
        self, row: Int[np.ndarray, " n"], token: Int[np.ndarray, " n"], num_rows: int
    ) -> Float[np.ndarray, "rows topics"]:
        """How much of each topic is in each row.

        Args:
            row: The row that each token is in, numbered from 0.
            token: The tokens; those that the sample does not have are passed over.
            num_rows: How many rows there are.
        """
        is_known = token < len(self.rarity)
        counts = _counts(row[is_known], token[is_known], num_rows, len(self.rarity))
        return np.asarray(_weighted(counts, self.rarity) @ self.components)


NO_TOPICS = Topics(np.zeros(0), np.zeros((0, 0)))


def fit_topics(
    row: Int[np.ndarray, " n"], token: Int[np.ndarray, " n"], num_rows: int, seed: int
) -> Topics:
    """The topics of some rows, as few as there are rows for; arguments as of `Topics.of`."""
    from sklearn.decomposition import TruncatedSVD

    counts = _counts(row, token, num_rows, int(token.max(initial=-1)) + 1)
    has_token = counts.getnnz(axis=0)
    rarity = np.log((num_rows + 1) / (has_token + 1))
    count = min(MOST, num_rows // ROWS_A_TOPIC, int(np.count_nonzero(has_token)) - 1)
    if count < 1:
        return NO_TOPICS
    analysis = TruncatedSVD(count, random_state=seed % 2**32)
    analysis.fit(_weighted(counts, rarity))
    return Topics(rarity, np.asarray(analysis.components_.T))


def _counts(
    row: np.ndarray, token: np.ndarray, num_rows: int, num_tokens: int
) -> sparse.csr_matrix:
    ones = np.ones(len(row), np.float32)
    counts = sparse.csr_matrix((ones, (row, token)), (num_rows, num_tokens))
    counts.sum_duplicates()
    return counts


def _weighted(counts: sparse.csr_matrix, rarity: np.ndarray) -> sparse.csr_matrix:
    """For each row the rarity of its tokens, by the log of how often each occurs; of norm 1."""
    logs = counts.copy()
    logs.data = 1 + np.log(logs.data)
    weighted = logs @ sparse.diags(rarity)
    norms = np.sqrt(np.asarray(weighted.multiply(weighted).sum(1)).ravel())
    return sparse.diags(1 / np.maximum(norms, 1e-12)) @ weighted
