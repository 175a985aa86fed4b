r"""Supervised fine-tuning on conversations: a distillation in R1's manner.

    python -m r1jax.train configs/sft.py --set model=CHECKPOINT \
        --set data.files=answers.jsonl --output runs/sft

Arguments: `full` moves all parameters, `lora` trains adapters on every projection of
attention and feed-forward: `configs/sft.py:lora`. Learning rates are those of R1's
distills (arXiv 2501.12948 v2: 1e-4 for 1.5B falling to a tenth, less for larger ones).
`nano` begins a small model from random weights, with the prediction layer, by Muon;
`nano-again` goes on with it after reinforcement learning.
"""

from ml_collections import ConfigDict

KINDS = ("full", "lora", "nano", "nano-again")


def get_config(what: str = "full") -> ConfigDict:
    """Returns the settings of a run."""
    if what not in KINDS:
        raise ValueError(f"{what!r} is none of {', '.join(KINDS)}")
    config = ConfigDict()
    config.kind = "sft"
    config.model = ""  # a checkpoint, or a preset's name for random weights
    config.tokenizer = ""  # a directory; by default the checkpoint's own
    config.seed = 0
    config.steps = 1000
    config.save_every = 200
    config.keep = 2
    config.export_dtype = "bfloat16"
    config.export_every_save = False  # the last state always is
    config.mesh = dict(data=1, tensor=1)
    # One batch is parts x rows x width tokens; gradients are added up over parts.
    config.data = dict(files=(), width=4096, rows=4, parts=1, drop_longer=False)
    config.loss = dict(
        dtype="float32",
        remat=False,
        unroll=False,
        # The prediction layer's weight, and what it is from a share of the steps on.
        mtp_weight=0.0,  # V3: 0.3
        mtp_weight_later=0.0,  # V3: 0.1
        mtp_later_from=1.0,  # never; V3: 0.68
        balance_weight=0.0,
        bias_speed=0.0,  # V3: 0.001, and 0 from 0.966 of the steps on
        bias_falls_from=1.0,
    )
    config.optimizer = dict(
        name="adamw",
        learning_rate=1e-4 if what == "full" else 2e-4,
        adam_learning_rate=1e-4,
        final_fraction=0.1,
        warmup_steps=20,
        beta1=0.9,
        beta2=0.95,
        weight_decay=0.0,
        clip=1.0,
    )
    kernels = ("q", "k", "v", "o", "gate_up", "down") if what == "lora" else ()
    config.lora = dict(rank=16 if what == "lora" else 0, alpha=32.0, kernels=kernels)
    if what in ("nano", "nano-again"):
        config.model = "nano"
        config.steps, config.save_every = 12_000, 500
        config.data.update(width=256, rows=10, drop_longer=True)
        # The bias moves faster than V3's 0.001: there are fewer steps to balance in.
        config.loss.update(unroll=True, mtp_weight=0.1)
        config.loss.update(bias_speed=0.01, bias_falls_from=0.0)
        config.optimizer.update(
            name="muon", learning_rate=0.02, adam_learning_rate=0.003
        )
    if what == "nano-again":
        config.model, config.steps = "", 6000
        config.optimizer.update(learning_rate=0.012, adam_learning_rate=0.0018)
    return config
