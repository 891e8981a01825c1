"""A tiny pretrained chat model in a folder of its own, and conversations to fine-tune it on."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from transformers import PreTrainedTokenizerFast

from dsdm.data.tokenizer import Tokenizer, TokenizerConfig, make_tokenizer
from dsdm.lm.config import ModelConfig
from dsdm.lm.model import load_model, save_model
from tests.data.pools import texts, write_jsonl

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|start|>' + message['role'] + '\n' + message['content'] + '<|endoftext|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
"""As SmolLM2's and Qwen2's."""
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,  # adapters are small beside the weights, as they are in earnest
}
CAPITALS = [("Rome", "Italy"), ("Paris", "France"), ("Oslo", "Norway"), ("Bern", "Switzerland")]


def write_chat_model(folder: Path, template: str | None = TEMPLATE) -> Tokenizer:
    """Saves random weights and a tokenizer, as they come from a hub; returns the tokenizer."""
    plain = make_tokenizer(TokenizerConfig(vocab_size=300), iter(texts(60, 0)))
    plain.backend.add_special_tokens(["<|start|>"])
    PreTrainedTokenizerFast(
        tokenizer_object=plain.backend,
        eos_token="<|endoftext|>",
        bos_token="<|start|>",
        **({} if template is None else {"chat_template": template}),
    ).save_pretrained(folder)
    vocab_size = len(plain.backend.get_vocab())
    model = load_model(ModelConfig(config=LLAMA), vocab_size=vocab_size, eos=plain.eos, seed=3)
    save_model(model, folder)
    return make_tokenizer(TokenizerConfig(path=str(folder)), iter(()))


def chat(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def conversations(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Questions about capitals among questions about nothing, one in five."""
    rng = np.random.default_rng(seed)
    found = []
    for number, text in enumerate(texts(count, seed)):
        city, country = CAPITALS[rng.integers(len(CAPITALS))]
        question, answer = f"{number}: {text[:12]}?", text[12:30] or "?"
        if number % 5 == 0:
            question, answer = f"{number}. The capital of {country}?", city
        messages = chat(("user", question), ("assistant", answer))
        found.append({"id": f"c{number}", "messages": messages, "kept": number})
    return found


def targets(count: int) -> list[dict[str, str]]:
    pairs = [CAPITALS[number % len(CAPITALS)] for number in range(count)]
    return [
        {"context": f"{number} The capital of {country} is", "continuation": city}
        for number, (city, country) in enumerate(pairs)
    ]


def write_chat_experiment(folder: Path, **changes: Any) -> Path:
    """A YAML file for a fine-tune in `folder`, with its data and model; sections are merged."""
    if not (folder / "model").exists():
        write_chat_model(folder / "model")
    if not (folder / "pool.jsonl").exists():
        write_jsonl(folder / "pool.jsonl", conversations(60))
    write_jsonl(folder / "target.jsonl", targets(20))
    settings: dict[str, Any] = {
        "run": str(folder / "run"),
        "pool": {"files": [str(folder / "pool.jsonl")], "format": "conversations"},
        "targets": [{"name": "capitals", "file": str(folder / "target.jsonl"), "chat": True}],
        "model": {"path": str(folder / "model"), "lora": {"rank": 2}},
        "selection": {"candidates": 6},
        "examples": {"row_tokens": 64},
        "proxies": {"count": 1, "epochs": 2.0, "train": {"batch_tokens": 128, "lr": 1e-2}},
        "directions": {"ekfac": {"curvature_rows": 32}, "context_share": 0.0},
        "scores": {"calibration_rows": 16, "precision": "float32"},
        "export": {"format": "jsonl"},
        "device": "cpu",
    }
    for name, change in changes.items():
        old = settings.get(name)
        settings[name] = old | change if isinstance(old, dict) and change else change
    path = folder / "chat.yaml"
    path.write_bytes(msgspec.yaml.encode(settings))
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
