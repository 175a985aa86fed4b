"""What few bits cost: a small real model's perplexity on a fixed text.

    python benchmarks/quality.py

SmolLM2-135M-Instruct (the `demo` extra; its file holds 4-bit weights, widened here to
float32) reads `data/prose.txt`: twelve texts of several kinds, partly of the public
domain, 4,145 tokens. Perplexity is exp of the mean negative log-likelihood of all
tokens but each text's first. One JSON line a form, with the ratio to float32.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import model, quant
from r1jax.config import ModelConfig
from r1jax.locate import SMOLLM2, locate
from r1jax.text.tokenizer import Tokenizer
from r1jax.typing import Array, PyTree
from r1jax.weights import open_source

TEXT = Path(__file__).parent / "data" / "prose.txt"
BREAK = "\n* * *\n"
LONGEST = 512  # tokens; texts are padded to it, so that one shape is compiled


def texts(tokenizer: Tokenizer) -> list[np.ndarray]:
    """Returns the token ids of each text."""
    parts = TEXT.read_text(encoding="utf-8").split(BREAK)
    return [np.asarray(tokenizer.encode(part.strip())) for part in parts]


def perplexity(config: ModelConfig, params: PyTree, tokens: list[np.ndarray]) -> float:
    """Reads every text from its beginning."""
    padded = np.zeros((len(tokens), LONGEST), np.int32)
    for row, ids in zip(padded, tokens, strict=True):
        row[: len(ids)] = ids

    @jax.jit
    def losses(params: PyTree, ids: Array) -> Array:
        hidden = model.forward(config, params, ids)
        logits = model.logits(params, hidden)
        own = jnp.take_along_axis(logits[:-1], ids[1:, None], axis=-1)[:, 0]
        return jax.nn.logsumexp(logits[:-1], axis=-1) - own

    total = sum(
        float(np.asarray(losses(params, row), np.float64)[: len(ids) - 1].sum())
        for row, ids in zip(padded, tokens, strict=True)
    )
    return float(np.exp(total / sum(len(ids) - 1 for ids in tokens)))


def main() -> None:
    """Prints a line for float32 and for each form."""
    source = open_source(locate(SMOLLM2))
    assert source.tokenizer_fields is not None
    tokens = texts(Tokenizer.from_gguf_fields(source.tokenizer_fields))
    base = 0.0
    for dtype in ("float32", *quant.FORMS):
        scheme = quant.scheme(dtype, experts=False)
        params = jax.tree.map(jnp.asarray, source.params("float32", scheme=scheme))
        found = perplexity(source.config, params, tokens)
        base = base or found
        line = {"dtype": dtype, "perplexity": round(found, 3)}
        print(json.dumps(line | {"above_float32": round(found / base - 1, 4)}))


if __name__ == "__main__":
    main()
