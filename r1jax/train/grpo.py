"""Group relative policy optimisation: sample groups, judge, learn from the differences.

arXiv 2402.03300, section 4.1, with R1's habits (arXiv 2501.12948): outputs of one
sampling in several minibatches, and a reference that is renewed from time to time.
docs/rl.md tells what is logged.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from r1jax.errors import ConfigError
from r1jax.llm import LLM
from r1jax.train.batch import Packed
from r1jax.train.objective import Objective, advantages, loss, scales
from r1jax.train.rollout import (
    Completion,
    Judged,
    Prompt,
    Rows,
    arrange,
    sample,
    tempered,
)
from r1jax.train.state import compile_options
from r1jax.typing import Array, PyTree

Score = Callable[[PyTree, Packed], Array]
Whole = Callable[[PyTree, PyTree], PyTree]
Asked = TypeVar("Asked")


@dataclass(frozen=True)
class Settings:
    """One run; the defaults are R1's, where the paper gives them.

    Attributes:
      objective: The loss.
      group: Answers to each prompt.
      prompts: Prompts of a step.
      temperature: Of sampling; the policy that learns is the one at it.
      max_tokens: Most tokens of an answer.
      minibatches: Updates of a pass over a step's answers.
      epochs: Passes.
      widths: Widths of the rows of an update; each is compiled.
      tokens_at_once: Tokens of a chunk of rows, whose gradients are summed.
      refresh: Steps after which the reference is renewed; 0 for never.
      seed: Of the sampling and of the order of minibatches.
    """

    objective: Objective = field(default_factory=Objective)
    group: int = 16
    prompts: int = 32
    temperature: float = 1.0
    max_tokens: int = 32768
    minibatches: int = 16
    epochs: int = 1
    widths: tuple[int, ...] = (4096, 16384, 34816)
    tokens_at_once: int = 34816
    refresh: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses sizes that cannot work.

        Raises:
          ConfigError: Names the setting and its value.
        """
        for name in ("prompts", "max_tokens", "minibatches", "epochs", "temperature"):
            if getattr(self, name) <= 0:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}",
                    "nothing would be learnt",
                    f"choose {name} above 0",
                )
        if self.group < 2 or not self.widths:
            raise ConfigError(
                f"group is {self.group} and widths {self.widths}",
                "answers are compared within a group, in rows of some width",
                "choose a group of at least 2 and at least one width",
            )


class Learner:
    """The compiled computations of an update.

    `score` is the model: log-probabilities [R, W] of a batch's tokens. `whole` makes
    the model's parameters of what learns and of what is frozen; by default all learn.
    """

    def __init__(
        self,
        score: Score,
        optimizer: optax.GradientTransformation,
        objective: Objective,
        temperature: float = 1.0,
        whole: Whole = lambda params, base: params,
    ) -> None:
        """Compiles when first asked, once for each width of rows."""

        def logprobs(params: PyTree, base: PyTree, packed: Packed) -> Array:
            return score(tempered(whole(params, base), temperature), packed)

        def of(
            params: PyTree, base: PyTree, rows: Rows, reference: Array | None
        ) -> Any:
            return loss(
                logprobs(params, base, rows.packed),
                rows.old,
                reference,
                rows.advantages,
                rows.packed.weights,
                rows.scale,
                objective,
            )

        def apply(params: PyTree, state: PyTree, slope: PyTree) -> Any:
            change, state = optimizer.update(slope, state, params)
            return optax.apply_updates(params, change), state, optax.tree.norm(slope)

        self._objective, self.whole = objective, whole
        options = compile_options()
        self._logprobs = jax.jit(logprobs, compiler_options=options)
        slope = jax.value_and_grad(of, has_aux=True)
        self._slope = jax.jit(slope, compiler_options=options)
        self._add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b), donate_argnums=0)
        self._apply = jax.jit(apply, donate_argnums=(0, 1))

    def references(
        self, params: PyTree, base: PyTree, chunks: Sequence[Rows]
    ) -> list[Array | None]:
        """Returns the reference's log-probabilities, None where nothing asks."""
        if not self._objective.beta:
            return [None] * len(chunks)
        return [self._logprobs(params, base, rows.packed) for rows in chunks]

    def update(
        self,
        params: PyTree,
        state: PyTree,
        reference: PyTree,
        base: PyTree,
        chunks: Sequence[Rows],
    ) -> tuple[PyTree, PyTree, dict[str, float]]:
        """Learns from one minibatch; `params` and `state` are donated.

        Returns:
          Parameters, the optimizer's state, and "loss", "kl", "clipped" (shares of
          tokens), "mismatch" and "largest_mismatch" of the log-probabilities from those
          of sampling, and "slope", the gradient's norm.
        """
        total: Any = None
        known = self.references(reference, base, chunks)
        for rows, ref in zip(chunks, known, strict=True):
            (value, sums), slope = self._slope(params, base, rows, ref)
            largest = sums.pop("largest")
            part = (slope, sums | {"loss": value})
            if total is None:
                total, furthest = part, largest
            else:
                total = self._add(total, part)
                furthest = jnp.maximum(furthest, largest)
        slope, sums = total
        params, state, norm = self._apply(params, state, slope)
        tokens = float(sums["tokens"])
        return (
            params,
            state,
            {
                "loss": float(sums["loss"]),
                "kl": float(sums["kl"]) / tokens,
                "clipped": float(sums["clipped"]) / tokens,
                "mismatch": float(sums["difference"]) / tokens,
                "largest_mismatch": float(furthest),
                "slope": float(norm),
            },
        )


@dataclass
class Policy:
    """What a run carries from step to step; all of it belongs into a checkpoint.

    Attributes:
      params: The weights that learn, float32: all of them, or adapters (`lora.init`).
      opt_state: The optimizer's.
      reference: A snapshot that the divergence is taken from.
      step: Steps done.
      base: The frozen weights under adapters; None where all learn.
    """

    params: PyTree
    opt_state: PyTree
    reference: PyTree
    step: int = 0
    base: PyTree = None

    @classmethod
    def begin(
        cls,
        params: PyTree,
        optimizer: optax.GradientTransformation,
        base: PyTree = None,
    ) -> "Policy":
        """Starts from weights, which are copied: updates donate their own."""
        own, reference = _copy(params), _copy(params)
        return cls(own, optimizer.init(own), reference, base=base)


def train(
    llm: LLM,
    policy: Policy,
    learner: Learner,
    draw: Callable[[int], Sequence[Prompt[Asked]]],
    judge: Callable[[Asked, Completion], dict[str, float]],
    settings: Settings,
    steps: int,
) -> Iterator[dict[str, float]]:
    """Goes on to `steps` steps, and yields each step's numbers when it is done.

    The engine has the newest weights after the last step. Nothing runs while this
    generator waits, so a caller may save between steps, or bind `policy.params` and
    evaluate; who binds other weights need not bind these again. Of adapters the engine
    has the merged weights.

    Args:
      llm: Samples; it is bound to the policy before every step.
      policy: Changed in place.
      learner: Of the same objective and temperature.
      draw: Gives a step's prompts by its number, so that a run can be resumed.
      judge: Gives an answer's rewards; "reward" counts.
      settings: The run.
      steps: Steps in all.
    """
    while policy.step < steps:
        prompts = draw(policy.step)
        whole = learner.whole(policy.params, policy.base)
        llm.bind(tempered(whole, settings.temperature))
        del whole  # the engine has its own form of it
        groups = sample(
            llm,
            prompts,
            judge,
            group=settings.group,
            max_tokens=settings.max_tokens,
            seed=settings.seed + 1_000_003 * policy.step,
        )
        numbers = _describe(groups)
        numbers |= _learn(policy, learner, groups, settings)
        policy.step += 1
        if settings.refresh and policy.step % settings.refresh == 0:
            policy.reference = _copy(policy.params)
        yield {"step": policy.step, **numbers}
    llm.bind(learner.whole(policy.params, policy.base))


def _learn(
    policy: Policy,
    learner: Learner,
    groups: Sequence[Sequence[Judged]],
    settings: Settings,
) -> dict[str, float]:
    """Updates the policy from a step's groups; says how the last update went.

    The mismatch is that of the first, where nothing has changed since sampling.
    """
    rewards = np.array([[j.rewards["reward"] for j in g] for g in groups])
    worth = advantages(rewards, settings.objective)
    useful = rewards.std(axis=1) > 0  # equal rewards teach nothing
    chosen = [
        (judged.completion, own)
        for group, some, each in zip(groups, useful, worth, strict=True)
        for judged, own in zip(group if some else (), each if some else (), strict=True)
    ]
    numbers: dict[str, float] = {"useful_groups": float(useful.mean())}
    order = np.random.default_rng((settings.seed, policy.step))
    seen: list[dict[str, float]] = []
    for _ in range(settings.epochs if chosen else 0):
        parts = np.array_split(order.permutation(len(chosen)), settings.minibatches)
        for part in (p for p in parts if len(p)):
            mine = [chosen[i][0] for i in part]
            lengths = [len(c.tokens) for c in mine]
            scale = scales(lengths, settings.objective, settings.max_tokens)
            own = np.array([chosen[i][1] for i in part], np.float32)
            chunks = arrange(mine, own, scale, settings.widths, settings.tokens_at_once)
            policy.params, policy.opt_state, now = learner.update(
                policy.params, policy.opt_state, policy.reference, policy.base, chunks
            )
            seen.append(now)
    if seen:
        numbers |= {k: float(np.mean([s[k] for s in seen])) for k in seen[0]}
        numbers |= {k: seen[0][k] for k in ("mismatch", "largest_mismatch")}
    return numbers


def _describe(groups: Sequence[Sequence[Judged]]) -> dict[str, float]:
    every = [judged for group in groups for judged in group]
    tokens = [len(j.completion.tokens) for j in every]
    surprise = -sum(sum(j.completion.logprobs) for j in every)
    names = every[0].rewards
    return {
        **{n: float(np.mean([j.rewards[n] for j in every])) for n in names},
        "tokens": float(np.mean(tokens)),
        "cut_off": float(np.mean([j.completion.finish == "length" for j in every])),
        "entropy": surprise / sum(tokens),
    }


def _copy(params: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, params)
