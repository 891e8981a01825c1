"""What estimators are said to multiply is what torch counts that they multiply."""

from collections.abc import Callable

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from dsdm.data.batches import Row
from dsdm.datamodel.config import DirectionsConfig
from dsdm.datamodel.curvature_costs import basis_stride, curvature_flops, sample_passes
from dsdm.datamodel.estimators import ESTIMATORS, Problem
from dsdm.datamodel.layers import linear_layers, moved_layers
from tests.conftest import VOCAB, ListRows, tiny_model

ROW_TOKENS, NUM_ROWS = 12, 40


def equal_rows(count: int, seed: int) -> ListRows:
    """Rows of one length, which need no padding."""
    rng = np.random.default_rng(seed)
    return ListRows([Row(rng.integers(0, VOCAB, ROW_TOKENS)) for _ in range(count)])


def problem_of(model: PreTrainedModel, *, embeddings: bool) -> Problem:
    layers = moved_layers(model, embeddings=embeddings)
    return Problem(model, layers, {"one": equal_rows(4, 1)}, equal_rows(NUM_ROWS, 0))


def counted(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("embeddings", [False, True])
@pytest.mark.parametrize("method", ["ekfac", "trak", "gradient"])
def test_products_are_counted_as_torch_counts_them(method: str, embeddings: bool) -> None:
    problem = problem_of(tiny_model(), embeddings=embeddings)
    config = DirectionsConfig(batch_tokens=ROW_TOKENS * NUM_ROWS, projection=4, output="loglik")
    tokens = ROW_TOKENS * NUM_ROWS

    def passes() -> None:
        problem.target_gradient("one", config)
        if method != "gradient":
            list(problem.sample_factors(config, "data"))
        if method == "ekfac":
            stride = basis_stride(problem.layers, tokens)
            list(problem.sample_factors(config, "data", every=stride))

    measured = counted(lambda: ESTIMATORS[method](problem, config)) - counted(passes)
    found = curvature_flops(method, problem.layers, config, tokens=tokens, rows=NUM_ROWS)
    # Rotating and projecting the one target is not of the sample.
    assert found == pytest.approx(measured, rel=0.1, abs=10)


def test_only_ekfac_reads_a_part_of_its_sample_twice() -> None:
    layers = linear_layers(tiny_model())
    widest = 33  # the wide side of the MLP, with its bias
    enough = 256 * widest * 4
    assert sample_passes("ekfac", layers, enough) == 1.25
    assert sample_passes("trak", layers, enough) == 1
    assert sample_passes("gradient", layers, enough) == 0
