"""A toy model, engines of it in several tight spots, and requests to ask of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import cache, model, parameters, sharding
from r1jax.config import ModelConfig
from r1jax.engine import simple
from r1jax.engine.loop import Engine
from r1jax.engine.types import EngineOptions, SamplingParams
from r1jax.pallas.backend import REFERENCE
from r1jax.target import CPU, Target

CONFIG = ModelConfig.from_dict(
    {
        "family": "qwen2",
        "vocab_size": 64,
        "width": 32,
        "layers": 2,
        "dense_layers": 2,
        "mlp_width": 48,
        "attention": {
            "heads": 4,
            "kv_heads": 2,
            "head_dim": 8,
            "qkv_bias": True,
            "rope": {"theta": 100.0},
        },
        "moe": None,
        "mtp_layers": 0,
        "tied_head": False,
        "norm_eps": 1e-6,
        "max_positions": 256,
        "bos_id": None,
        "eos_ids": (),
    }
)
LONGEST = 160

# Prompt length and sampling of requests that have nothing in common.
REQUESTS = [
    (5, dict(temperature=0.0)),
    (70, dict(temperature=0.0, max_tokens=20)),
    (100, dict(temperature=1.0, top_p=1.0, seed=3)),
    (1, dict(temperature=0.7, top_p=0.9, seed=4, logprobs=3)),
    (17, dict(temperature=1.5, top_k=20, min_p=0.02, seed=-5)),
    (30, dict(temperature=0.0, repetition_penalty=1.3)),
    (12, dict(temperature=0.9, presence_penalty=0.8, frequency_penalty=0.4, seed=6)),
    (64, dict(temperature=1.0, repetition_penalty=0.8, seed=2**63 - 1)),
    (33, dict(temperature=2.0, top_p=1.0, seed=9, logprobs=0)),
    (3, dict(temperature=0.0, frequency_penalty=0.7, presence_penalty=-0.3)),
]


def prompt_of(length):
    return np.random.default_rng(length).integers(0, 64, length).tolist()


def plain(params, prompt, guide=None, **asked):
    """What the plain loop answers."""
    sampling = SamplingParams(**asked)
    return simple.generate(
        CONFIG, params, prompt, sampling, max_model_len=LONGEST, guide=guide
    )


def engine_of(params, *, slots, chunk, pages, page_size, **drafting):
    options = EngineOptions(LONGEST, slots, chunk, page_size, **drafting)
    pools = cache.make_pools(CONFIG, pages, page_size, jnp.float32)
    engine = Engine(CONFIG, model.for_cpu(params), pools, options, target=CPU, seed=1)
    engine.wait_until_compiled()
    return engine


def meshed_engine(params, **drafting):
    placement = sharding.Placement(sharding.make_mesh(2, 2), "throughput")
    target = Target("kernels", REFERENCE, placement)
    options = EngineOptions(LONGEST, 2, 64, page_size=16, **drafting)
    pools = cache.make_pools(CONFIG, 40, 16, jnp.float32, target)
    axes = parameters.logical_axes(CONFIG)
    where = sharding.shardings(params, axes, placement.mesh, placement.rules)
    mine = jax.device_put(params, where, may_alias=False)
    return Engine(CONFIG, mine, pools, options, target=target, seed=1)


class Knowing:
    """Guesses what the plain loop has answered, and every third time something else."""

    def __init__(self, answers):
        self.known = [
            prompt_of(length) + answer
            for (length, _), answer in zip(REQUESTS, answers, strict=True)
        ]
        self.turn = itertools.count()

    def guess(self, sequence, device):
        tokens = sequence.tokens
        whole = next((k for k in self.known if k[: len(tokens)] == tokens), tokens)
        guesses = whole[len(tokens) : len(tokens) + 3] or [0]
        if next(self.turn) % 3 == 0:
            guesses[-1] = (guesses[-1] + 1) % CONFIG.vocab_size
        return guesses

    def forget(self, sequence):
        pass
