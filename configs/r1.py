"""DeepSeek-R1 and its relatives of the same shape: 671B parameters, 37.6B a token.

    python -m r1jax.serve path/to/DeepSeek-R1

Hardware: the weights take 1,342 GB in bfloat16 and 671 GB at 8 bits, and the cache
70,272 bytes a token in bfloat16: a pod slice.

Expect (published pass@1, R1): AIME 2024 79.8, MATH-500 97.3, GPQA Diamond 71.5,
LiveCodeBench 65.9.

Argument: which release. Their sizes are equal; weights and chat templates differ.
"""

from ml_collections import ConfigDict

NAMES = ("r1", "r1-zero", "v3-base", "v3-0324", "r1-0528")


def get_config(name: str = "r1") -> ConfigDict:
    """Returns the sizes of the release called `name`."""
    if name not in NAMES:
        raise ValueError(f"{name!r} is none of {', '.join(NAMES)}")
    config = ConfigDict()
    config.family = "deepseek_v3"
    config.vocab_size = 129280
    config.width = 7168
    config.layers = 61
    config.dense_layers = 3
    config.mlp_width = 18432
    config.mtp_layers = 1
    config.tied_head = False
    config.norm_eps = 1e-6
    config.max_positions = 163840
    config.bos_id = 0
    config.eos_ids = (1,)

    config.attention = dict(
        heads=128,
        q_rank=1536,
        kv_rank=512,
        nope_dim=128,
        rope_dim=64,
        value_dim=128,
    )
    config.attention.rope = dict(
        theta=10000.0,
        interleaved=True,
        scaling=dict(factor=40.0, original_positions=4096, softmax_mscale=1.0),
    )
    config.moe = dict(
        experts=256,
        experts_per_token=8,
        expert_width=2048,
        shared_experts=1,
        expert_groups=8,
        groups_per_token=4,
        routed_scale=2.5,
    )
    return config
