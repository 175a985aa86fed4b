"""Every part of the real models at toy size: for tests, laptops and reading.

    python -c "import r1jax; print(r1jax.load('tiny-r1').generate([[3, 4, 5]]))"

Hardware: any. Expect tokens without sense: the weights are random.

Argument: the family. Between them they have every switch that the released models
have (and a tied head, which none of those has but other Llamas do). Contexts reach
past the scaled rope's original length, so that its frequencies matter.
"""

from ml_collections import ConfigDict

ATTENTION = dict(heads=4, kv_heads=2, head_dim=16)
FAMILIES = {
    "r1": dict(
        family="deepseek_v3",
        layers=3,
        dense_layers=1,
        mtp_layers=1,
        attention=dict(
            heads=4,
            q_rank=48,
            kv_rank=32,
            nope_dim=16,
            rope_dim=8,
            value_dim=16,
            rope=dict(
                theta=10000.0,
                interleaved=True,
                scaling=dict(factor=16.0, original_positions=64, softmax_mscale=1.0),
            ),
        ),
        moe=dict(
            experts=16,
            experts_per_token=4,
            expert_width=32,
            shared_experts=1,
            expert_groups=4,
            groups_per_token=2,
            routed_scale=2.5,
        ),
    ),
    "qwen2": dict(
        family="qwen2",
        attention=dict(ATTENTION, qkv_bias=True, rope=dict(theta=10000.0)),
    ),
    "llama": dict(
        family="llama",
        tied_head=True,
        attention=dict(
            ATTENTION,
            rope=dict(
                theta=500000.0,
                scaling=dict(
                    factor=8.0,
                    low_freq_factor=1.0,
                    high_freq_factor=4.0,
                    original_positions=128,
                ),
            ),
        ),
    ),
    "qwen3": dict(
        family="qwen3",
        attention=dict(
            heads=4,
            kv_heads=2,
            head_dim=32,
            qk_norm=True,
            rope=dict(
                theta=1000000.0, scaling=dict(factor=4.0, original_positions=256)
            ),
        ),
    ),
}


def get_config(family: str = "r1") -> ConfigDict:
    """Returns the sizes of the toy model of a family."""
    if family not in FAMILIES:
        raise ValueError(f"{family!r} is none of {', '.join(FAMILIES)}")
    config = ConfigDict()
    config.vocab_size = 512
    config.width = 64
    config.layers = config.dense_layers = 2
    config.mlp_width = 128
    config.moe = None
    config.mtp_layers = 0
    config.tied_head = False
    config.norm_eps = 1e-6
    config.max_positions = 1024
    config.bos_id = 0
    config.eos_ids = (1,)
    config.update(FAMILIES[family])
    return config
