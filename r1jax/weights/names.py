"""The table: a checkpoint tensor's name, its place in the tree, how to turn it.

Each kind of checkpoint is a `Layout` of rows; `table` writes the rows out for one model
and checks that they are total: every leaf of the tree is filled, and only once. A
`Piece` says the same thing in both directions, so one table reads and writes. The rows
of Hugging Face's names are here, those of GGUF in `r1jax.weights.gguf_names`.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import parameters
from r1jax.config import GqaConfig, ModelConfig
from r1jax.errors import CheckpointError, ConfigError
from r1jax.model import group_sizes
from r1jax.quant import Scheme
from r1jax.typing import PyTree
from r1jax.weights.turn import Turn

Path = tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
      source: The tensor's name behind the layer's prefix. `{expert}` counts experts; a
        name that ends in `[{expert}]` is one tensor with an axis of experts.
      leaf: The leaf's path behind the layers' group, with slashes.
      turn: How it is turned, see `r1jax.weights.turn`.
      fp8: True where releases may store it as fp8 blocks with a tensor of scales.
    """

    source: str
    leaf: str
    turn: str
    fp8: bool = False


@dataclass(frozen=True)
class Layout:
    """The rows of one kind of checkpoint for one model.

    Attributes:
      layer: The prefix of a layer's tensors, with `{layer}`.
      words: The rows outside the layers.
      groups: The rows of each group of layers, named as in `model.group_sizes`.
      mtp: The rows of a multi-token-prediction layer, stored behind the last layer.
    """

    layer: str
    words: tuple[Row, ...]
    groups: Mapping[str, tuple[Row, ...]]
    mtp: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Piece:
    """One tensor, or one expert's part of it, and the part of a leaf that it fills.

    Attributes:
      source: The tensor's name.
      slot: Its place on the tensor's first axis, where that counts experts.
      path: The leaf.
      index: Its place on the leaf's stacked axes: layer, expert.
      turn: How the axes lie.
      fp8: True where the tensor may be fp8 blocks.
    """

    source: str
    slot: int | None
    path: Path
    index: tuple[int, ...]
    turn: Turn
    fp8: bool


@dataclass(frozen=True)
class Table:
    """All pieces of one model, by tensor and by leaf.

    Attributes:
      shapes: The shape of every tensor.
      by_source: The pieces that a tensor is cut into.
      by_leaf: For every leaf, the pieces that fill it.
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    by_source: dict[str, list[Piece]] = field(default_factory=dict)
    by_leaf: dict[Path, list[Piece]] = field(default_factory=dict)

    def may_be_fp8(self, source: str) -> bool:
        """Tells whether a tensor may be fp8 blocks, with scales beside it."""
        return self.by_source[source][0].fp8


def table(config: ModelConfig, layout: Layout) -> Table:
    """Writes out a layout's rows for a model.

    Raises:
      CheckpointError: A leaf of the tree has a part that no tensor fills.
      ConfigError: A size is not positive.
    """
    result = Table()
    experts = config.moe.experts if config.moe else 0
    for piece in _pieces(config, layout):
        outer = () if piece.slot is None else (experts,)
        result.shapes[piece.source] = outer + piece.turn.source_shape
        result.by_source.setdefault(piece.source, []).append(piece)
        result.by_leaf.setdefault(piece.path, []).append(piece)
    _check_total(config, result)
    return result


class Array(NamedTuple):
    """An array of the tree: a plain leaf, or one of the two parts of a `QArray`."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: tuple[str | None, ...]


PARTS = ("values", "scales")


def arrays(
    config: ModelConfig, dtype: Any, scheme: Scheme | None = None
) -> dict[Path, Array]:
    """Returns every array of the tree by its path; a `QArray`'s end in one of `PARTS`.

    Args:
      config: The model.
      dtype: Of the plain leaves, but for those that are always float32.
      scheme: What is in few bits.
    """
    return _arrays(config, jnp.dtype(dtype), scheme)


@functools.cache  # opening a checkpoint asks three times, and tracing takes 0.1 s
def _arrays(
    config: ModelConfig, dtype: np.dtype[Any], scheme: Scheme | None
) -> dict[Path, Array]:
    shapes = _flat(parameters.abstract(config, dtype, scheme))
    axes = _flat(parameters.logical_axes(config, scheme))
    return {
        path: Array(leaf.shape, np.dtype(leaf.dtype), axes[path])
        for path, leaf in shapes.items()
    }


def _flat(tree: PyTree) -> dict[Path, Any]:
    found, _ = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda node: isinstance(node, tuple)
    )
    return {
        tuple(getattr(key, "key", None) or key.name for key in path): leaf
        for path, leaf in found
    }


def _check_total(config: ModelConfig, result: Table) -> None:
    tree, missing = arrays(config, jnp.float32), []
    for path, (shape, _, _) in tree.items():
        pieces = result.by_leaf.get(path, [])
        filled = sum(math.prod(piece.turn.leaf_shape) for piece in pieces)
        places = {(piece.index, piece.turn.leaf) for piece in pieces}
        if filled != math.prod(shape) or len(places) != len(pieces):
            missing.append(f"{'/'.join(path)} ({filled} of {math.prod(shape)} values)")
    assert result.by_leaf.keys() <= tree.keys(), result.by_leaf.keys() - tree.keys()
    if missing:
        raise CheckpointError(
            f"no tensor fills {', '.join(missing)}",
            f"the names known of {config.family} checkpoints do not cover this model",
            "use a checkpoint of one of the releases",
        )


def _pieces(config: ModelConfig, layout: Layout) -> Iterator[Piece]:
    sizes = _sizes(config)
    rows = [r for r in layout.words if not (config.tied_head and "lm_head" in r.leaf)]
    yield from _write_out(rows, "", (), (), sizes)
    first = 0
    for group, size in group_sizes(config).items():
        for i in range(size):
            prefix = layout.layer.format(layer=first + i)
            yield from _write_out(layout.groups[group], prefix, (group,), (i,), sizes)
        first += size
    for i in range(config.mtp_layers):
        prefix = layout.layer.format(layer=first + i)
        yield from _write_out(layout.mtp, prefix, ("mtp",), (i,), sizes)
        block, path = layout.groups["moe_layers"], ("mtp", "block")
        yield from _write_out(block, prefix, path, (i,), sizes)


def _write_out(
    rows: Iterable[Row],
    prefix: str,
    path: Path,
    index: tuple[int, ...],
    sizes: Mapping[str, int],
) -> Iterator[Piece]:
    for row in rows:
        where = path + tuple(row.leaf.split("/"))
        turn = Turn.parse(row.turn, sizes)
        if "{expert}" not in row.source:
            yield Piece(prefix + row.source, None, where, index, turn, row.fp8)
            continue
        slotted = row.source.endswith("[{expert}]")
        for e in range(sizes["E"]):
            name = prefix + row.source.removesuffix("[{expert}]").format(expert=e)
            slot = e if slotted else None
            yield Piece(name, slot, where, (*index, e), turn, row.fp8)


def _sizes(config: ModelConfig) -> dict[str, int]:
    """Names every size; the letters are those of `r1jax.typing`."""
    attention, moe = config.attention, config.moe
    sizes = {"D": config.width, "V": config.vocab_size, "F": config.mlp_width}
    sizes |= {"N": attention.heads, "DD": 2 * config.width}
    if isinstance(attention, GqaConfig):
        half = attention.head_dim // 2
        sizes |= {"K": attention.kv_heads, "H": attention.head_dim}
        sizes |= {"half": half, "two": 2}
    else:
        nope, rope, value = attention.nope_dim, attention.rope_dim, attention.value_dim
        sizes |= {"C": attention.kv_rank, "CR": attention.latent_dim}
        sizes |= {"Q": attention.q_rank or 0, "HR": nope + rope}
        sizes |= {"H": nope, "W": value, "HW": nope + value}
    if moe:
        shared = moe.shared_experts * moe.expert_width
        sizes |= {"E": moe.experts, "FE": moe.expert_width, "FS": shared}
    empty = {n: size for n, size in sizes.items() if size < 1 and n not in ("Q", "FS")}
    if empty or config.layers < 1:
        raise ConfigError(
            f"the model has {config.layers} layers, and of its sizes {empty} are not "
            "positive",
            "there would be no weights (the letters are those of r1jax.typing)",
            "take the config that was released with the weights",
        )
    return sizes


def hf_layout(config: ModelConfig) -> Layout:
    """Returns the names of Hugging Face checkpoints."""
    attention = config.attention
    rows: tuple[Row, ...]
    if isinstance(attention, GqaConfig):
        rows = _GQA
        absent = set() if attention.qkv_bias else {"bias"}
        absent |= set() if attention.qk_norm else {"q_norm", "k_norm"}
    else:
        rows = _MLA
        latent = attention.q_rank is not None
        absent = {"q"} if latent else {"q_down", "q_down_norm", "q_up"}
    rows = _NORMS + tuple(r for r in rows if not absent & set(r.leaf.split("/")))
    shared = _SHARED if config.moe and config.moe.shared_experts else ()
    return Layout(
        layer="model.layers.{layer}.",
        words=_WORDS,
        groups={"dense_layers": rows + _MLP, "moe_layers": rows + _MOE + shared},
        mtp=_MTP,
    )


_WORDS = (
    Row("model.embed_tokens.weight", "embed/embedding", "V D -> V D"),
    Row("model.norm.weight", "final_norm/scale", "D -> D"),
    Row("lm_head.weight", "lm_head/kernel", "V D -> D V"),
)
_NORMS = (
    Row("input_layernorm.weight", "attention_norm/scale", "D -> D"),
    Row("post_attention_layernorm.weight", "mlp_norm/scale", "D -> D"),
)
_GQA = (
    Row("self_attn.q_proj.weight", "attention/q/kernel", "(N H) D -> D N H", True),
    Row("self_attn.k_proj.weight", "attention/k/kernel", "(K H) D -> D K H", True),
    Row("self_attn.v_proj.weight", "attention/v/kernel", "(K H) D -> D K H", True),
    Row("self_attn.q_proj.bias", "attention/q/bias", "(N H) -> N H"),
    Row("self_attn.k_proj.bias", "attention/k/bias", "(K H) -> K H"),
    Row("self_attn.v_proj.bias", "attention/v/bias", "(K H) -> K H"),
    Row("self_attn.q_norm.weight", "attention/q_norm/scale", "H -> H"),
    Row("self_attn.k_norm.weight", "attention/k_norm/scale", "H -> H"),
    Row("self_attn.o_proj.weight", "attention/o/kernel", "D (N H) -> N H D", True),
)
_Q_B = "self_attn.q_b_proj.weight"
_KV_B = "self_attn.kv_b_proj.weight"
_KV_A = "self_attn.kv_a_proj_with_mqa.weight"
_MLA = (
    Row("self_attn.q_proj.weight", "attention/q/kernel", "(N HR) D -> D N HR", True),
    Row("self_attn.q_a_proj.weight", "attention/q_down/kernel", "Q D -> D Q", True),
    Row("self_attn.q_a_layernorm.weight", "attention/q_down_norm/scale", "Q -> Q"),
    Row(_Q_B, "attention/q_up/kernel", "(N HR) Q -> Q N HR", True),
    Row(_KV_A, "attention/kv_down/kernel", "CR D -> D CR", True),
    Row("self_attn.kv_a_layernorm.weight", "attention/kv_norm/scale", "C -> C"),
    Row(_KV_B, "attention/k_up/kernel", "(N HW) C -> C N HW[:H]", True),
    Row(_KV_B, "attention/v_up/kernel", "(N HW) C -> C N HW[H:]", True),
    Row("self_attn.o_proj.weight", "attention/o/kernel", "D (N W) -> N W D", True),
)
_MLP = (
    Row("mlp.gate_proj.weight", "mlp/gate_up/kernel", "F D -> D 0 F", True),
    Row("mlp.up_proj.weight", "mlp/gate_up/kernel", "F D -> D 1 F", True),
    Row("mlp.down_proj.weight", "mlp/down/kernel", "D F -> F D", True),
)
_EXPERT = "mlp.experts.{expert}."
_MOE = (
    Row("mlp.gate.weight", "moe/router/kernel", "E D -> D E"),
    Row("mlp.gate.e_score_correction_bias", "moe/router/bias", "E -> E"),
    Row(_EXPERT + "gate_proj.weight", "moe/experts/gate_up", "FE D -> D 0 FE", True),
    Row(_EXPERT + "up_proj.weight", "moe/experts/gate_up", "FE D -> D 1 FE", True),
    Row(_EXPERT + "down_proj.weight", "moe/experts/down", "D FE -> FE D", True),
)
_SHARE, _SHARED_IN = "mlp.shared_experts.", "moe/shared/gate_up/kernel"
_SHARED = (
    Row(_SHARE + "gate_proj.weight", _SHARED_IN, "FS D -> D 0 FS", True),
    Row(_SHARE + "up_proj.weight", _SHARED_IN, "FS D -> D 1 FS", True),
    Row(_SHARE + "down_proj.weight", "moe/shared/down/kernel", "D FS -> FS D", True),
)
_MTP = (
    Row("embed_tokens.weight", "embed/embedding", "V D -> V D"),
    Row("enorm.weight", "embed_norm/scale", "D -> D"),
    Row("hnorm.weight", "hidden_norm/scale", "D -> D"),
    Row("eh_proj.weight", "projection/kernel", "D DD -> DD D"),
    Row("shared_head.norm.weight", "head_norm/scale", "D -> D"),
    Row("shared_head.head.weight", "lm_head/kernel", "V D -> D V"),
)
