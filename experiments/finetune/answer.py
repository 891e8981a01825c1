"""What a chat model says to one message, with an adapter on top of it.

python experiments/finetune/answer.py MODEL ADAPTER "What is the capital of Norway?"
"""

import argparse

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

NEW_TOKENS = 32


def main() -> None:
    """Prints the likeliest answer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("adapter")
    parser.add_argument("message")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model, trust_remote_code=False)
    base = AutoModelForCausalLM.from_pretrained(options.model, trust_remote_code=False)
    model = PeftModel.from_pretrained(base, options.adapter)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": options.message}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        found = model.generate(
            input_ids=asked["input_ids"],
            attention_mask=asked["attention_mask"],
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    answer = found[0, asked["input_ids"].shape[1] :]
    print(tokenizer.decode(answer, skip_special_tokens=True).strip())


if __name__ == "__main__":
    main()
