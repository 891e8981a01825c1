"""Adapters: what is trained, what is saved, and that both go on as they were."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from dsdm.data.batches import collate
from dsdm.data.tokenizer import TokenizerConfig, make_tokenizer
from dsdm.errors import ArtifactError, ModelError
from dsdm.learners.lm_layers import linear_layers, moved_layers
from dsdm.lm.config import LoraConfig, ModelConfig, TrainConfig
from dsdm.lm.model import load_model, load_saved, save_model, training_passes
from dsdm.lm.moments import load_moments
from dsdm.lm.outputs import token_outputs
from dsdm.lm.train import epoch_order, train
from tests.conftest import ListRows, random_rows
from tests.lm.test_train import KilledError, killed_at
from tests.tiny_chat import write_chat_experiment, write_chat_model
from tests.tiny_runs import Dsdm

ROWS = random_rows(40, longest=9)
ORDER = epoch_order(np.arange(40), 4.0, seed=1)
TRAIN = TrainConfig(batch_tokens=20, lr=0.01, precision="float32", checkpoint_seconds=0.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_chat_model(folder)
    return folder


def adapted(base: Path, seed: int = 0, **lora: Any) -> PreTrainedModel:
    config = ModelConfig(path=str(base), lora=LoraConfig(rank=2, **lora))
    return load_model(config, vocab_size=301, eos=0, seed=seed)


def trained(base: Path, work: Path, **how: Any) -> PreTrainedModel:
    model = adapted(base)
    train(model, ROWS, ORDER, TRAIN, work=work, **how)
    return model


def trainable(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}


def outputs(model: PreTrainedModel) -> torch.Tensor:
    rows = ListRows(ROWS.rows[:8])
    return token_outputs(model, collate(rows.rows), "loglik").detach()


def test_fresh_adapters_change_nothing(base: Path) -> None:
    torch.testing.assert_close(outputs(adapted(base)), outputs(load_saved(base)))


def test_the_layers_of_an_adapted_model_are_the_adapters(base: Path) -> None:
    names = [layer.name for layer in linear_layers(adapted(base))]
    assert len(names) == 2 * 7 * 2
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    assert set(names) == set(trainable(adapted(base)))
    assert [layer.name for layer in moved_layers(adapted(base), embeddings=True)] == names


def test_named_layers_alone_get_adapters(base: Path) -> None:
    names = [layer.name for layer in linear_layers(adapted(base, layers=("q_proj", "v_proj")))]
    assert len(names) == 2 * 2 * 2
    assert all(".q_proj." in name or ".v_proj." in name for name in names)


def test_a_layer_that_the_model_lacks_is_an_error(base: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.lora: .*nothing_proj"):
        adapted(base, layers=("nothing_proj",))


def test_fresh_adapters_are_a_function_of_the_seed(base: Path) -> None:
    one, same, other = (
        torch.cat([t.flatten() for t in trainable(adapted(base, s)).values()]) for s in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_training_moves_the_adapters_and_leaves_the_base(base: Path, tmp_path: Path) -> None:
    before, model = load_saved(base), trained(base, tmp_path)
    assert any(t.abs().sum() > 0 for n, t in trainable(model).items() if "lora_B" in n)
    theirs = {n.replace(".base_layer", ""): p for n, p in model.named_parameters()}
    for name, parameter in before.named_parameters():
        assert torch.equal(theirs[name], parameter), name


def test_saved_adapters_are_what_was_trained(base: Path, tmp_path: Path) -> None:
    model = trained(base, tmp_path / "work")
    (tmp_path / "saved").mkdir()
    save_model(model, tmp_path / "saved")
    again = load_saved(tmp_path / "saved")
    assert torch.equal(outputs(model), outputs(again))
    assert set(trainable(again)) == set(trainable(model))
    size = sum(file.stat().st_size for file in (tmp_path / "saved").iterdir())
    assert size < (base / "model.safetensors").stat().st_size


# peft's own, of transformers 5
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_peft_reads_saved_adapters(base: Path, tmp_path: Path) -> None:
    model = trained(base, tmp_path / "work")
    (tmp_path / "saved").mkdir()
    save_model(model, tmp_path / "saved")
    theirs = peft.PeftModel.from_pretrained(load_saved(base), str(tmp_path / "saved"))
    batch = collate(ROWS.rows[:4])
    with torch.no_grad():
        expected = theirs(input_ids=batch.inputs).logits
        found = model(input_ids=batch.inputs).logits
    torch.testing.assert_close(found, expected)


def test_the_same_training_saves_the_same_bytes(base: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_model(trained(base, tmp_path / f"{name}.work"), tmp_path / name)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("step", [5, 21, 39])
def test_a_training_that_was_killed_goes_on_to_the_same_bits(
    base: Path, tmp_path: Path, step: int
) -> None:
    whole = trained(base, tmp_path / "whole")
    with pytest.raises(KilledError):
        trained(base, tmp_path / "cut", advance=killed_at(step))
    saved = tmp_path / "cut" / "checkpoint" / "weights.safetensors"
    assert saved.exists() == (step >= 20)
    if step >= 20:
        assert set(load_file(saved)) == set(trainable(whole))
    resumed = trained(base, tmp_path / "cut")
    for name, tensor in trainable(whole).items():
        assert torch.equal(trainable(resumed)[name], tensor), name


def test_checkpoints_that_are_kept_are_the_same_after_a_kill(base: Path, tmp_path: Path) -> None:
    for name in ("whole", "cut"):
        kept = {step: tmp_path / name / str(step) for step in (15, 30)}
        if name == "cut":
            for step in (18, 33):
                with pytest.raises(KilledError):
                    trained(
                        base,
                        tmp_path / "work",
                        kept=kept,
                        keeps_moments=True,
                        advance=killed_at(step),
                    )
        work = tmp_path / name / "work" if name == "whole" else tmp_path / "work"
        trained(base, work, kept=kept, keeps_moments=True)
    for file in sorted((tmp_path / "whole").glob("*/*.*")):
        if "work" not in file.parts:
            other = tmp_path / "cut" / file.relative_to(tmp_path / "whole")
            assert file.read_bytes() == other.read_bytes(), file
    assert len(list((tmp_path / "cut").glob("*/*.safetensors"))) == 4


def test_kept_moments_are_the_optimizer_s(base: Path, tmp_path: Path) -> None:
    model = adapted(base)
    kept = {1: tmp_path / "first"}
    result = train(model, ROWS, ORDER, TRAIN, work=tmp_path / "work", kept=kept, keeps_moments=True)
    first = load_moments(tmp_path / "first")
    assert first.steps == 1
    assert set(first.first) == set(first.second) == set(trainable(model))
    for name, second in first.second.items():
        # After one step both are of a single gradient g: (1 - b1) g and (1 - b2) g^2.
        b1, b2 = TRAIN.betas
        expected = (first.first[name] / (1 - b1)).square() * (1 - b2)
        torch.testing.assert_close(second, expected, rtol=1e-5, atol=1e-12)
    assert result.moments is not None
    assert result.moments.steps == result.steps


def test_training_adapters_counts_no_gradients_of_the_base(base: Path) -> None:
    assert training_passes(load_saved(base)) == 3.0
    assert 2.0 < training_passes(adapted(base)) < 2.5


def test_adapters_of_another_model_are_an_error(base: Path, tmp_path: Path) -> None:
    save_model(adapted(base), tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    weights = {name.replace("layers.1", "layers.9"): t for name, t in weights.items()}
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ArtifactError, match="adapters that can't be loaded"):
        load_saved(tmp_path)


def test_damaged_adapters_are_an_error_that_names_them(base: Path, tmp_path: Path) -> None:
    save_model(adapted(base), tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ArtifactError, match=f"{tmp_path}: adapters that can't be loaded"):
        load_saved(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ArtifactError, match="is damaged"):
        load_saved(tmp_path)


def test_a_base_that_is_gone_is_named(base: Path, tmp_path: Path) -> None:
    save_model(adapted(base), tmp_path)
    about = json.loads((tmp_path / "adapter_config.json").read_text())
    about["base_model_name_or_path"] = str(tmp_path / "gone.gguf")
    (tmp_path / "adapter_config.json").write_text(json.dumps(about))
    with pytest.raises(ModelError, match=r"gone\.gguf: cannot be made: there is no such file"):
        load_saved(tmp_path)


def test_adapters_need_peft(tmp_path: Path, dsdm: Dsdm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    code, _, err = dsdm("run", write_chat_experiment(tmp_path))
    assert code == 2
    assert "pip install 'dsdm[finetune]'" in err


def test_adapters_need_a_pretrained_model(tmp_path: Path, dsdm: Dsdm) -> None:
    model = {"path": None, "config": {"model_type": "llama"}}
    code, _, err = dsdm("run", write_chat_experiment(tmp_path, model=model))
    assert code == 2
    assert "`lora` is for a pretrained model: give it by `path`" in err


def write_gguf(base: Path, path: Path) -> None:
    """The model and tokenizer of a folder as llama.cpp would write them, in fp32."""
    model, about = load_saved(base), json.loads((base / "tokenizer.json").read_text())
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    vocab = sorted(about["model"]["vocab"].items(), key=lambda item: item[1])
    vocab += [(t["content"], t["id"]) for t in about["added_tokens"] if t["id"] >= len(vocab)]
    marks = {token["content"] for token in about["added_tokens"]}
    writer.add_vocab_size(len(vocab))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([token for token, _ in vocab])
    writer.add_token_types([3 if token in marks else 1 for token, _ in vocab])
    writer.add_token_merges([" ".join(pair) for pair in about["model"]["merges"]])
    writer.add_eos_token_id(dict(vocab)["<|endoftext|>"])
    writer.add_bos_token_id(dict(vocab)["<|start|>"])
    writer.add_chat_template((base / "chat_template.jinja").read_text())
    heads = config.num_attention_heads
    for name, tensor in model.state_dict().items():
        writer.add_tensor(*gguf_tensor(name, tensor.numpy(), heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_tensor(name: str, tensor: np.ndarray, heads: int) -> tuple[str, np.ndarray]:
    """A weight's name and layout in GGUF, which pairs the halves of a rotary head's rows."""
    if "q_proj" in name or "k_proj" in name:
        rows, columns = tensor.shape
        halves = tensor.reshape(heads, 2, rows // heads // 2, columns)
        tensor = halves.swapaxes(1, 2).reshape(rows, columns)
    parts = {
        "model.layers": "blk",
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "post_attention_layernorm": "ffn_norm",
        "input_layernorm": "attn_norm",
    }
    for theirs, ours in parts.items():
        name = name.replace(theirs, ours)
    return name, np.ascontiguousarray(tensor)


@pytest.fixture
def gguf(base: Path, tmp_path: Path) -> Path:
    write_gguf(base, tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


def test_a_gguf_file_is_the_model_that_it_was_made_of(base: Path, gguf: Path) -> None:
    config = ModelConfig(path=str(gguf), lora=LoraConfig(rank=2))
    model = load_model(config, vocab_size=301, eos=0, seed=0)
    torch.testing.assert_close(outputs(model), outputs(load_saved(base)))


def test_adapters_of_a_gguf_file_find_it_again(gguf: Path, tmp_path: Path) -> None:
    config = ModelConfig(path=str(gguf), lora=LoraConfig(rank=2))
    model = load_model(config, vocab_size=301, eos=0, seed=0)
    (tmp_path / "saved").mkdir()
    save_model(model, tmp_path / "saved")
    assert torch.equal(outputs(load_saved(tmp_path / "saved")), outputs(model))


def test_a_gguf_file_trained_in_full_is_saved_as_a_plain_model(gguf: Path, tmp_path: Path) -> None:
    model = load_model(ModelConfig(path=str(gguf)), vocab_size=301, eos=0, seed=0)
    save_model(model, tmp_path / "saved")
    about = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert "quantization_config" not in about
    assert torch.equal(outputs(load_saved(tmp_path / "saved")), outputs(model))


def test_the_tokenizer_of_a_gguf_file_is_the_models(base: Path, gguf: Path) -> None:
    theirs, ours = (
        make_tokenizer(TokenizerConfig(path=str(place)), iter(())) for place in (base, gguf)
    )
    text = "<|start|>user\nthe cat, das Wetter"
    assert ours.encode_marked(text)[0].tolist() == theirs.encode_marked(text)[0].tolist()
    assert (ours.eos, ours.chat_template) == (theirs.eos, theirs.chat_template)


def test_copies_of_an_adapted_model_share_its_base(base: Path) -> None:
    from dsdm.datamodel.scoring import perturbed

    model = adapted(base)
    direction = {n: torch.ones_like(t) for n, t in trainable(model).items()}
    moved = dict(perturbed(model, direction, 0.5).named_parameters())
    for name, parameter in model.named_parameters():
        assert (moved[name] is parameter) == (not parameter.requires_grad), name
    assert copy.deepcopy(model) is not model
