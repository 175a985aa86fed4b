"""llama.cpp, through the low-level interface of llama-cpp-python."""

import sys
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import llama_cpp
import numpy as np
from worker import serve

_FLOAT32 = 0  # ggml's number of the type
_MOST_ROWS = 8
_CONTEXT = 1024  # tokens of each sequence


class LlamaCppPeer:
    """A GGUF file with a float32 cache and no sampler but argmax."""

    version = f"python {llama_cpp.__version__}"

    def __init__(self, path: str, threads: int) -> None:
        """Loads the weights; one context for one sequence, one for several."""
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
        vocabulary = llama_cpp.llama_model_get_vocab(model)
        self._size = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._contexts = {n: _context(model, n, threads) for n in (1, _MOST_ROWS)}
        self._batch = llama_cpp.llama_batch_init(_MOST_ROWS * _CONTEXT, 0, 1)

    def decode(
        self, prompts: Sequence[Sequence[int]], new: int
    ) -> tuple[float, list[list[int]]]:
        """See `Peer`."""
        rows, length = len(prompts), len(prompts[0])
        context = self._cleared(rows)
        answers = [self._feed(context, prompts, 0)]
        start = perf_counter()
        for i in range(new):
            fed = [[token] for token in answers[-1]]
            answers.append(self._feed(context, fed, length + i))
        seconds = perf_counter() - start
        return seconds, [list(row) for row in zip(*answers, strict=True)]

    def prefill(self, prompt: Sequence[int]) -> tuple[float, int]:
        """See `Peer`."""
        context = self._cleared(1)
        start = perf_counter()
        (token,) = self._feed(context, [prompt], 0)
        return perf_counter() - start, token

    def logits(self, prompt: Sequence[int]) -> list[float]:
        """See `Peer`."""
        context = self._cleared(1)
        self._feed(context, [prompt], 0)
        last: list[float] = self._row(context, len(prompt) - 1).tolist()
        return last

    def _cleared(self, rows: int) -> Any:
        context = self._contexts[1 if rows == 1 else _MOST_ROWS]
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        return context

    def _feed(
        self, context: Any, rows: Sequence[Sequence[int]], start: int
    ) -> list[int]:
        """Feeds each row's tokens at the position; returns the likeliest next ones."""
        batch, ends = self._batch, []
        batch.n_tokens = 0
        for number, row in enumerate(rows):
            for i, token in enumerate(row):
                place = batch.n_tokens
                batch.token[place], batch.pos[place] = token, start + i
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, number
                batch.logits[place] = i == len(row) - 1
                batch.n_tokens += 1
            ends.append(batch.n_tokens - 1)
        status = llama_cpp.llama_decode(context, batch)
        assert status == 0, status
        return [int(self._row(context, end).argmax()) for end in ends]

    def _row(self, context: Any, place: int) -> np.ndarray:
        pointer = llama_cpp.llama_get_logits_ith(context, place)
        return np.ctypeslib.as_array(pointer, shape=(self._size,))


def _context(model: Any, rows: int, threads: int) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_seq_max = rows * _CONTEXT, rows
    params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = threads
    params.type_k = params.type_v = _FLOAT32
    return llama_cpp.llama_init_from_model(model, params)


if __name__ == "__main__":
    serve(LlamaCppPeer(sys.argv[1], int(sys.argv[2])))
