"""Rejection sampling on the project's own arithmetic: right answers become lessons.

    python -m r1jax.train configs/reject.py --set model=CHECKPOINT --output runs/kept

`kept.jsonl` is what configs/sft.py takes as data.files, for the model or a student. A
teacher behind a URL is asked with `url` in place of `model`. `nano` is what r1-nano was
made by.
"""

from ml_collections import ConfigDict


def get_config(what: str = "") -> ConfigDict:
    """Returns the settings of a run."""
    if what not in ("", "nano"):
        raise ValueError(f"{what!r} is not nano")
    config = ConfigDict()
    config.kind = "reject"
    config.model = ""  # a checkpoint with a tokenizer and a chat template
    config.engine = dict(max_num_seqs=64, page_size=16)  # that asks it
    config.url = ""  # or a server of OpenAI's chat completions, and then:
    config.url_model = ""  # its first one by default
    config.api_key = ""  # OPENAI_API_KEY of the environment by default
    config.url_concurrency = 16
    config.tasks = ()  # names of r1jax.problems.TASKS; none for all
    config.languages = ()  # "en" or "de"; none for both
    config.digits = 4  # of the longest operands
    config.seed = 0
    config.problems = 1000
    config.rules = dict(
        samples=16, keep=2, temperature=1.0, max_tokens=192, language=1.0
    )
    if what == "nano":
        config.problems = 3000
        config.rules.update(samples=2, keep=1, max_tokens=256)
    return config
