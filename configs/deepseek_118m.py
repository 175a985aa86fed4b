"""A DeepSeek-V3 of 118M parameters: what benchmarks on small machines measure.

    python -c "import r1jax; print(r1jax.load('deepseek-118m').generate([[3, 4, 5]]))"

Hardware: a laptop. The weights take 472 MB in float32, and the cache 9,216 bytes a
token; 41.0M parameters are at work on each token, embedding and head included.
Expect tokens without sense: the weights are random.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the model's sizes: 118,092,512 parameters."""
    config = ConfigDict()
    config.family = "deepseek_v3"
    config.vocab_size = 16384
    config.width = 512
    config.layers = 8
    config.dense_layers = 1
    config.mlp_width = 1536
    config.mtp_layers = 0
    config.tied_head = False
    config.norm_eps = 1e-6
    config.max_positions = 16384
    config.bos_id = 0
    config.eos_ids = (1,)

    config.attention = dict(
        heads=8,
        q_rank=256,
        kv_rank=256,
        nope_dim=64,
        rope_dim=32,
        value_dim=64,
    )
    config.attention.rope = dict(
        theta=10000.0,
        interleaved=True,
        scaling=dict(factor=4.0, original_positions=4096, softmax_mscale=1.0),
    )
    config.moe = dict(
        experts=32,
        experts_per_token=4,
        expert_width=256,
        shared_experts=1,
        expert_groups=8,
        groups_per_token=4,
        routed_scale=2.5,
    )
    return config
