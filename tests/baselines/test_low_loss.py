"""Loss of candidates against each token's loss by the model's own logits."""

import numpy as np
import pytest
import torch

from dsdm.baselines import pool_batches
from dsdm.baselines.low_loss import low_loss
from dsdm.baselines.registry import NoSettings
from dsdm.data.batches import Row
from dsdm.lm.model import flops_per_token
from tests.baselines.small_inputs import inputs_of
from tests.conftest import ListRows, random_rows, tiny_model

OWNERS = [0, 1, 1, 1, 2, 3, 3, 4]


@pytest.fixture(params=[1, 20, 10_000])
def batch_tokens(request, monkeypatch):
    monkeypatch.setattr(pool_batches, "BATCH_TOKENS", request.param)


def token_losses(model, tokens):
    """-log p of every token but the first, nats."""
    inputs = torch.as_tensor(tokens)[None]
    with torch.no_grad():
        logp = model(input_ids=inputs[:, :-1]).logits.log_softmax(-1)[0]
    return [-float(logp[t, token]) for t, token in enumerate(tokens[1:].tolist())]


def literal_values(models, rows, owners):
    values = []
    for candidate in range(max(owners) + 1):
        own = [row for row, owner in zip(rows.rows, owners, strict=True) if owner == candidate]
        means = [
            np.mean([loss for row in own for loss in token_losses(m, row.tokens)]) for m in models
        ]
        values.append(-np.mean(means))
    return values


@pytest.mark.usefixtures("batch_tokens")
def test_scores_are_minus_the_mean_loss_of_a_token():
    models = [tiny_model("gpt2", seed=1), tiny_model("llama", seed=2)]
    rows = random_rows(len(OWNERS))
    seen: list[int] = []
    flops: list[float] = []
    inputs = inputs_of(
        rows=rows,
        candidate_of_row=OWNERS,
        models=models,
        advance=seen.append,
        count_flops=flops.append,
    )
    found = low_loss(inputs, NoSettings())
    np.testing.assert_allclose(found.values, literal_values(models, rows, OWNERS), rtol=1e-9)
    assert (found.method, found.fingerprint) == ("low-loss", "abcd")
    assert sum(seen) == 2 * 5
    tokens, longest = rows.lengths.sum(), int(rows.lengths.max())
    assert sum(flops) > 0.5 * sum(tokens * flops_per_token(m, longest) for m in models)


def test_a_candidate_of_one_token_is_not_taken_for_the_easiest():
    rows = ListRows([*random_rows(6).rows, Row(np.array([3]))])
    values = low_loss(inputs_of(rows=rows, models=[tiny_model()]), NoSettings()).values
    assert values[-1] == values.min() < 0


def test_what_the_model_repeats_comes_first():
    """The row that the model itself writes, likeliest token after likeliest, has the least loss."""
    model, tokens = tiny_model(scale=20.0), [3]
    for _ in range(8):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokens])).logits
        tokens.append(int(logits[0, -1].argmax()))
    rows = ListRows([*random_rows(20).rows, Row(np.array(tokens))])
    assert low_loss(inputs_of(rows=rows, models=[model]), NoSettings()).values.argmax() == 20
