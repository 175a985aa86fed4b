"""DeepSeek-R1-Distill-Qwen: R1's reasoning in Qwen2.5 models.

    python -m r1jax.serve path/to/DeepSeek-R1-Distill-Qwen-1.5B

Argument: the size. Memory is for bfloat16; expect (published pass@1):

    size   weights    cache a token   AIME 2024   MATH-500   GPQA Diamond
    1.5b    3.6 GB      28,672 B         28.9       83.9         33.8
    7b     15.2 GB      57,344 B         55.5       92.8         49.1
    14b    29.5 GB     196,608 B         69.7       93.9         59.1
    32b    65.5 GB     262,144 B         72.6       94.3         62.1

The two small ones descend from Qwen2.5-Math, the others from Qwen2.5: hence their
two values of `theta` and `norm_eps`. None of them ties its head to the embedding.
"""

from ml_collections import ConfigDict

SIZES = {
    "1.5b": dict(
        vocab_size=151936,
        width=1536,
        layers=28,
        mlp_width=8960,
        norm_eps=1e-6,
        attention=dict(heads=12, kv_heads=2, rope=dict(theta=10000.0)),
    ),
    "7b": dict(
        vocab_size=152064,
        width=3584,
        layers=28,
        mlp_width=18944,
        norm_eps=1e-6,
        attention=dict(heads=28, kv_heads=4, rope=dict(theta=10000.0)),
    ),
    "14b": dict(
        vocab_size=152064,
        width=5120,
        layers=48,
        mlp_width=13824,
        norm_eps=1e-5,
        attention=dict(heads=40, kv_heads=8, rope=dict(theta=1000000.0)),
    ),
    "32b": dict(
        vocab_size=152064,
        width=5120,
        layers=64,
        mlp_width=27648,
        norm_eps=1e-5,
        attention=dict(heads=40, kv_heads=8, rope=dict(theta=1000000.0)),
    ),
}


def get_config(size: str = "1.5b") -> ConfigDict:
    """Returns the sizes of the distill called `size`."""
    if size not in SIZES:
        raise ValueError(f"{size!r} is none of {', '.join(SIZES)}")
    config = ConfigDict(SIZES[size])
    config.family = "qwen2"
    config.dense_layers = config.layers
    config.moe = None
    config.mtp_layers = 0
    config.tied_head = False
    config.max_positions = 131072
    config.bos_id = 151643
    config.eos_ids = (151643,)
    config.attention.head_dim = 128
    config.attention.qkv_bias = True
    return config
