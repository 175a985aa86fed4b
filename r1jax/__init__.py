"""DeepSeek-R1 in JAX: load a model, ask it, serve it.

import r1jax

llm = r1jax.load("path/to/checkpoint")
print(llm.chat([{"role": "user", "content": "What is 1+1?"}]).content)
"""

from r1jax.answer import Delta
from r1jax.engine.types import SamplingParams
from r1jax.errors import R1jaxError
from r1jax.llm import LLM
from r1jax.load import load
from r1jax.sharding import make_mesh
from r1jax.weights import save_expert_loads

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "Delta",
    "R1jaxError",
    "SamplingParams",
    "load",
    "make_mesh",
    "save_expert_loads",
]
