"""Settings of models and training, apart from torch so that the command line starts at once."""

from typing import Annotated, Any, Literal

import msgspec

from dsdm.config import Config, as_dict
from dsdm.precision import Precision

Output = Literal["margin", "loglik"]


class LoraConfig(Config):
    """Low-rank adapters beside a pretrained model's weights, which stay as they are."""

    rank: Annotated[int, msgspec.Meta(ge=1)] = 8
    """Width of each adapter."""
    alpha: Annotated[float, msgspec.Meta(gt=0)] = 16.0
    """What adapters add is scaled by `alpha / rank`."""
    layers: tuple[str, ...] = ()
    """Names of the linear layers that get one, such as q_proj; none: all but the output layer."""


class ModelConfig(Config):
    """The model that is trained: a `transformers` causal language model."""

    path: str | None = None
    """Folder or hub id of a model, or a .gguf file, whose weights are dequantised. Give this or
    `config`."""
    config: dict[str, Any] | None = None
    """Fields of a `transformers` config, `model_type` among them; starts from random weights."""
    pretrained: bool = True
    """Whether a model given by `path` keeps its weights or starts from random ones."""
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of the pretrained weights (needs `peft`); None: don't."""

    def __post_init__(self) -> None:
        """Refuses adapters for a model that has learned nothing."""
        if self.lora is not None and not self.starts_pretrained:
            raise ValueError("`lora` is for a pretrained model: give it by `path`")

    @property
    def starts_pretrained(self) -> bool:
        """Whether training goes on from weights that are given."""
        return self.path is not None and self.pretrained


class TrainConfig(Config):
    """How a model is trained."""

    lr: float = 2e-3
    """Peak learning rate. 2e-3 suits 1-3M parameters; take 6e-4 for 125M."""
    batch_tokens: int = 4096
    """Tokens in one optimizer step."""
    batch_rows: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Rows in one optimizer step, instead: the same number of steps for conversations of any
    length. None: go by tokens."""
    micro_batch_tokens: int = 8192
    """Tokens in one forward and backward pass, padding included; lower it to save memory."""
    warmup_ratio: float = 0.05
    """Share of the steps in which the learning rate rises."""
    min_lr_ratio: float = 0.1
    """Where the cosine ends, as a share of `lr`."""
    weight_decay: float = 0.1
    """AdamW's, on matrices only."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates."""
    max_grad_norm: float = 1.0
    """Largest norm of a step's gradient."""
    precision: Precision = "auto"
    """`bfloat16` runs matrix products in bf16; `auto` does where the hardware multiplies in it."""
    checkpoint_seconds: float = 120.0
    """Least time between two checkpoints, which are made at every 20th step."""


def training_content(config: TrainConfig) -> dict[str, Any]:
    """The settings of a training that decide its result."""
    return {name: value for name, value in as_dict(config).items() if name != "checkpoint_seconds"}
