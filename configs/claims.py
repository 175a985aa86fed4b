"""The paper's claims at the size of a toy: what each is shown by (docs/claims.md).

    python tools/claims.py zero --output runs/zero

Argument: the claim; `zero`, `cold-start` or `distill`. Hardware: a CPU. What stands
under the name of a run changes `configs/sft.py:nano`, `configs/grpo.py` or
`configs/reject.py`.
"""

from ml_collections import ConfigDict

CLAIMS = ("zero", "cold-start", "distill")


def get_config(claim: str = "zero") -> ConfigDict:
    """Returns the settings of a claim."""
    if claim not in CLAIMS:
        raise ValueError(f"{claim!r} is none of {', '.join(CLAIMS)}")
    config = ConfigDict()
    # Sums of numbers of one or two digits, asked in English.
    config.asked = dict(tasks=("add",), languages=("en",), digits=2)
    config.held_out = 1024  # problems that measure, the same ones for every seed
    config.max_tokens = 80  # of an answer, in all runs
    config.engine = dict(max_num_seqs=128, page_size=16)
    # A share of them without thoughts: a few problems, so that what is learnt is the
    # short way, and their answers by heart, but not those of other problems.
    config.lessons = dict(count=20000, direct=0.75, by_heart=400)
    config.model = "nano-ci" if claim != "distill" else "nano-dense"
    config.base = _lessons(700)
    config.rl = dict(
        steps=25,
        rewards=dict(accuracy=1.0, format=0.0),  # nothing else pays
        sampling=dict(prompts=32, widths=(64, 96, 128)),
        optimizer=dict(
            name="muon",
            learning_rate=0.002,
            adam_learning_rate=2e-4,
            warmup_steps=10,  # updates; a step has two
        ),
        export_dtype="float32",
    )
    if claim == "cold-start":
        config.thoughts = 1000  # lessons, all of them with thoughts
        config.cold = _lessons(40, learning_rate=0.005, adam_learning_rate=0.001)
    if claim == "distill":
        config.teacher = _lessons(900)
        config.keep = dict(problems=2500, rules=dict(samples=2, keep=2))
        config.student = _lessons(500, learning_rate=0.01, adam_learning_rate=0.002)
    return config


def _lessons(
    steps: int, learning_rate: float = 0.02, adam_learning_rate: float = 0.003
) -> ConfigDict:
    """Returns what a fine-tuning changes: `steps` batches of 2,048 tokens."""
    return ConfigDict(
        dict(
            steps=steps,
            data=dict(width=128, rows=16),
            loss=dict(mtp_weight=0.0),
            optimizer=dict(
                learning_rate=learning_rate,
                adam_learning_rate=adam_learning_rate,
                warmup_steps=20,
            ),
            export_dtype="float32",
        )
    )
