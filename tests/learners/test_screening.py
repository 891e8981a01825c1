"""Tables of tokens' slopes against a literal reading of their definition, and forward scores."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from dsdm.data.batches import Row, Rows
from dsdm.datamodel.direction import Direction
from dsdm.datamodel.scoring import forward_slopes, score_forward
from dsdm.errors import ArtifactError
from dsdm.learners.screening import (
    SHRINKAGE,
    Tables,
    contexts_of,
    fit_tables,
    load_tables,
    token_slopes,
)
from tests.conftest import ListRows, learner_of, moved_names, random_rows, tiny_model

ROWS = random_rows(60, longest=12, seed=3)


def labelled(rows: Rows, seed: int = 0) -> np.ndarray:
    """Slopes that tokens and pairs have something to do with, for two directions."""
    rng = np.random.default_rng(seed)
    own, pair = rng.normal(size=(64, 2)), rng.normal(size=(64, 64, 2))
    found = []
    for number in range(len(rows.lengths)):
        row = rows.row(number)
        for at in np.flatnonzero(row.is_counted):
            before, token = int(row.tokens[at - 1]), int(row.tokens[at])
            noise = rng.normal(size=2)
            found.append(own[token] + pair[before, token] + 0.3 * noise)
    return np.array(found)


def literal_scores(sample: ListRows, slopes: np.ndarray, rows: ListRows) -> np.ndarray:
    """What unweighted tables predict of rows, one token at a time."""

    def keys(row: Row, at: int) -> tuple[object, ...]:
        tokens = [int(t) for t in row.tokens]
        second = tokens[at - 2] if at >= 2 else None
        before, own = tokens[at - 1], tokens[at]
        return own, ("b", before), (before, own), (second, before, own)

    left = slopes - slopes.mean(0)
    of_token = [keys(row, int(at)) for row in sample.rows for at in np.flatnonzero(row.is_counted)]
    tables = []
    for kind, shrinkage in enumerate(SHRINKAGE):
        seen: dict[object, list[np.ndarray]] = defaultdict(list)
        for key, value in zip(of_token, left, strict=True):
            seen[key[kind]].append(value)
        table = {key: np.sum(v, axis=0) / (len(v) + shrinkage) for key, v in seen.items()}
        left = left - np.array([table[key[kind]] for key in of_token])
        tables.append(table)
    predicted = []
    for row in rows.rows:
        tokens = [
            sum(table.get(key, np.zeros(2)) for table, key in zip(tables, k, strict=True))
            for k in (keys(row, int(at)) for at in np.flatnonzero(row.is_counted))
        ]
        predicted.append(slopes.mean(0) + (np.mean(tokens, axis=0) if tokens else 0.0))
    return np.array(predicted)


def test_tables_are_what_each_leaves_over_to_the_next() -> None:
    slopes, others = labelled(ROWS), random_rows(20, longest=9, seed=8)
    fitted, _ = fit_tables(contexts_of(ROWS), slopes, seed=0)
    plain = np.vstack([np.ones((4, 2)), slopes.mean(0)])
    found = Tables(fitted.keys, fitted.values, plain).predict(others)
    np.testing.assert_allclose(found, literal_scores(ROWS, slopes, others), rtol=1e-9)


def test_rows_of_the_sample_are_predicted_without_their_own_slopes() -> None:
    slopes, contexts = labelled(ROWS), contexts_of(ROWS)
    _, before = fit_tables(contexts, slopes, seed=0)
    row = 7
    changed = slopes.copy()
    changed[contexts.row == row] += 5.0
    _, after = fit_tables(contexts, changed, seed=0)
    # Its own slopes reach it through the weights of what the others predict alone.
    own = np.abs(after[row] - before[row]).max()
    in_sample = fit_tables(contexts, changed, seed=0)[0].predict(ROWS)[row]
    assert own < 0.3
    assert np.abs(in_sample - before[row]).max() > 2 * own


def test_predictions_rank_unseen_rows() -> None:
    many, unseen = random_rows(600, longest=12, seed=1), random_rows(100, longest=12, seed=2)
    truth = contexts_of(unseen).means(labelled(unseen))
    tables, _ = fit_tables(contexts_of(many), labelled(many), seed=0)
    predicted = tables.predict(unseen)
    for column in (0, 1):
        assert np.corrcoef(truth[:, column], predicted[:, column])[0, 1] > 0.9


def test_what_a_row_is_about_counts_for_all_its_tokens() -> None:
    """The same words slope up in rows that open in one way and down in the others."""
    rng = np.random.default_rng(0)

    def rows_about(openings: np.ndarray) -> ListRows:
        return ListRows(
            [
                Row(np.concatenate([rng.integers(10 * kind, 10 * kind + 10, 6), words]))
                for kind, words in zip(
                    openings, rng.integers(20, 30, (len(openings), 6)), strict=True
                )
            ]
        )

    kinds = rng.integers(0, 2, 400)
    sample, others = rows_about(kinds[:300]), rows_about(kinds[300:])
    contexts = contexts_of(sample)
    is_word = contexts.keys[0] > 20
    slopes = np.where(is_word, 2.0 * kinds[contexts.row] - 1, 0.0)[:, None]
    tables, unseen = fit_tables(contexts, slopes, seed=0)
    assert np.corrcoef(unseen[:, 0], kinds[:300])[0, 1] > 0.9
    assert np.corrcoef(tables.predict(others)[:, 0], kinds[300:])[0, 1] > 0.9
    without = Tables(tables.keys, tables.values, np.array([[1.0], [1.0], [1.0], [1.0], [0.0]]))
    assert np.corrcoef(without.predict(others)[:, 0], kinds[300:])[0, 1] < 0.8


def test_the_mean_of_a_rows_token_slopes_is_its_forward_score() -> None:
    model = tiny_model()
    generator = np.random.default_rng(0)
    parameters = dict(model.named_parameters())
    tensors = {
        name: torch.from_numpy(generator.normal(size=tuple(parameters[name].shape)))
        for name in moved_names(model)
    }
    direction = Direction(tensors, "m", "mix", "p")
    rows = ListRows([*ROWS.rows, *random_rows(9, longest=12, seed=4, answer_start=3).rows])
    learner = learner_of(model, "loglik")
    lines = forward_slopes(learner, direction, rows, 1e-4, learner.token_outputs)
    slopes = token_slopes(rows, lines)
    means = contexts_of(rows).means(slopes[:, None])[:, 0]
    expected = score_forward(learner, direction, rows, 1e-4)
    np.testing.assert_allclose(means, expected, rtol=1e-6, atol=1e-9)


def test_tables_survive_a_file(tmp_path: Path) -> None:
    tables, _ = fit_tables(contexts_of(ROWS), labelled(ROWS), seed=0)
    tables.save(tmp_path)
    np.testing.assert_allclose(
        load_tables(tmp_path).predict(ROWS), tables.predict(ROWS), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ArtifactError, match="can't be read"):
        load_tables(tmp_path / "none")
