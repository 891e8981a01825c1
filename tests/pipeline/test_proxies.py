"""How much of the pool a proxy is trained on."""

import msgspec
import numpy as np
import pytest

from dsdm.experiment import load_experiment
from dsdm.graph import Graph
from dsdm.stages import STAGES, Run, run_experiment, run_of
from dsdm.stages.making.models import proxy_rows
from tests.tiny_runs import write_data, write_experiment


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a packed pool."""
    folder = tmp_path_factory.mktemp("packed")
    write_data(folder)
    return run_experiment(load_experiment(write_experiment(folder)), until="overlap")


def trained_on(run: Run, **proxies: object) -> Run:
    changed = msgspec.structs.replace(run.experiment.proxies, **proxies)
    return run_of(msgspec.structs.replace(run.experiment, proxies=changed))


def test_a_proxys_share_can_be_said_in_tokens(run: Run) -> None:
    whole = run.examples.num_tokens
    rows = proxy_rows(trained_on(run, tokens=round(0.3 * whole), epochs=1.0), 0).subset
    read = run.examples.lengths_of(rows).sum()
    longest = run.examples.lengths.max()
    assert abs(read - 0.3 * whole) <= 2 * longest
    of_share = proxy_rows(trained_on(run, fraction=0.3, epochs=1.0), 0).subset
    assert np.array_equal(rows, of_share)


def test_a_pool_of_fewer_tokens_is_read_whole(run: Run) -> None:
    rows = proxy_rows(trained_on(run, tokens=10**9), 0).subset
    assert np.array_equal(rows, np.arange(run.examples.num_rows))


def test_proxies_whose_tokens_stand_do_not_depend_on_the_share(run: Run) -> None:
    prints = [
        Graph(trained_on(run, tokens=500, fraction=share), STAGES)["proxies"][0].fingerprint
        for share in (0.2, 0.9)
    ]
    assert prints[0] == prints[1]
    other = Graph(trained_on(run, tokens=501), STAGES)["proxies"][0]
    assert other.fingerprint != prints[0]
