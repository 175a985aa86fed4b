"""The runs that a claim is made of, for one seed, in a directory of their own."""

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from r1jax import load
from r1jax.problems import Problem, as_messages, draw, tokenizer
from r1jax.train import reject, rejecting, rl, settings, sft
from r1jax.train.log import read
from r1jax.train.rewards import weighed
from r1jax.train.rollout import sample

Say = Callable[[str], None]
_ASKED = weighed({"accuracy": 1.0, "format": 0.0})


class Runs:
    """Trains and measures the models of one seed.

    Attributes:
      folder: Where they lie.
      seed: Of the weights, the lessons and the sampling.
      seconds: CPU seconds of each run by its name, over all threads; compilation is
        among them.
    """

    def __init__(self, config: ConfigDict, folder: Path, seed: int, say: Say) -> None:
        """Makes the folder.

        Args:
          config: As in configs/claims.py.
          folder: Of this seed; what is there already is refused by the runs.
          seed: Of all that is random.
          say: Takes what is to be read.
        """
        self.folder, self.seed = folder, seed
        self._config, self._say = config, say
        self.seconds: dict[str, float] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def lessons(
        self, name: str, count: int, direct: float = 0.0, by_heart: int = 1
    ) -> Path:
        """Writes problems of training as conversations.

        Args:
          name: Of the file.
          count: How many.
          direct: The share whose thoughts are left empty: an answer without working.
          by_heart: How many different problems these are; they come again and again.
        """
        rng = random.Random(f"direct {self.seed}")
        path = self.folder / f"{name}.jsonl"
        problems = self._problems(count, self.seed, "train")
        with path.open("x", encoding="utf-8") as file:
            for problem in problems:
                messages = as_messages(problem)
                if rng.random() < direct:
                    messages = as_messages(rng.choice(problems[:by_heart]))
                    messages[-1]["reasoning_content"] = ""
                line = json.dumps({"messages": messages}, ensure_ascii=False)
                file.write(f"{line}\n")
        return path

    def fine_tune(
        self, name: str, model: str | Path, lessons: Path, changes: ConfigDict
    ) -> Path:
        """Trains on conversations; returns the model's directory."""
        words = self.folder / "tokenizer"
        if not words.exists():
            tokenizer.write(words)
        run = self._settings("sft:nano", changes, model)
        run.tokenizer, run.data.files = str(words), (str(lessons),)
        with self._timed(name) as folder:
            done = sft.run(run, folder, False, self._quiet)
        if not done:
            raise KeyboardInterrupt
        return self.model(name, run.steps)

    def reinforce(self, name: str, model: Path) -> Path:
        """Trains by the rewards of the claim; returns the model's directory."""
        run = self._settings("grpo", self._config.rl, model)
        run.sampling.max_tokens = self._config.max_tokens
        run.update(self._config.asked, engine=self._config.engine)
        with self._timed(name) as folder:
            rl.run(run, folder, False, self._quiet)
        return self.model(name, run.steps)

    def model(self, name: str, steps: int) -> Path:
        """Returns the directory of the model that a run of so many steps leaves."""
        return self._folder(name) / f"hf-{steps}"

    def keep(self, name: str, model: Path) -> Path:
        """Samples a model's own right answers; returns the file."""
        run = self._settings("reject", self._config.keep, model)
        run.rules.max_tokens = self._config.max_tokens
        run.update(self._config.asked, engine=self._config.engine)
        with self._timed(name) as folder:
            rejecting.run(run, folder, False, self._say)
        return folder / "kept.jsonl"

    def measure(self, model: Path) -> dict[str, float]:
        """Asks the held-out problems once each, at temperature 1.

        Returns:
          "accuracy", the share of right answers; "thinking", that of whole answers with
          thoughts; and "tokens", the mean length.
        """
        problems = self._problems(self._config.held_out, 0, "held-out")
        longest = max(self._config.rl.sampling.widths)
        engine = self._config.engine
        llm = load(str(model), dtype="float32", max_model_len=longest, **engine)
        with contextlib.closing(llm):
            groups = sample(
                llm,
                reject.ask(llm, problems),
                _ASKED,
                group=1,
                max_tokens=self._config.max_tokens,
                seed=self.seed,
            )
        each = [judged for group in groups for judged in group]
        sums = {
            "accuracy": sum(one.rewards["accuracy"] for one in each),
            "thinking": sum(one.rewards["format"] for one in each),
            "tokens": sum(len(one.completion.tokens) for one in each),
        }
        return {name: total / len(each) for name, total in sums.items()}

    def curve(self, name: str) -> dict[str, list[float]]:
        """Returns the accuracy and length of the answers in each step by rewards."""
        lines = read(self._folder(name) / "metrics.jsonl")
        return {key: [line[key] for line in lines] for key in ("accuracy", "tokens")}

    def _problems(self, count: int, seed: int, split: Any) -> list[Problem]:
        asked = self._config.asked
        return draw(
            asked.tasks,
            count,
            seed,
            split,
            languages=asked.languages,
            digits=asked.digits,
        )

    def _settings(
        self, name: str, changes: ConfigDict, model: str | Path
    ) -> ConfigDict:
        """Returns a run's settings with the claim's changes; it saves at its end."""
        run = settings.load(name)
        run.update(changes)
        run.model, run.seed = str(model), self.seed
        if "steps" in run:
            run.save_every = run.steps
        return run

    def _folder(self, name: str) -> Path:
        return self.folder / name.replace(",", "").replace(" ", "-")

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[Path]:
        """Gives a run's folder, and notes the CPU seconds that it took."""
        began, wall = time.process_time(), time.perf_counter()
        yield self._folder(name)
        self.seconds[name] = time.process_time() - began
        wall = time.perf_counter() - wall
        self._say(
            f"{name}: {self.seconds[name]:.0f} CPU seconds, {wall:.0f} of a clock"
        )

    def _quiet(self, text: str) -> None:
        """Says nothing: a claim has many runs, and their folders tell of each."""
