"""A run of rejection sampling: a model in hand or a teacher behind a URL is asked."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from r1jax.errors import ConfigError
from r1jax.load import load
from r1jax.problems import Problem
from r1jax.remote import Remote, Sampling
from r1jax.train import reject, teacher
from r1jax.train.interrupts import interrupts
from r1jax.train.kept import Kept
from r1jax.train.reject import Rules
from r1jax.train.rollout import Ended
from r1jax.train.settings import at_least, draw_problems, in_common

Say = Callable[[str], None]

# What a resumed run may have otherwise: where and how fast, not what is asked.
_FREE = ("engine", "url", "url_concurrency", "api_key")


def run(settings: ConfigDict, output: Path, resume: bool, say: Say = print) -> bool:
    """Writes a model's right answers to `kept.jsonl` in a directory.

    Args:
      settings: As in configs/reject.py.
      output: The directory.
      resume: Whether to go on behind the questions that were asked.
      say: Takes what is to be read.

    Returns:
      Whether all questions were asked; False after Ctrl-C.

    Raises:
      R1jaxError: Something is wrong with the settings, the model or the server.
    """
    at_least(settings, {"problems": 1, "seed": 0, "url_concurrency": 1})
    _check_source(settings)
    rules = Rules(**settings.rules)
    problems = draw_problems(settings, settings.problems, settings.seed)
    kept = Kept(output, in_common(settings, _FREE), resume)
    missing = {n: p for n, p in enumerate(problems) if n not in kept.done}
    if resume:
        say(f"goes on after {len(kept.done)} of {len(problems)} questions")
    with _asking(settings, rules, missing) as ended, kept, interrupts() as stopped:
        for number, group in reject.whole_groups(ended, rules.samples):
            kept.add(number, reject.keep(problems[number], group, rules))
            if stopped():
                break
        if len(kept.done) < len(problems):
            asked = f"{len(kept.done)} of {len(problems)}"
            say(f"stopped and saved after {asked} questions; --resume goes on")
            return False
        count = kept.finish()
    say(f"kept {count} of {len(problems) * rules.samples} answers")
    return True


@contextlib.contextmanager
def _asking(
    settings: ConfigDict, rules: Rules, problems: Mapping[int, Problem]
) -> Iterator[Ended]:
    """Opens whom to ask, and closes it."""
    if settings.url:
        with _remote(settings, rules, problems) as ended:
            yield ended
        return
    llm = load(settings.model, **settings.engine)
    with contextlib.closing(llm):
        asked = reject.ask(llm, problems.values())
        prompts = dict(zip(problems, asked, strict=True))
        answers = reject.answers(llm, llm.params, prompts, rules, settings.seed)
        with contextlib.closing(answers):
            yield answers


@contextlib.contextmanager
def _remote(
    settings: ConfigDict, rules: Rules, problems: Mapping[int, Problem]
) -> Iterator[Ended]:
    remote = Remote(
        settings.url,
        settings.url_model or None,
        settings.api_key or None,
        concurrency=settings.url_concurrency,
    )
    with contextlib.closing(remote):
        answers = teacher.each_ended(
            remote,
            problems,
            sampling=Sampling(rules.temperature, 1.0, rules.max_tokens),
            group=rules.samples,
            seed=settings.seed,
        )
        with contextlib.closing(answers):
            yield answers


def _check_source(settings: ConfigDict) -> None:
    """Refuses settings of which one would be ignored."""
    if bool(settings.model) == bool(settings.url):
        raise ConfigError(
            f"model is {settings.model!r} and url {settings.url!r}",
            "a model in this process is asked, or one behind a URL",
            "set one of them",
        )
    for name in ("url_model", "api_key"):
        if settings[name] and not settings.url:
            raise ConfigError(
                f"{name} is set without url",
                "it is for a server, and a model in this process is asked",
                f"set url, or leave out {name}",
            )
