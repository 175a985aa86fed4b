"""DeepSeek-R1-Distill-Llama: R1's reasoning in Llama 3.1 8B and Llama 3.3 70B.

    python -m r1jax.serve path/to/DeepSeek-R1-Distill-Llama-8B

Argument: the size. Memory is for bfloat16; expect (published pass@1):

    size    weights    cache a token   AIME 2024   MATH-500   GPQA Diamond
    8b      16.1 GB     131,072 B         50.4       89.1         49.0
    70b    141.1 GB     327,680 B         70.0       94.5         65.2
"""

from ml_collections import ConfigDict

SIZES = {
    "8b": dict(
        width=4096,
        layers=32,
        mlp_width=14336,
        attention=dict(heads=32, kv_heads=8),
        eos_ids=(128001,),
    ),
    "70b": dict(
        width=8192,
        layers=80,
        mlp_width=28672,
        attention=dict(heads=64, kv_heads=8),
        eos_ids=(128001, 128008, 128009),
    ),
}


def get_config(size: str = "8b") -> ConfigDict:
    """Returns the sizes of the distill called `size`."""
    if size not in SIZES:
        raise ValueError(f"{size!r} is none of {', '.join(SIZES)}")
    config = ConfigDict(SIZES[size])
    config.family = "llama"
    config.vocab_size = 128256
    config.dense_layers = config.layers
    config.moe = None
    config.mtp_layers = 0
    config.tied_head = False
    config.norm_eps = 1e-5
    config.max_positions = 131072
    config.bos_id = 128000
    config.attention.head_dim = 128
    config.attention.rope = dict(
        theta=500000.0,
        scaling=dict(
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_positions=8192,
        ),
    )
    return config
