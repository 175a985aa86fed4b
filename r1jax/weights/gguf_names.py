"""The rows of GGUF files: their tensor names, for the table of `r1jax.weights.names`.

Two things differ from Hugging Face's files beside the names. Files of the `llama`
architecture have the rows of queries and keys reordered within each head so that pairs
(i, i + H/2) lie side by side; here they are laid back. And experts are one tensor.
"""

from collections.abc import Container

from r1jax.config import GqaConfig, ModelConfig
from r1jax.weights.names import Layout, Row

# Frequency factors of Llama 3.1: they are read with the config.
ROPE_FACTORS = "rope_freqs.weight"


def gguf_layout(config: ModelConfig, found: Container[str]) -> Layout:
    """Returns the names of a GGUF file.

    Args:
      config: The model.
      found: The file's tensors; they tell which of two forms the keys' and values'
        matrices of MLA have.
    """
    attention = config.attention
    rows: tuple[Row, ...]
    if isinstance(attention, GqaConfig):
        rows = (_LLAMA if config.family == "llama" else _HALVES) + _GQA
        absent = set() if attention.qkv_bias else {"bias"}
        absent |= set() if attention.qk_norm else {"q_norm", "k_norm"}
    else:
        rows = _MLA + (_JOINED if "blk.0.attn_kv_b.weight" in found else _SPLIT)
        latent = attention.q_rank is not None
        absent = {"q"} if latent else {"q_down", "q_down_norm", "q_up"}
    rows = _NORMS + tuple(r for r in rows if not absent & set(r.leaf.split("/")))
    shared = _SHARED if config.moe and config.moe.shared_experts else ()
    return Layout(
        layer="blk.{layer}.",
        words=_WORDS,
        groups={"dense_layers": rows + _MLP, "moe_layers": rows + _MOE + shared},
    )


def harmless(name: str, found: Container[str]) -> bool:
    """Tells whether a tensor may be there without a place in the tree.

    Some files hold MLA's keys and values in both forms.
    """
    joined = name.replace("attn_k_b", "attn_kv_b").replace("attn_v_b", "attn_kv_b")
    return name == ROPE_FACTORS or (joined != name and joined in found)


_WORDS = (
    Row("token_embd.weight", "embed/embedding", "V D -> V D"),
    Row("output_norm.weight", "final_norm/scale", "D -> D"),
    Row("output.weight", "lm_head/kernel", "V D -> D V"),
)
_NORMS = (
    Row("attn_norm.weight", "attention_norm/scale", "D -> D"),
    Row("ffn_norm.weight", "mlp_norm/scale", "D -> D"),
)
_HALVES = (
    Row("attn_q.weight", "attention/q/kernel", "(N H) D -> D N H"),
    Row("attn_k.weight", "attention/k/kernel", "(K H) D -> D K H"),
)
_LLAMA = (
    Row("attn_q.weight", "attention/q/kernel", "(N half two) D -> D N (two half)"),
    Row("attn_k.weight", "attention/k/kernel", "(K half two) D -> D K (two half)"),
)
_GQA = (
    Row("attn_v.weight", "attention/v/kernel", "(K H) D -> D K H"),
    Row("attn_q.bias", "attention/q/bias", "(N H) -> N H"),
    Row("attn_k.bias", "attention/k/bias", "(K H) -> K H"),
    Row("attn_v.bias", "attention/v/bias", "(K H) -> K H"),
    Row("attn_q_norm.weight", "attention/q_norm/scale", "H -> H"),
    Row("attn_k_norm.weight", "attention/k_norm/scale", "H -> H"),
    Row("attn_output.weight", "attention/o/kernel", "D (N H) -> N H D"),
)
_MLA = (
    Row("attn_q.weight", "attention/q/kernel", "(N HR) D -> D N HR"),
    Row("attn_q_a.weight", "attention/q_down/kernel", "Q D -> D Q"),
    Row("attn_q_a_norm.weight", "attention/q_down_norm/scale", "Q -> Q"),
    Row("attn_q_b.weight", "attention/q_up/kernel", "(N HR) Q -> Q N HR"),
    Row("attn_kv_a_mqa.weight", "attention/kv_down/kernel", "CR D -> D CR"),
    Row("attn_kv_a_norm.weight", "attention/kv_norm/scale", "C -> C"),
    Row("attn_output.weight", "attention/o/kernel", "D (N W) -> N W D"),
)
_JOINED = (
    Row("attn_kv_b.weight", "attention/k_up/kernel", "(N HW) C -> C N HW[:H]"),
    Row("attn_kv_b.weight", "attention/v_up/kernel", "(N HW) C -> C N HW[H:]"),
)
_SPLIT = (
    Row("attn_k_b.weight", "attention/k_up/kernel", "N C H -> C N H"),
    Row("attn_v_b.weight", "attention/v_up/kernel", "N W C -> C N W"),
)
_MLP = (
    Row("ffn_gate.weight", "mlp/gate_up/kernel", "F D -> D 0 F"),
    Row("ffn_up.weight", "mlp/gate_up/kernel", "F D -> D 1 F"),
    Row("ffn_down.weight", "mlp/down/kernel", "D F -> F D"),
)
_MOE = (
    Row("ffn_gate_inp.weight", "moe/router/kernel", "E D -> D E"),
    Row("exp_probs_b.bias", "moe/router/bias", "E -> E"),
    Row("ffn_gate_exps.weight[{expert}]", "moe/experts/gate_up", "FE D -> D 0 FE"),
    Row("ffn_up_exps.weight[{expert}]", "moe/experts/gate_up", "FE D -> D 1 FE"),
    Row("ffn_down_exps.weight[{expert}]", "moe/experts/down", "D FE -> FE D"),
)
_SHARED = (
    Row("ffn_gate_shexp.weight", "moe/shared/gate_up/kernel", "FS D -> D 0 FS"),
    Row("ffn_up_shexp.weight", "moe/shared/gate_up/kernel", "FS D -> D 1 FS"),
    Row("ffn_down_shexp.weight", "moe/shared/down/kernel", "D FS -> FS D"),
)
