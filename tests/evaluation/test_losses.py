from dsdm.evaluation.losses import example_losses, target_losses
from tests.conftest import random_rows, tiny_model


def test_losses_are_by_target_and_example() -> None:
    model, rows = tiny_model(), {"a": random_rows(3), "b": random_rows(2, seed=1)}
    found = target_losses(model, rows, batch_tokens=64)
    for name, examples in rows.items():
        assert found[name].tolist() == example_losses(model, examples, batch_tokens=64).tolist()
