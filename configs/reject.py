"""Rejection sampling on the project's own arithmetic: right answers become lessons.

    python -m r1jax.train configs/reject.py --set model=CHECKPOINT --output runs/kept

`kept.jsonl` is what configs/sft.py takes as data.files, for the model or a student.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the settings of a run."""
    config = ConfigDict()
    config.kind = "reject"
    config.model = ""  # a checkpoint with a tokenizer and a chat template
    config.tasks = ()  # names of r1jax.problems.TASKS; none for all
    config.languages = ()  # "en" or "de"; none for both
    config.digits = 4  # of the longest operands
    config.seed = 0
    config.problems = 1000
    config.rules = dict(
        samples=16, keep=2, temperature=1.0, max_tokens=192, language=1.0
    )
    config.engine = dict(max_num_seqs=64, page_size=16)
    return config
