"""A run of reinforcement learning: from a checkpoint to a checkpoint."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from r1jax.load import load
from r1jax.quant import FLOATS
from r1jax.train import forward, grpo, lora, optimizer, reject
from r1jax.train.checkpoints import Checkpoints
from r1jax.train.grpo import Learner, Policy, Settings, Whole
from r1jax.train.interrupts import interrupts
from r1jax.train.log import Log
from r1jax.train.lora import Lora
from r1jax.train.models import describe, export
from r1jax.train.objective import Objective
from r1jax.train.rewards import weighed
from r1jax.train.rollout import Prompt
from r1jax.train.settings import (
    COMPUTED,
    among,
    at_least,
    draw_problems,
    in_common,
)
from r1jax.train.state import State
from r1jax.typing import PyTree

Say = Callable[[str], None]

_LEAST = {"steps": 1, "save_every": 1, "keep": 1, "seed": 0, "lora.rank": 0}
# What a resumed run may have otherwise.
_FREE = ("save_every", "keep", "export_dtype", "engine")


def run(settings: ConfigDict, output: Path, resume: bool, say: Say = print) -> bool:
    """Trains on one device, and writes checkpoints, metrics and the model.

    Args:
      settings: As in configs/grpo.py.
      output: The directory.
      resume: Whether to go on with its newest checkpoint.
      say: Takes what is to be read.

    Returns:
      Whether all steps were done; False after Ctrl-C, which saves.

    Raises:
      R1jaxError: Something is wrong with the settings or the checkpoint.
    """
    at_least(settings, _LEAST)
    among(settings, {"export_dtype": FLOATS, "dtype": COMPUTED})
    objective = Objective(**settings.objective)
    how = Settings(objective, **settings.sampling, seed=settings.seed)
    judge = weighed({k: v for k, v in settings.rewards.items() if v})
    draw_problems(settings, 1, settings.seed)  # refuses tasks that there are not
    choice = optimizer.Optimizer(steps=settings.steps, **settings.optimizer)
    tools = optimizer.build(choice)
    adapters = Lora(**settings.lora) if settings.lora.rank else None
    muon = {"optimizer.name=muon": settings.optimizer.name == "muon"}
    lora.refuse_with_adapters(adapters, muon)
    config, source = describe(settings.model, mtp=False)
    computed, longest = settings.dtype, max(how.widths)
    llm = load(settings.model, dtype=computed, max_model_len=longest, **settings.engine)
    policy = _begin(forward.cast(llm.params, "float32"), tools, adapters, settings.seed)
    about = in_common(settings, _FREE)

    def prompts(step: int) -> list[Prompt[Any]]:
        seed = settings.seed + 1_000_003 * (step + 1)
        return reject.ask(llm, draw_problems(settings, how.prompts, seed))

    def score(params: Any, packed: Any) -> Any:
        narrow = forward.cast(params, computed)
        return forward.score(config, narrow, packed).logprobs

    learner = Learner(score, tools, objective, how.temperature, _whole(adapters))
    output.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(llm), Checkpoints(output, settings.keep) as saved:
        if resume:
            found = saved.restore(_state(policy), about)
            policy = Policy(
                found.params,
                found.opt_state,
                found.reference,
                int(found.step),
                found.base,
            )
            say(f"goes on after step {policy.step}")
        else:
            saved.check_new()
        steps = grpo.train(llm, policy, learner, prompts, judge, how, settings.steps)
        with Log(output, settings.steps, policy.step) as log:
            _take(steps, settings, log, lambda: saved.save(_state(policy), about))
            picture = log.close()
    if picture:
        say(f"drew {picture}")
    if policy.step < settings.steps:
        say(f"stopped and saved after step {policy.step}; --resume goes on")
        return False
    dtype, now = settings.export_dtype, _state(policy)
    place = export(config, source, now, adapters, output, dtype, untrained=True)
    say(f"wrote {place}")
    return True


def _begin(params: PyTree, tools: Any, adapters: Lora | None, seed: int) -> Policy:
    """Starts from a model's parameters: all learn, or adapters on them."""
    if adapters is None:
        return Policy.begin(params, tools)
    some = lora.init(params, adapters, jax.random.key(seed))
    return Policy.begin(some, tools, params)


def _whole(adapters: Lora | None) -> Whole:
    """Returns what makes the model's parameters of those that learn and the frozen."""
    if adapters is None:
        return lambda params, base: params
    return jax.jit(lambda params, base: lora.merge(base, params, adapters))


def _take(
    steps: Iterator[dict[str, float]],
    settings: ConfigDict,
    log: Log,
    save: Callable[[], None],
) -> None:
    """Logs the steps as they are done, until the last or Ctrl-C; both are saved."""
    began = time.perf_counter()
    with interrupts() as stopped:
        for numbers in steps:
            now = time.perf_counter()
            step = int(numbers.pop("step"))
            log.write(step, **numbers, seconds=now - began)
            began = now
            ends = stopped()
            if ends or step % settings.save_every == 0 or step == settings.steps:
                save()
            if ends:
                break


def _state(policy: Policy) -> State:
    return State(
        policy.params,
        policy.opt_state,
        jnp.int32(policy.step),
        policy.reference,
        policy.base,
    )
