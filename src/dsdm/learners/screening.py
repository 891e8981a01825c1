"""A cheap prediction of the scores, so that most of a pool need not be scored exactly.

A row's score is the mean of its tokens' slopes, and forward scoring gives every one of them. So a
random sample of rows, scored exactly, is hundreds of times as many labelled tokens, from which
tables are learned: what the token itself adds to a slope, then the token before it, then the pair,
then the triple, each from what those before leave over and shrunk by how often it was seen. A row
is predicted by the means of what its tokens have in each table and by what it is about (`topics`),
weighted as fits best on rows that the tables were not made of.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from dsdm.data.sequences import Rows, Subset
from dsdm.errors import DataError
from dsdm.learners.topics import NO_TOPICS, Topics, fit_topics, load_arrays

FILE = "tables.npz"
SHRINKAGE = (1.0, 1.0, 2.0, 4.0)
"""What is added to the times that an entry was seen, for the token, the one before, pairs, triples.
Heavier is worse on the comparison's pool (experiments/LOG.md, 2026-11-28)."""
MOST_SAMPLED = 50_000
"""Candidates: more than tables of pairs and triples gain from."""
FOLDS = 5
FEWEST = 5 * FOLDS
"""Candidates that a sample needs."""
PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(9))
"""Of the weights, for features of unit variance; which is best is found on the sample."""
TOKEN_BITS = 21
ROWS_AT_ONCE = 4096
"""Rows that are predicted together: their tokens are held in full."""


@dataclass(frozen=True)
class Contexts:
    """The counted tokens of some rows, one after the other."""

    row: Int[np.ndarray, " tokens"]
    """Which of the rows each is in."""
    keys: Sequence[Int[np.ndarray, " tokens"]]
    """What each is looked up by in each table."""
    num_rows: int

    def of_rows(self, chosen: np.ndarray) -> "tuple[Contexts, np.ndarray]":
        """Those of some rows, bool, shape (rows,), and which tokens they are."""
        tokens = chosen[self.row]
        number = np.cumsum(chosen) - 1
        keys = [key[tokens] for key in self.keys]
        return Contexts(number[self.row[tokens]], keys, int(chosen.sum())), tokens

    @property
    def words(self) -> tuple[np.ndarray, np.ndarray, int]:
        """The rows and tokens, as `Topics.of` takes them."""
        return self.row, self.keys[0], self.num_rows

    def means(self, values: Float[np.ndarray, "tokens columns"]) -> np.ndarray:
        """Each row's mean; 0 for a row in which nothing counts. Shape (rows, columns)."""
        counts = np.maximum(np.bincount(self.row, minlength=self.num_rows), 1)
        sums = [np.bincount(self.row, column, self.num_rows) for column in values.T]
        return np.stack(sums, 1) / counts[:, None]


def contexts_of(rows: Rows) -> Contexts:
    """The counted tokens of all rows and the two before each."""
    owns, befores, seconds, numbers = [], [], [], []
    for number in range(len(rows.lengths)):
        row = rows.row(number)
        # Shifted by one, so that 0 is where there is no such token.
        tokens = np.concatenate([[0], np.asarray(row.tokens, np.int64) + 1])
        at = np.flatnonzero(row.is_counted[1:]) + 1
        owns.append(tokens[at + 1])
        befores.append(tokens[at])
        seconds.append(tokens[at - 1])
        numbers.append(np.full(len(at), number))
    own, before, second = (np.concatenate(one) for one in (owns, befores, seconds))
    pair = before << TOKEN_BITS | own
    row_of = np.concatenate(numbers)
    return Contexts(row_of, (own, before, pair, second << 2 * TOKEN_BITS | pair), len(rows.lengths))


def token_slopes(
    rows: Rows, slopes: Iterable[tuple[np.ndarray, Float[np.ndarray, "batch seq"]]]
) -> Float[np.ndarray, " tokens"]:
    """The slope of every counted token's output, in the order of `contexts_of`.

    A row's mean is its score.

    Args:
        rows: The rows.
        slopes: The indices of a batch's rows, and the slopes of the predictions in each, padded.
    """
    found: list[np.ndarray] = [np.zeros(0)] * len(rows.lengths)
    for indices, lines in slopes:
        for line, index in zip(lines, indices.tolist(), strict=True):
            counted = rows.row(index).is_counted[1:]
            found[index] = line[: len(counted)][counted]
    return np.concatenate(found)


@dataclass(frozen=True)
class Tables:
    """What was learned of the tokens' slopes, for several directions (columns) at once."""

    keys: Sequence[np.ndarray]
    """Of each table, sorted, int64, shape (entries,)."""
    values: Sequence[np.ndarray]
    """Of each table, what an entry adds to a slope, shape (entries, columns)."""
    weights: Float[np.ndarray, "tables_and_topics_and_one columns"]
    """What each table's mean and each topic count for in a row's score, and a constant."""
    topics: Topics = NO_TOPICS

    def predict(self, rows: Rows) -> Float[np.ndarray, "rows columns"]:
        """The scores of all rows, a few at a time."""
        num_rows = len(rows.lengths)
        predicted = np.zeros((num_rows, self.weights.shape[1]))
        for start in range(0, num_rows, ROWS_AT_ONCE):
            part = np.arange(start, min(start + ROWS_AT_ONCE, num_rows))
            contexts = contexts_of(Subset(rows, part))
            about = self.topics.of(*contexts.words)
            for column, means in enumerate(self.means(contexts).transpose(2, 1, 0)):
                features = np.column_stack([means, about])
                predicted[part, column] = _predicted(features, self.weights[:, column])
        return predicted

    def means(self, contexts: Contexts) -> Float[np.ndarray, "tables rows columns"]:
        """The mean of what each row's tokens have in each table."""
        means = [
            contexts.means(_looked_up(keys, values, wanted))
            for keys, values, wanted in zip(self.keys, self.values, contexts.keys, strict=True)
        ]
        return np.stack(means)

    def save(self, folder: Path) -> None:
        """Writes the tables into a folder."""
        arrays = {f"keys{i}": keys for i, keys in enumerate(self.keys)}
        arrays |= {f"values{i}": values.astype(np.float32) for i, values in enumerate(self.values)}
        arrays |= {name: values.astype(np.float32) for name, values in vars(self.topics).items()}
        np.savez(folder / FILE, weights=self.weights, **arrays)  # type: ignore[arg-type]


def load_tables(folder: Path) -> Tables:
    """The tables that `save` wrote.

    Raises:
        ArtifactError: they are missing or damaged.
    """
    kinds = len(SHRINKAGE)
    tables = [f"{what}{i}" for what in ("keys", "values") for i in range(kinds)]
    arrays = load_arrays(folder / FILE, *tables, "weights", "rarity", "components")
    weights, rarity, components = arrays[2 * kinds :]
    return Tables(arrays[:kinds], arrays[kinds : 2 * kinds], weights, Topics(rarity, components))


def fit_tables(
    contexts: Contexts,
    slopes: Float[np.ndarray, "tokens columns"],
    seed: int,
    groups: Int[np.ndarray, " rows"] | None = None,
) -> tuple[Tables, Float[np.ndarray, "rows columns"]]:
    """Tables of a sample's slopes, and what those of the other rows predict of each of its rows.

    Rows of one group, numbered from 0, are predicted without each other; None: each by itself.

    Raises:
        DataError: there are too few groups to predict some by the others.
    """
    scores = contexts.means(slopes)
    groups = np.arange(contexts.num_rows) if groups is None else groups
    num_groups = int(groups.max(initial=-1)) + 1
    if num_groups < FEWEST:
        raise DataError(
            f"scores.screening: a sample of {num_groups} candidates says nothing of the others; "
            f"{FEWEST} are needed. Give a larger `sample`, or score all (`screening: null`)."
        )
    fold_of = (np.random.default_rng(seed).permutation(num_groups) % FOLDS)[groups]
    topics = fit_topics(*contexts.words, seed)
    about = topics.of(*contexts.words)
    means = np.zeros((len(SHRINKAGE), *scores.shape))
    for fold in range(FOLDS):
        others, tokens = contexts.of_rows(fold_of != fold)
        own, _ = contexts.of_rows(fold_of == fold)
        means[:, fold_of == fold] = _learn(others, slopes[tokens]).means(own)
    predicted, weights = np.zeros(scores.shape), []
    for column, own_means in enumerate(means.transpose(2, 1, 0)):
        features, values = np.column_stack([own_means, about]), scores[:, column]
        for fold in range(FOLDS):
            is_own = fold_of == fold
            fitted = _weights(features[~is_own], values[~is_own])
            predicted[is_own, column] = _predicted(features[is_own], fitted)
        weights.append(_weights(features, values))
    whole = _learn(contexts, slopes)
    return Tables(whole.keys, whole.values, np.stack(weights, 1), topics), predicted


def _weights(
    features: Float[np.ndarray, "rows features"], values: Float[np.ndarray, " rows"]
) -> Float[np.ndarray, " features_and_one"]:
    """What each feature counts for, and a constant, by ridge regression."""
    # scikit-learn takes seconds to load.
    from sklearn.linear_model import RidgeCV

    mean, spread = features.mean(0), np.maximum(features.std(0), 1e-12)
    fitted = RidgeCV(PENALTIES).fit((features - mean) / spread, values)
    weights = fitted.coef_ / spread
    return np.append(weights, fitted.intercept_ - mean @ weights)


def _predicted(features: np.ndarray, weights: np.ndarray) -> Float[np.ndarray, " rows"]:
    return np.asarray(features @ weights[:-1] + weights[-1])


def _learn(contexts: Contexts, slopes: Float[np.ndarray, "tokens columns"]) -> Tables:
    """Each table of what those before it leave over; all count alike."""
    mean = slopes.mean(0)
    left = slopes - mean
    keys, values = [], []
    for key, shrinkage in zip(contexts.keys, SHRINKAGE, strict=True):
        entries, entry_of = np.unique(key, return_inverse=True)
        times = np.bincount(entry_of, minlength=len(entries))
        sums = np.stack([np.bincount(entry_of, column, len(entries)) for column in left.T], 1)
        shrunk = sums / (times + shrinkage)[:, None]
        left = left - shrunk[entry_of]
        keys.append(entries)
        values.append(shrunk)
    weights = np.vstack([np.ones((len(keys), len(mean))), mean])
    return Tables(keys, values, weights)


def _looked_up(
    keys: np.ndarray, values: Float[np.ndarray, "entries columns"], wanted: np.ndarray
) -> Float[np.ndarray, "tokens columns"]:
    """The entries of some keys, 0 where there is none."""
    if not len(keys):
        return np.zeros((len(wanted), values.shape[1]))
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where((keys[at] == wanted)[:, None], values[at], 0.0)
