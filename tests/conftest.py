"""Tiny models and rows that the numerical tests share."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from dsdm.data import harness_tasks
from dsdm.data.batches import Row
from dsdm.learners.causal_lm import CausalLM
from dsdm.learners.lm_layers import moved_layers
from dsdm.lm.config import ModelConfig
from dsdm.lm.model import load_model
from tests.tiny_runs import dsdm, tiny  # noqa: F401 - fixtures

VOCAB = 23


class ListRows:
    """Rows in memory."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(row.tokens) for row in self.rows])

    def row(self, index: int) -> Row:
        return self.rows[index]


def random_rows(count: int, longest: int = 9, seed: int = 0, answer_start: int = 1) -> ListRows:
    """Rows of 3 to `longest` random tokens."""
    rng = np.random.default_rng(seed)
    return ListRows(
        [
            Row(rng.integers(0, VOCAB, rng.integers(3, longest + 1)), answer_start)
            for _ in range(count)
        ]
    )


GPT2 = {"model_type": "gpt2", "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
PHI = {
    "model_type": "phi",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
MODELS = {
    "gpt2": GPT2,  # Conv1D, biases, tied embeddings
    "gpt2-untied": GPT2 | {"tie_word_embeddings": False},
    "llama": LLAMA,  # nn.Linear without bias
    "phi": PHI,  # an output layer with a bias
    "llama-bias": LLAMA | {"attention_bias": True, "mlp_bias": True},
}


def tiny_model(name: str = "gpt2", seed: int = 0, scale: float = 5.0) -> PreTrainedModel:
    """A float64 model with weights large enough that nothing is near linear by accident."""
    model = load_model(ModelConfig(config=MODELS[name]), vocab_size=VOCAB, eos=0, seed=seed)
    _keep_norms_in_float64(model)
    model = model.double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(noise, alpha=0.02 * scale)
    return model


def learner_of(model: PreTrainedModel, output: str = "margin", **settings: Any) -> CausalLM:
    """The model as a learner, by default in small batches and with contexts left out."""
    return CausalLM(model, output, **({"context_share": 0.0, "batch_tokens": 50} | settings))


def with_unused_layer(model: PreTrainedModel) -> PreTrainedModel:
    """The model with one more linear layer, which no forward pass uses."""
    model.base_model.unused = torch.nn.Linear(8, 8, dtype=model.dtype)
    return model


def moved_names(model: PreTrainedModel) -> list[str]:
    """Every parameter that a direction may move, tables of the vocabulary included."""
    layers = moved_layers(model, embeddings=True)
    return [name for layer in layers for name in layer.parameter_names]


def _keep_norms_in_float64(model: PreTrainedModel) -> None:
    """Llama's own norm computes in fp32 whatever it is given, which no oracle can see through."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, LlamaRMSNorm):
                eps = module.variance_epsilon
                setattr(parent, name, torch.nn.RMSNorm(len(module.weight), eps=eps))


@pytest.fixture(params=sorted(MODELS))
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """Every kind of layer that is supported, in float64."""
    return tiny_model(request.param)


@pytest.fixture(autouse=True)
def no_index_is_kept() -> None:
    """Tasks of one test are unknown to the next."""
    harness_tasks._task_manager.cache_clear()
