"""Every part of R1 in a few million weights, trained on this project's arithmetic.

    python -c "import r1jax; print(r1jax.load('nano').config)"

Hardware: any CPU. 2.5M weights, 3.5M with the layer that predicts a second token: 6.9
MB in bfloat16. Expect tokens without sense from the preset: its weights are random.

Argument: which size; `nano-ci` is what a test can train in minutes, and `nano-dense` a
student without experts, of the small distills' family. The vocabulary is that of
`r1jax.problems.tokenizer`.
"""

from ml_collections import ConfigDict

SIZES = {
    "nano": dict(
        width=128,
        layers=4,
        mlp_width=384,
        mtp_layers=1,
        attention=dict(
            heads=4, q_rank=96, kv_rank=64, nope_dim=32, rope_dim=16, value_dim=32
        ),
        moe=dict(experts=16, experts_per_token=2, expert_width=96),
    ),
    "nano-ci": dict(
        width=64,
        layers=3,
        mlp_width=128,
        mtp_layers=0,
        attention=dict(
            heads=4, q_rank=32, kv_rank=32, nope_dim=16, rope_dim=8, value_dim=16
        ),
        moe=dict(experts=8, experts_per_token=2, expert_width=24),
    ),
    "nano-dense": dict(
        family="qwen2",
        width=64,
        layers=2,
        dense_layers=2,
        mlp_width=192,
        mtp_layers=0,
        attention=dict(heads=4, kv_heads=2, head_dim=16, qkv_bias=True),
        moe=None,
    ),
}


def get_config(size: str = "nano") -> ConfigDict:
    """Returns the sizes of r1-nano, its smaller sister, or a dense student."""
    if size not in SIZES:
        raise ValueError(f"{size!r} is none of {', '.join(SIZES)}")
    config = ConfigDict()
    config.family = "deepseek_v3"
    config.vocab_size = 768
    config.dense_layers = 1
    config.tied_head = False
    config.norm_eps = 1e-6
    config.max_positions = 2048
    config.bos_id = 0
    config.eos_ids = (1,)
    config.update(SIZES[size])
    config.attention.rope = dict(theta=10000.0)
    if config.moe is not None:
        config.attention.rope.interleaved = True
        config.moe.update(
            shared_experts=1, expert_groups=4, groups_per_token=2, routed_scale=2.5
        )
    return config
