"""What estimators are said to multiply is what torch counts that they multiply."""

from collections.abc import Callable

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from dsdm.data.batches import Row
from dsdm.datamodel.estimators import ESTIMATORS, Workload
from dsdm.datamodel.estimators.ekfac import basis_stride
from dsdm.datamodel.estimators.inputs import EstimatorInputs
from dsdm.datamodel.estimators.trak import TrakConfig
from dsdm.learners.lm_layers import linear_layers
from tests.conftest import VOCAB, ListRows, learner_of, tiny_model

ROW_TOKENS, NUM_ROWS = 12, 40


def equal_rows(count: int, seed: int) -> ListRows:
    """Rows of one length, which need no padding."""
    rng = np.random.default_rng(seed)
    return ListRows([Row(rng.integers(0, VOCAB, ROW_TOKENS)) for _ in range(count)])


def inputs_of(model: PreTrainedModel, *, embeddings: bool) -> EstimatorInputs:
    learner = learner_of(model, "loglik", batch_tokens=ROW_TOKENS * NUM_ROWS)
    pool = equal_rows(NUM_ROWS, 0)
    return EstimatorInputs(learner, {"one": equal_rows(4, 1)}, pool, embeddings=embeddings)


def counted(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("embeddings", [False, True])
@pytest.mark.parametrize("method", ["ekfac", "trak", "gradient"])
def test_products_are_counted_as_torch_counts_them(method: str, embeddings: bool) -> None:
    inputs, estimator = inputs_of(tiny_model(), embeddings=embeddings), ESTIMATORS[method]
    settings = TrakConfig(projection=4) if method == "trak" else estimator.settings()
    tokens = ROW_TOKENS * NUM_ROWS

    def passes() -> None:
        inputs.target_gradient("one")
        if method != "gradient":
            list(inputs.sample_factors(inputs.pool))
        if method == "ekfac":
            stride = basis_stride(inputs.layers, tokens)
            list(inputs.sample_factors(inputs.pool, every=stride))

    measured = counted(lambda: estimator.estimate(inputs, settings)) - counted(passes)
    found = estimator.cost(settings, Workload(inputs.layers, NUM_ROWS, tokens)).flops
    # Rotating and projecting the one target is not of the sample.
    assert found == pytest.approx(measured, rel=0.1, abs=10)


def test_only_ekfac_reads_a_part_of_its_sample_twice() -> None:
    layers = linear_layers(tiny_model())
    widest = 33  # the wide side of the MLP, with its bias
    workload = Workload(layers, size=256 * widest * 4)
    passes = {
        name: ESTIMATORS[name].cost(ESTIMATORS[name].settings(), workload).sample_passes
        for name in ("ekfac", "trak", "gradient")
    }
    assert passes == {"ekfac": 1.25, "trak": 1, "gradient": 0}
