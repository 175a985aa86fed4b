"""r1jax, through its engine: scheduling, sampling and hand-out are in the times."""

import queue
import sys
from collections.abc import Sequence
from time import perf_counter

from worker import serve

import r1jax
from r1jax.engine.types import Event, SamplingParams
from r1jax.load import load


class R1jaxPeer:
    """An LLM as `load` makes it, with the default options."""

    version = r1jax.__version__

    def __init__(self, directory: str) -> None:
        """Loads the weights and compiles everything."""
        self._llm = load(directory, dtype="float32")
        self._llm.engine.wait_until_compiled()

    def decode(
        self, prompts: Sequence[Sequence[int]], new: int
    ) -> tuple[float, list[list[int]]]:
        """See `Peer`."""
        times, tokens = self._answer(prompts, new + 1)
        return times[-1] - times[len(prompts) - 1], tokens

    def prefill(self, prompt: Sequence[int]) -> tuple[float, int]:
        """See `Peer`."""
        start = perf_counter()
        times, tokens = self._answer([prompt], 1)
        return times[0] - start, tokens[0][0]

    def logits(self, prompt: Sequence[int]) -> list[float]:
        """See `Peer`."""
        last: list[float] = self._llm.logits(prompt)[-1].tolist()
        return last

    def _answer(
        self, prompts: Sequence[Sequence[int]], count: int
    ) -> tuple[list[float], list[list[int]]]:
        """Returns when each token came, over all answers, and the answers."""
        events: queue.SimpleQueue[tuple[float, Event]] = queue.SimpleQueue()
        sampling = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
        answers: dict[int, list[int]] = {}
        for prompt in prompts:
            number = self._llm.engine.submit(
                prompt, sampling, lambda event: events.put((perf_counter(), event))
            )
            answers[number] = []
        times = []
        for _ in range(count * len(prompts)):
            time, event = events.get()
            assert event.token is not None, event
            answers[event.request_id].append(event.token)
            times.append(time)
        return times, list(answers.values())


if __name__ == "__main__":
    serve(R1jaxPeer(sys.argv[1]))
