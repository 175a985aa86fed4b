"""DeepSeek-R1-0528-Qwen3-8B: the May 2025 R1's reasoning in Qwen3 8B.

    python -m r1jax.serve path/to/DeepSeek-R1-0528-Qwen3-8B

Hardware: 16.4 GB of weights and 147,456 bytes of cache a token in bfloat16.

Its `config.json` carries YaRN with a key of its own, `attn_factor`, that cancels
YaRN's magnitude: cos and sin are left alone, which is the default here.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the model's sizes."""
    config = ConfigDict()
    config.family = "qwen3"
    config.vocab_size = 151936
    config.width = 4096
    config.layers = config.dense_layers = 36
    config.mlp_width = 12288
    config.moe = None
    config.mtp_layers = 0
    config.tied_head = False
    config.norm_eps = 1e-6
    config.max_positions = 131072
    config.bos_id = 151643
    config.eos_ids = (151645,)
    config.attention = dict(heads=32, kv_heads=8, head_dim=128, qk_norm=True)
    config.attention.rope = dict(
        theta=1000000.0, scaling=dict(factor=4.0, original_positions=32768)
    )
    return config
