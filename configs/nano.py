"""Every part of R1 in a few million weights, trained on this project's arithmetic.

    python -c "import r1jax; print(r1jax.load('nano').config)"

Hardware: any CPU. 3.7M weights, 4.8M with the layer that predicts a second token: 9.7
MB in bfloat16. Expect tokens without sense from the preset: its weights are random.

Argument: which size; `nano-ci` is what a test can train in minutes. The vocabulary is
that of `r1jax.problems.tokenizer`.
"""

from ml_collections import ConfigDict

SIZES = {
    "nano": dict(
        width=192,
        layers=5,
        mlp_width=512,
        mtp_layers=1,
        attention=dict(
            heads=6, q_rank=96, kv_rank=64, nope_dim=32, rope_dim=16, value_dim=32
        ),
        moe=dict(experts=16, experts_per_token=4, expert_width=64),
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
}


def get_config(size: str = "nano") -> ConfigDict:
    """Returns the sizes of r1-nano, or of its smaller sister."""
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
    config.moe = dict(
        shared_experts=1, expert_groups=4, groups_per_token=2, routed_scale=2.5
    )
    config.update(SIZES[size])
    config.attention.rope = dict(theta=10000.0, interleaved=True)
    return config
