"""An engine on a device without arrays, whose steps a test can hold or break."""

import dataclasses
import threading
from typing import Any

import numpy as np

from engine.fake_device import VOCABULARY, FakeDevice
from r1jax.engine.pages import Pages
from r1jax.engine.steps import PROMPT_LOGPROBS
from r1jax.presets import preset

PAGE, LONGEST = 2, 24
CONFIG = dataclasses.replace(preset("tiny-qwen2"), vocab_size=VOCABULARY, eos_ids=())


class Permits(threading.Semaphore):
    """Lets so many steps run; `held` is set once a step has to wait."""

    def __init__(self):
        super().__init__(0)
        self.held = threading.Event()

    def take(self):
        if not self.acquire(blocking=False):
            self.held.set()
            self.acquire()


class FakeRunner:
    """Runs a step when `permits` allows; breaks when `broken` is set."""

    permits: Permits | None = None
    broken: Exception | None = None
    judging: Any = None  # waited for when the step that judges prompts is compiled

    def __init__(self, config, params, pools, slots, columns, target, tell, guesses):
        _, pages, _, size, _ = pools["key"].shape
        self.device = FakeDevice([Pages(pages, size)], slots)
        self.compiled, self.warmed = [], []

    def compile(self, geometry, scores=False):
        if scores and self.judging:
            self.judging()
        self.compiled.append((geometry, scores))

    def warm(self, geometry, scores=False):
        assert (geometry, scores) in self.compiled
        self.warmed.append((geometry, scores))

    def dispatch(self, plan, seeds):
        if self.permits:
            self.permits.take()
        if self.broken:
            raise self.broken
        assert {row.sequence.id for _, _, row in plan.placed()} <= set(seeds)
        tokens = plan.geometry.tokens
        judged = np.zeros(tokens), np.zeros((tokens, 2)), np.zeros((tokens, 2))
        scores = dict(zip(PROMPT_LOGPROBS, judged, strict=True)) if plan.scores else {}
        return {"token": self.device.run(plan), **scores}
