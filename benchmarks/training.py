"""Training a tiny dense model: tokens a second beside transformers and torch.

    python benchmarks/training.py --peer-python PYTHON_WITH_TORCH

Both take steps of AdamW in float32 on the same Qwen2-shaped model and batch, in turn;
one JSON line has the medians. Two threads each.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

LAYERS, WIDTH, HEADS, MLP, VOCAB = 4, 256, 4, 768, 512
ROWS, TOKENS = 8, 256
PEER = f"""
import sys, time, torch
from transformers import Qwen2Config, Qwen2ForCausalLM
torch.set_num_threads(2)
torch.manual_seed(0)
model = Qwen2ForCausalLM(Qwen2Config(
    vocab_size={VOCAB}, hidden_size={WIDTH}, intermediate_size={MLP},
    num_hidden_layers={LAYERS}, num_attention_heads={HEADS},
    num_key_value_heads={HEADS}, tie_word_embeddings=False))
tools = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
tokens = torch.randint(0, {VOCAB}, ({ROWS}, {TOKENS}))
for line in sys.stdin:
    began = time.perf_counter()
    for _ in range(int(line)):
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        tools.step()
        tools.zero_grad()
    print(time.perf_counter() - began, flush=True)
"""


class Ours:
    """This project's step, compiled."""

    def __init__(self, unroll: bool) -> None:
        import jax
        import jax.numpy as jnp
        import numpy as np

        from r1jax import parameters
        from r1jax.config import GqaConfig, ModelConfig, RopeConfig
        from r1jax.train import optimizer, state
        from r1jax.train.batch import Example, pack
        from r1jax.train.loss import Loss

        head = WIDTH // HEADS
        attention = GqaConfig(HEADS, HEADS, head, RopeConfig(1e4), qkv_bias=True)
        config = ModelConfig(
            "qwen2", VOCAB, WIDTH, LAYERS, LAYERS, MLP, attention, None, 0, False,
            1e-6, 1024, None, (1,),
        )  # fmt: skip
        choice = optimizer.Optimizer(
            "adamw", 1e-4, 1e-4, 0.1, 1, 10**6, 0.9, 0.999, 0.0, 1.0
        )
        tools = optimizer.build(choice)
        params = parameters.init(config, jax.random.key(0))
        self._state = state.create(params, tools)
        numbers = np.random.default_rng(0).integers(0, VOCAB, (ROWS, TOKENS))
        examples = [Example(row.tolist(), [1.0] * TOKENS) for row in numbers]
        packed = pack(examples, TOKENS)
        self._batch = jax.tree.map(lambda a: jnp.asarray(a)[None], packed)
        loss = Loss("float32", False, unroll, 0.0, 0.0, 1.0, 0.0, 0.0, steps=10**6)
        step = state.make_step(config, loss, tools)
        options = state.compile_options()
        self._step = jax.jit(step, donate_argnums=0, compiler_options=options)
        began = time.perf_counter()
        self.run(1)
        self.compile_seconds = time.perf_counter() - began

    def run(self, steps: int) -> float:
        """Takes steps; returns the seconds."""
        began = time.perf_counter()
        for _ in range(steps):
            self._state, numbers = self._step(self._state, self._batch)
        numbers["loss"].block_until_ready()
        return time.perf_counter() - began


def main() -> None:
    """Measures in turn and prints one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    ours = {"unrolled": Ours(True), "scanned": Ours(False)}
    peer = subprocess.Popen(
        [args.peer_python, "-c", PEER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert peer.stdin is not None
    assert peer.stdout is not None

    def ask() -> float:
        peer.stdin.write(f"{args.steps}\n")
        peer.stdin.flush()
        return float(peer.stdout.readline())

    ask()
    times: dict[str, list[float]] = {name: [] for name in (*ours, "transformers")}
    for _ in range(args.rounds):
        for name, one in ours.items():
            times[name].append(one.run(args.steps))
        times["transformers"].append(ask())
    peer.stdin.close()
    peer.wait()
    size = ROWS * TOKENS * args.steps
    speed = {name: round(size / statistics.median(t)) for name, t in times.items()}
    compiled = {name: round(one.compile_seconds, 1) for name, one in ours.items()}
    print(json.dumps({"tokens_per_second": speed, "compile_seconds": compiled}))


if __name__ == "__main__":
    main()
