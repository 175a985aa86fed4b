"""Reinforcement learning on the project's own arithmetic, as R1 did it.

    python -m r1jax.train configs/grpo.py --set model=CHECKPOINT --output runs/grpo

A toy's values, for a CPU; R1's stand beside them (arXiv 2501.12948 v2). The checkpoint
must have learnt to answer already: rewards that are all 0 teach nothing. Arguments:
`full` moves all parameters, `lora` trains adapters: `configs/grpo.py:lora`; `nano` is
what r1-nano was made by.
"""

from ml_collections import ConfigDict


def get_config(what: str = "full") -> ConfigDict:
    """Returns the settings of a run."""
    if what not in ("full", "lora", "nano"):
        raise ValueError(f"{what!r} is none of full, lora, nano")
    config = ConfigDict()
    config.kind = "grpo"
    config.model = ""  # a checkpoint with a tokenizer and a chat template
    config.tasks = ()  # names of r1jax.problems.TASKS; none for all
    config.languages = ()  # "en" or "de"; none for both
    config.digits = 4  # of the longest operands
    config.seed = 0
    config.steps = 100  # R1-Zero: 10,400
    config.save_every = 50
    config.keep = 2
    config.dtype = "float32"  # of sampling and learning; the weights stay float32
    config.export_dtype = "bfloat16"
    config.rewards = dict(accuracy=1.0, format=0.1, language=0.0)  # R1: 1 each
    config.objective = dict(
        epsilon=0.2,  # R1: 10
        eps_high=0.2,  # R1: 10
        beta=0.001,
        loss_agg="sequence-mean",
        scale_rewards="group-std",
        sequence_ratio=False,
    )
    config.sampling = dict(
        group=16,
        prompts=16,  # R1: 512, in 16 minibatches of 32
        temperature=1.0,  # second stage of R1: 0.7
        max_tokens=192,  # R1: 32,768, later 65,536
        minibatches=2,  # R1: 16
        epochs=1,
        widths=(96, 160, 320),
        tokens_at_once=2560,
        refresh=400,
    )
    config.engine = dict(max_num_seqs=64, page_size=16)
    config.optimizer = dict(
        name="adamw",
        learning_rate=2e-4,  # R1: 3e-6
        adam_learning_rate=2e-4,
        final_fraction=1.0,
        warmup_steps=10,
        beta1=0.9,
        beta2=0.95,
        weight_decay=0.0,
        clip=1.0,
    )
    kernels = ("q", "k", "v", "o", "gate_up", "down") if what == "lora" else ()
    config.lora = dict(rank=16 if what == "lora" else 0, alpha=32.0, kernels=kernels)
    if what == "nano":
        config.steps, config.save_every = 20, 10
        config.tasks = ("subtract", "compare", "multiply", "two-step", "countdown")
        config.sampling.update(prompts=32, max_tokens=256, widths=(96, 160, 320))
        config.optimizer.update(
            name="muon", learning_rate=0.001, adam_learning_rate=2e-4, warmup_steps=5
        )
    return config
