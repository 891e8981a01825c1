"""Low-rank adapters (LoRA, Hu et al. 2022) through `peft`, injected into a `transformers` model.

The model keeps its class. Its own weights need no gradient, and what needs one is the adapters: two
linear layers A and B beside each layer that is adapted, which adds B(A(x)) alpha / rank to it. So
gradients, directions and scores find in them the only layers that training moves.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from dsdm.errors import ArtifactError, ConfigError, ModelError
from dsdm.lm.config import LoraConfig

ABOUT = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What `peft` puts in front of a weight's name, since its own models are wrapped in two more."""
ALL_LINEAR = "all-linear"
"""What `peft` calls every linear layer but the output layer."""


def add_adapters(model: PreTrainedModel, config: LoraConfig, base: str, seed: int) -> None:
    """Puts fresh adapters into `model`, which was read from `base`; they add nothing yet.

    Raises:
        ConfigError: `peft` is not installed.
        ModelError: the model has no layer of a name in `config.layers`.
    """
    peft = _require_peft()
    torch.manual_seed(seed)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=0.0,  # scores need a model without chance in it
        target_modules=list(config.layers) or ALL_LINEAR,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )
    try:
        peft.inject_adapter_in_model(settings, model)
    except ValueError as error:
        raise ModelError(f"model.lora: {error}") from error


def has_adapters(model: PreTrainedModel) -> bool:
    """Whether `add_adapters` or `load_adapters` put adapters into the model."""
    return bool(getattr(model, "peft_config", None))


def save_adapters(model: PreTrainedModel, folder: Path) -> None:
    """Writes the adapters as `peft.PeftModel.from_pretrained` reads them."""
    peft = _require_peft()
    state = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file(
        {PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in state.items()},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )
    settings = _settings(model)
    about = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    about |= {"inference_mode": True}
    about.pop("runtime_config", None)
    # Not by peft: it writes the layers' names in an order that differs from run to run.
    with (folder / ABOUT).open("w", encoding="utf-8") as file:
        json.dump(about, file, indent=2, sort_keys=True, default=sorted)
        file.write("\n")


def base_of(folder: Path) -> str | None:
    """What the base of the adapters in a folder was read from; None: the folder holds none."""
    if not (folder / ABOUT).is_file():
        return None
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        return str(about["base_model_name_or_path"])
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{folder / ABOUT}: is damaged ({error}). Delete {folder}.") from error


def load_adapters(model: PreTrainedModel, folder: Path) -> None:
    """Puts the adapters that `save_adapters` wrote into their base model.

    Raises:
        ConfigError: `peft` is not installed.
        ArtifactError: they are damaged, or another model's.
    """
    peft = _require_peft()
    try:
        settings = peft.LoraConfig.from_pretrained(str(folder))
        settings.inference_mode = False
        peft.inject_adapter_in_model(settings, model)
        weights = {n.removeprefix(PREFIX): t for n, t in load_file(folder / WEIGHTS).items()}
        found = peft.set_peft_model_state_dict(model, weights)
        unknown = list(getattr(found, "unexpected_keys", ()))
        if unknown:
            raise ValueError(f"the base has no place for {unknown[0]}")
    except Exception as error:  # what peft and safetensors raise has no base
        raise ArtifactError(
            f"{folder}: adapters that can't be loaded ({error}). Delete this folder and run what "
            "makes it again."
        ) from error


def _settings(model: PreTrainedModel) -> Any:
    (settings,) = model.peft_config.values()  # peft leaves it there
    return settings


def _require_peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            f"model.lora: needs peft, which can't be imported ({error}). "
            "Install it with: pip install 'dsdm[finetune]'"
        ) from error
    return peft
