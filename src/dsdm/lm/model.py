"""Causal language models from a config, a folder or a hub id."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from dsdm.data.batches import Batch
from dsdm.data.tokenizer import GGUF, pretrained_place
from dsdm.errors import ArtifactError, ModelError, NumericalError
from dsdm.lm import outputs
from dsdm.lm.adapters import add_adapters, base_of, has_adapters, load_adapters, save_adapters
from dsdm.lm.config import ModelConfig

CPU = torch.device("cpu")


def load_model(
    config: ModelConfig,
    *,
    vocab_size: int,
    eos: int,
    seed: int,
    device: torch.device = CPU,
) -> PreTrainedModel:
    """The model in fp32 with dropout off; random weights are a function of `seed`.

    Raises:
        ModelError: not a causal model of `transformers`, or its vocabulary is too small.
    """
    if (config.path is None) == (config.config is None):
        raise ModelError("model: give either `path` or `config`, not both and not neither.")
    torch.manual_seed(seed)
    with _load_errors(config.path or config.config):
        model = _load(config, vocab_size, eos)
    rows = len(_weight(model.get_input_embeddings()))
    if rows < vocab_size:
        raise ModelError(
            f"model {config.path or config.config}: its vocabulary has {rows} entries and the "
            f"tokenizer {vocab_size}. Use the model's own tokenizer, or a larger vocabulary."
        )
    _turn_off_dropout(model)
    check_finite(model)
    _check_head(model)
    if config.lora is not None:
        assert config.path is not None
        add_adapters(model, config.lora, config.path, seed)
    nn.Module.to(model, device)
    return model


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Writes config and safetensors weights, as `load_saved` and `transformers` read them.

    Of a model with adapters these alone, as `peft` reads them.
    """
    if has_adapters(model):
        save_adapters(model, folder)
    else:
        model.save_pretrained(folder)


def load_saved(folder: Path, device: torch.device = CPU) -> PreTrainedModel:
    """The model that `save_model` wrote, in fp32, in evaluation mode.

    Raises:
        ArtifactError: the folder is missing or holds no such model.
        ModelError: the base of its adapters can't be loaded.
    """
    base = base_of(folder)
    if base is not None:
        with _load_errors(base):
            adapted = load_pretrained(base)
        load_adapters(adapted, folder)
        return _ready(adapted, device)
    # transformers would take a folder that is not there for a name on its hub.
    if not (folder / "config.json").is_file():
        raise ArtifactError(
            f"{folder}: is missing or is no saved model: it has no config.json. Run what makes it "
            "again."
        )
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except Exception as error:  # what transformers and safetensors raise has no base
        raise ArtifactError(
            f"{folder}: is no saved model that can be loaded ({error}). Delete this folder and run "
            "what makes it again."
        ) from error
    return _ready(model, device)


def load_pretrained(place: str) -> PreTrainedModel:
    """The model of a folder, a hub id or a .gguf file, whose weights are dequantised, in fp32."""
    is_local = Path(place).exists()
    if Path(place).suffix == GGUF and not is_local:
        raise ValueError("there is no such file")
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        **pretrained_place(place),
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=is_local,
        trust_remote_code=False,
    )
    if Path(place).suffix == GGUF:
        # Its weights are no longer quantised, and are saved as any others.
        vars(model).update(hf_quantizer=None, is_quantized=False)
        del model.config.quantization_config
    return model


def training_passes(model: PreTrainedModel) -> float:
    """What training costs in forward passes: weights without a gradient spare a third."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return 2 + trained / sum(p.numel() for p in model.parameters())


def check_row_length(model: PreTrainedModel, row_tokens: int) -> None:
    """Raises ModelError where a row has more tokens than the model has positions."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    # The last token is only predicted.
    if positions is not None and row_tokens - 1 > positions:
        raise ModelError(
            f"model {type(model).__name__}: reads at most {positions} tokens, and rows have up to "
            f"{row_tokens}. Lower `examples.row_tokens`, or take a model that reads more."
        )


def check_finite(model: nn.Module) -> None:
    """Raises NumericalError where a weight is NaN or infinite."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise NumericalError(
                f"weights: `{name}` holds NaN or infinite values. Lower the learning rate, or "
                "use weights that are whole."
            )


def default_device(name: str = "auto") -> torch.device:
    """The device called `name`; `auto` is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def flops_per_token(model: PreTrainedModel, seq: int) -> float:
    """FLOPs of one forward pass per token: two per weight of each matrix product, and attention.

    The convention of Kaplan et al. (2020), with the head counted and the embedding lookup not.
    A backward pass costs twice as much.
    """
    embedding = _weight(model.get_input_embeddings())
    head = _weight(model.get_output_embeddings())
    tied = embedding is head
    parameters = sum(p.numel() for p in model.parameters())
    matrices = parameters if tied else parameters - embedding.numel()
    config = model.config.get_text_config()
    attention = 2 * config.num_hidden_layers * config.hidden_size * seq
    return float(2 * matrices + attention)


@contextlib.contextmanager
def _load_errors(what: object) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # what transformers, its hub and safetensors raise has no base
        raise ModelError(f"model {what}: cannot be made: {error}") from error


def _ready(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    _turn_off_dropout(model)
    nn.Module.to(model, device)
    model.eval()
    return model


def _load(config: ModelConfig, vocab_size: int, eos: int) -> PreTrainedModel:
    if config.path is not None and config.pretrained:
        return load_pretrained(config.path)
    if config.path is not None:
        model_config = AutoConfig.from_pretrained(
            **pretrained_place(config.path), trust_remote_code=False
        )
    else:
        fields = dict(config.config or {})
        defaults = {"vocab_size": vocab_size, "bos_token_id": eos, "eos_token_id": eos}
        model_type = fields.pop("model_type", None)
        if model_type is None:
            raise ValueError("it names no `model_type`, such as gpt2 or llama")
        model_config = AutoConfig.for_model(model_type, **(defaults | fields))
        _check_fields(fields, model_config, AutoConfig.for_model(model_type))
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        model_config, dtype=torch.float32, trust_remote_code=False
    )
    return model


def _check_fields(fields: Iterable[str], made: PretrainedConfig, default: PretrainedConfig) -> None:
    """Raises ValueError for a misspelt field, which `transformers` keeps without a word."""
    unknown = [name for name in fields if hasattr(made, name) and not hasattr(default, name)]
    if unknown:
        raise ValueError(f"`{unknown[0]}` is not a field of {type(made).__name__}")


def _weight(layer: nn.Module | None) -> Tensor:
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        raise ModelError(f"{type(layer).__name__}: has no `weight`; no causal language model's.")
    return weight


def _turn_off_dropout(model: nn.Module) -> None:
    """Sets every dropout to 0: proxies see each row about once, and scoring needs f to be fixed."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout") and isinstance(module.attention_dropout, float):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010 - not declared on nn.Module


def _check_head(model: PreTrainedModel) -> None:
    """Raises ModelError where logits are more than the head applied to the hidden states."""
    batch = Batch(torch.arange(8)[None] % 7, torch.arange(1, 9)[None] % 7)
    weight = model.get_output_embeddings().weight
    with torch.no_grad():
        before = weight.clone()
        # Random weights give logits near 0, where a cap changes nothing.
        logits = outputs.hidden_states(model, batch) @ weight.T
        weight *= 100 / logits.abs().max().clamp(min=1e-6)
        ours = outputs.token_outputs(model, batch, "loglik")
        plain = outputs.plain_token_outputs(model, batch, "loglik")
        weight.copy_(before)
    if not torch.allclose(ours, plain, rtol=1e-3, atol=1e-3):
        raise ModelError(
            f"model {type(model).__name__}: its logits are not its output layer applied to its "
            "last hidden state (logits are scaled or capped); such models are not supported yet."
        )
