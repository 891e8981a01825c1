"""What a text is about, by the tokens in it: latent semantic analysis of a sample's texts.

Screening predicts a row by its topics; scores are shrunk towards the mean of candidates about the
same topics, which k-means puts into groups.
"""

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from dsdm.errors import ArtifactError

MOST_TOPICS = 64
"""Of 16, 32, 64 and 128 it was best on the comparison's pool (LOG.md, 2026-11-29)."""
ROWS_A_TOPIC = 20
"""Rows of the sample that a topic needs."""
MOST_GROUPS = 16
TEXTS_A_GROUP = 100
"""Texts of the sample that a group needs."""
MOST_TEXTS = 20_000
"""Texts that groups are made of."""
MOST_TOKENS = 1024
"""Of a text, its first, that say which group it is in."""
RESTARTS = 4
"""Of k-means, from other centres each; the best is kept."""
GROUPS = "groups.npz"


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
    count = min(MOST_TOPICS, num_rows // ROWS_A_TOPIC, int(np.count_nonzero(has_token)) - 1)
    if count < 1:
        return NO_TOPICS
    analysis = TruncatedSVD(count, random_state=seed % 2**32)
    analysis.fit(_weighted(counts, rarity))
    return Topics(rarity, np.asarray(analysis.components_.T))


@dataclass(frozen=True)
class Groups:
    """Texts of about the same topics, told by the nearest centre."""

    topics: Topics
    centres: Float[np.ndarray, "groups topics"]

    def __len__(self) -> int:
        """How many groups there are, one at least."""
        return max(len(self.centres), 1)

    def of(
        self, row: Int[np.ndarray, " n"], token: Int[np.ndarray, " n"], num_rows: int
    ) -> Int[np.ndarray, " rows"]:
        """The group of each text; arguments as of `Topics.of`."""
        if len(self) == 1:
            return np.zeros(num_rows, np.int16)
        about = _of_norm_one(self.topics.of(row, token, num_rows))
        squares = (self.centres**2).sum(1)
        return np.asarray(np.argmin(squares - 2 * about @ self.centres.T, axis=1), np.int16)

    def save(self, folder: Path) -> None:
        """Writes what tells the groups apart into a folder."""
        np.savez(folder / GROUPS, centres=self.centres, **vars(self.topics))


def load_groups(folder: Path) -> Groups:
    """The groups that `save` wrote.

    Raises:
        ArtifactError: they are missing or damaged.
    """
    rarity, components, centres = load_arrays(folder / GROUPS, "rarity", "components", "centres")
    return Groups(Topics(rarity, components), centres)


def load_arrays(path: Path, *names: str) -> list[np.ndarray]:
    """The named arrays of an `.npz` file.

    Raises:
        ArtifactError: it is missing or damaged, or has no such array.
    """
    try:
        with np.load(path) as arrays:
            return [arrays[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ArtifactError(f"{path}: can't be read ({error}). Delete {path.parent}.") from error


def fit_groups(
    row: Int[np.ndarray, " n"], token: Int[np.ndarray, " n"], num_rows: int, seed: int
) -> Groups:
    """The groups of some texts, as few as there are texts for; arguments as of `Topics.of`."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    count = min(MOST_GROUPS, num_rows // TEXTS_A_GROUP)
    topics = fit_topics(row, token, num_rows, seed) if count > 1 else NO_TOPICS
    if topics is NO_TOPICS:
        return Groups(NO_TOPICS, np.zeros((0, 0)))
    about = _of_norm_one(topics.of(row, token, num_rows))
    with threadpool_limits(1):  # Several threads add up in another order at every run.
        means = KMeans(count, n_init=RESTARTS, random_state=seed % 2**32).fit(about)
    return Groups(topics, np.asarray(means.cluster_centers_))


def _of_norm_one(about: Float[np.ndarray, "rows topics"]) -> Float[np.ndarray, "rows topics"]:
    return np.asarray(about / np.maximum(np.linalg.norm(about, axis=1, keepdims=True), 1e-12))


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
