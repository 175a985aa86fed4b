"""What a step cannot do without: bytes read from memory, operations, by device.

Counted from shapes. Weights are read once a step, an expert only if a token chose it;
each sequence's cache is read once; every product is done once. Activations, which stay
in VMEM in a decode, are left out, so this is a floor.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import jax

from r1jax.cache import Geometry
from r1jax.config import MlaConfig, MoeConfig
from r1jax.plan.program import Setup
from r1jax.sharding import local_bytes


@dataclass(frozen=True)
class Work:
    """The least that each device does in a step.

    Attributes:
      weight_bytes: Read, those of experts on the average device.
      cache_bytes: Read.
      flops: Done by the matrix units.
    """

    weight_bytes: float
    cache_bytes: float
    flops: float

    @property
    def bytes(self) -> float:
        """All that is read."""
        return self.weight_bytes + self.cache_bytes


@dataclass(frozen=True)
class Leaf:
    """One array of the weights on a device.

    Attributes:
      kind: "dense" meets every token, "experts" those routed to it, "head" each row's
        last token; of "embedding" a row a token is read.
      bytes: On a device.
      products: Multiplications for each token that meets it.
      rows: Of an embedding.
    """

    kind: str
    bytes: int
    products: int
    rows: int = 1


def used_share(experts: int, per_token: int, tokens: int) -> float:
    """Returns the expected share of experts that some tokens choose, all as likely.

    A token chooses `per_token` different ones, so each is left with probability
    1 - per_token / experts.
    """
    return 1.0 - (1.0 - per_token / experts) ** tokens


def leaves(setup: Setup) -> list[Leaf]:
    """Lists the weights as one device holds them."""
    tied = setup.config.tied_head
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(setup.weights):
        names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
        size, local = local_bytes(leaf), leaf.sharding.shard_shape(leaf.shape)
        # A stack of layers counts as a matrix only beyond its first axis.
        matrix = len(local) > (2 if names[0].endswith("layers") else 1)
        matrix = matrix and names[-1] not in ("scales", "bias")
        products = math.prod(local) if matrix else 0
        if names[0] == "embed" and not tied:
            found.append(Leaf("embedding", size, 0, local[0]))
        elif names[0] in ("lm_head", "embed"):
            found.append(Leaf("head", size, products))
        else:
            found.append(
                Leaf("experts" if "experts" in names else "dense", size, products)
            )
    return found


def of_weights(
    found: Iterable[Leaf], moe: MoeConfig | None, rows: int, tokens: int, shards: int
) -> tuple[float, float]:
    """Counts what weights cost each device: bytes read, operations.

    Args:
      found: The weights of a device; experts are cut over all of them.
      moe: The experts, if there are any.
      rows: Sequences of a shard.
      tokens: Tokens of a shard.
      shards: Shards of sequences, whose experts are shared.
    """
    read, flops = 0.0, 0.0
    for leaf in found:
        part, met = 1.0, float(tokens)
        if leaf.kind == "experts":
            assert moe is not None
            everywhere = tokens * shards
            part = used_share(moe.experts, moe.experts_per_token, everywhere)
            met = everywhere * moe.experts_per_token / moe.experts
        elif leaf.kind == "embedding":
            part = min(1.0, tokens / leaf.rows)
        elif leaf.kind == "head":
            met = rows
        read += part * leaf.bytes
        flops += 2 * leaf.products * met
    return read, flops


def work_of(setup: Setup, g: Geometry, context: int) -> Work:
    """Counts a step whose sequences all have a context of so many tokens.

    Args:
      setup: The model on its slice.
      g: The step, on one shard; all its rows are used.
      context: Tokens of each sequence after the step.
    """
    moe, shards = setup.config.moe, setup.shards
    read, flops = of_weights(leaves(setup), moe, g.rows, g.tokens, shards)
    cached = setup.token_bytes() * shards * g.rows * context
    return Work(read, cached, flops + _attention(setup, g, context))


def _attention(setup: Setup, g: Geometry, context: int) -> float:
    """Counts the operations of scores, mixing, and keys and values rebuilt.

    A chunk's queries see half of each other. Beyond some 170 of them a latent's keys
    and values are made whole, which costs less.
    """
    a, layers = setup.config.attention, setup.config.layers
    p = setup.target.placement
    heads = a.heads // (p.devices("heads") if p else 1)
    decodes = g.decodes * context
    chunk = g.chunk_tokens
    chunks = g.chunks * chunk * (context - chunk / 2)
    if not isinstance(a, MlaConfig):
        return 4.0 * heads * a.head_dim * layers * (decodes + chunks)
    absorbed = 2 * (a.latent_dim + a.kv_rank)
    whole = 2 * (a.nope_dim + a.rope_dim + a.value_dim)
    rebuilt = 2 * a.kv_rank * (a.nope_dim + a.value_dim) * g.chunks * context
    of_chunks = min(absorbed * chunks, whole * chunks + rebuilt)
    return float(heads * layers * (absorbed * decodes + of_chunks))
