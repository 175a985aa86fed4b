"""transformers on PyTorch, eager, with SDPA attention and its dynamic cache.

A loop of our own takes the place of `generate`, which costs more for each token.
"""

import sys
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch
import transformers
from worker import serve


class TransformersPeer:
    """A causal language model in float32."""

    version = f"{transformers.__version__}, torch {torch.__version__}"

    def __init__(self, directory: str, threads: int) -> None:
        """Loads the weights."""
        torch.set_num_threads(threads)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()

    def decode(
        self, prompts: Sequence[Sequence[int]], new: int
    ) -> tuple[float, list[list[int]]]:
        """See `Peer`."""
        out = self._forward(torch.tensor(prompts), None)
        answers = [out.logits[:, -1].argmax(-1, keepdim=True)]
        start = perf_counter()
        for _ in range(new):
            out = self._forward(answers[-1], out.past_key_values)
            answers.append(out.logits[:, -1].argmax(-1, keepdim=True))
        return perf_counter() - start, torch.cat(answers, 1).tolist()

    def prefill(self, prompt: Sequence[int]) -> tuple[float, int]:
        """See `Peer`."""
        start = perf_counter()
        out = self._forward(torch.tensor([prompt]), None)
        token = int(out.logits[0, -1].argmax())
        return perf_counter() - start, token

    def logits(self, prompt: Sequence[int]) -> list[float]:
        """See `Peer`."""
        out = self._forward(torch.tensor([prompt]), None)
        last: list[float] = out.logits[0, -1].tolist()
        return last

    def _forward(self, ids: torch.Tensor, cache: Any) -> Any:
        with torch.inference_mode():
            return self._model(
                input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1
            )


if __name__ == "__main__":
    serve(TransformersPeer(sys.argv[1], int(sys.argv[2])))
