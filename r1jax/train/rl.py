"""A run of reinforcement learning: from a checkpoint to a checkpoint."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from r1jax.errors import ConfigError
from r1jax.load import load
from r1jax.problems import TASKS, Problem, draw
from r1jax.problems.drawing import LANGUAGES
from r1jax.quant import FLOATS
from r1jax.sharding import make_mesh
from r1jax.train import forward, grpo, optimizer, reject, sft
from r1jax.train.checkpoints import Checkpoints
from r1jax.train.grpo import Learner, Policy, Settings
from r1jax.train.log import Log
from r1jax.train.objective import Objective
from r1jax.train.rewards import weighed
from r1jax.train.rollout import Prompt
from r1jax.train.settings import among, at_least
from r1jax.train.state import State

Say = Callable[[str], None]


def run(settings: ConfigDict, output: Path, resume: bool, say: Say = print) -> bool:
    """Trains on one device, and writes checkpoints, metrics and the model.

    Args:
      settings: As in configs/grpo.py.
      output: The directory.
      resume: Whether to go on with its newest checkpoint.
      say: Takes what is to be read.

    Returns:
      True: all steps were done.

    Raises:
      R1jaxError: Something is wrong with the settings or the checkpoint.
    """
    at_least(settings, {"steps": 1, "save_every": 1, "keep": 1, "seed": 0})
    among(settings, {"export_dtype": FLOATS})
    objective = Objective(**settings.objective)
    how = Settings(objective, **settings.sampling, seed=settings.seed)
    judge = weighed({k: v for k, v in settings.rewards.items() if v})
    _problems(settings, 1, settings.seed)  # refuses tasks that there are not
    choice = optimizer.Optimizer(steps=settings.steps, **settings.optimizer)
    tools = optimizer.build(choice)
    model = sft.open_model(settings.model, make_mesh(1, 1), False, settings.seed)
    longest = max(how.widths)
    llm = load(
        settings.model, dtype="float32", max_model_len=longest, **settings.engine
    )
    policy, about = Policy.begin(model.params, tools), _about(settings)

    def prompts(step: int) -> list[Prompt[Any]]:
        seed = settings.seed + 1_000_003 * (step + 1)
        return reject.ask(llm, _problems(settings, how.prompts, seed))

    def score(params: Any, packed: Any) -> Any:
        return forward.score(model.config, params, packed).logprobs

    learner = Learner(score, tools, objective, how.temperature)
    output.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(llm), Checkpoints(output, settings.keep) as saved:
        if resume:
            found = saved.restore(_state(policy), about)
            policy = Policy(
                found.params, found.opt_state, found.reference, int(found.step)
            )
            say(f"goes on after step {policy.step}")
        else:
            saved.check_new()
        steps = grpo.train(llm, policy, learner, prompts, judge, how, settings.steps)
        with Log(output, settings.steps, policy.step) as log:
            began = time.perf_counter()
            for numbers in steps:
                now = time.perf_counter()
                step = int(numbers.pop("step"))
                log.write(step, **numbers, seconds=now - began)
                began = now
                if step % settings.save_every == 0 or step == settings.steps:
                    saved.save(_state(policy), about)
            picture = log.close()
    if picture:
        say(f"drew {picture}")
    place = sft.export(model, _state(policy), None, output, settings.export_dtype)
    say(f"wrote {place}")
    return True


def run_reject(
    settings: ConfigDict, output: Path, resume: bool, say: Say = print
) -> bool:
    """Writes a model's own right answers to `kept.jsonl` in a directory.

    Args:
      settings: As in configs/reject.py.
      output: The directory.
      resume: Refused: one sampling is one piece.
      say: Takes what is to be read.

    Returns:
      True: the file is whole.

    Raises:
      R1jaxError: Something is wrong with the settings or the model.
    """
    if resume:
        raise ConfigError(
            "--resume with rejection sampling",
            "its answers are written when all are there",
            "leave it out, and name another --output",
        )
    at_least(settings, {"problems": 1, "seed": 0})
    rules = reject.Rules(**settings.rules)
    problems = _problems(settings, settings.problems, settings.seed)
    llm = load(settings.model, **settings.engine)
    try:
        prompts = reject.ask(llm, problems)
        output.mkdir(parents=True, exist_ok=True)
        kept = reject.keep(llm, llm.params, prompts, rules, settings.seed)
        count = reject.write(output / "kept.jsonl", kept)
    finally:
        llm.close()
    say(f"kept {count} of {len(problems) * rules.samples} answers")
    return True


def _problems(settings: ConfigDict, count: int, seed: int) -> list[Problem]:
    """Draws problems of training, of the kinds that the settings name."""
    return draw(
        tuple(settings.tasks) or TASKS,
        count,
        seed,
        split="train",
        languages=tuple(settings.languages) or LANGUAGES,
        digits=settings.digits,
    )


def _state(policy: Policy) -> State:
    return State(
        policy.params,
        policy.opt_state,
        jnp.int32(policy.step),
        policy.reference,
        None,
    )


def _about(settings: ConfigDict) -> dict[str, Any]:
    """Says what a resumed run must have in common with its beginning."""
    free = ("save_every", "keep", "export_dtype", "engine")
    return {k: repr(v) for k, v in settings.to_dict().items() if k not in free}
