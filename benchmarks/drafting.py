"""Measures decoding with tokens guessed ahead against decoding without, on a CPU.

    python benchmarks/drafting.py [--source SOURCE] [--tokens 1 3 5 7] [--rounds 3]
    python benchmarks/drafting.py --source r1-nano --draft mtp --tokens 1 2 3

Two engines answer the same prompts greedily, one sequence at a time, in turn: one
guesses by n-gram lookup or by the model's own prediction layer, one does not. Their
answers must be the same. Prints one JSON line for each prompt and number of guesses:
tokens a second from the first token to the last, the median of the rounds' ratios, and
how many guesses were right.
"""

import argparse
import json
import queue
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import r1jax
from r1jax import LLM, SamplingParams
from r1jax.engine.types import Event

_TEXT = (
    "The lighthouse at Cape Marrow was built in 1871 after three ships were lost in "
    "a single winter. Its lamp burned whale oil until 1902, when the keeper, Anna "
    "Holt, persuaded the harbour board to pay for paraffin. She kept the light for "
    "thirty-four years and wrote down the weather every evening. Her notebooks are "
    "still used today: they show that fog was twice as common in her time, and that "
    "the sea was colder by almost one degree."
)
_CODE = """def total_price(items, tax):
    total = 0
    for item in items:
        if item.quantity <= 0:
            continue
        total += item.price * item.quantity
    return total + total * tax


def print_receipt(items, tax):
    for item in items:
        print(item.name, item.quantity, item.price)
    print("total", total_price(items, tax))
"""
PROMPTS = {
    "copy": f"Repeat this text word for word:\n\n{_TEXT}",
    "edit": f"Rename `items` to `goods` and return the whole code:\n\n{_CODE}",
    "summarise": f"Summarise this text by quoting its main sentences:\n\n{_TEXT}",
    "chat": "Why is the sky blue? Explain it to a child.",
    "story": "Write a short story about a robot that learns to paint.",
}
# What r1-nano, the small model with a prediction layer, has learnt.
SUMS = {
    "add": "What is 4567 + 385?",
    "subtract": "What is 507 - 268?",
    "multiply": "What is 123 * 45?",
    "countdown": "Use 4, 7 and 9 to make 20.",
    "greeting": "Hello!",
}


@dataclass
class Run:
    """One answer: its tokens, and how many came in a second after the first."""

    tokens: list[int]
    speed: float


def answer(llm: LLM, prompt: Sequence[int], most: int) -> Run:
    """Answers one prompt greedily, through the engine."""
    events: queue.SimpleQueue[tuple[float, Event]] = queue.SimpleQueue()
    sampling = SamplingParams(temperature=0.0, max_tokens=most)
    llm.engine.submit(prompt, sampling, lambda e: events.put((time.perf_counter(), e)))
    times, tokens, finish = [], [], None
    while finish is None:
        at, event = events.get()
        if event.token is not None:
            times.append(at)
            tokens.append(event.token)
        finish = event.finish
    seconds = times[-1] - times[0]
    return Run(tokens, (len(tokens) - 1) / seconds if seconds else float("nan"))


def measure(
    plain: LLM, guessing: LLM, prompt: Sequence[int], most: int, rounds: int
) -> dict[str, object]:
    """Answers a prompt by both in turn, after once for warmth; compares them.

    Raises:
      SystemExit: The answers differ.
    """
    ratios, speeds = [], []
    for turn in range(rounds + 1):
        before = guessing.engine.stats()
        one, other = answer(plain, prompt, most), answer(guessing, prompt, most)
        after = guessing.engine.stats()
        if one.tokens != other.tokens:
            raise SystemExit("the answers differ")
        if turn:
            speeds.append((one.speed, other.speed))
            ratios.append(other.speed / one.speed)
    drafted = after.drafted - before.drafted
    accepted = after.accepted - before.accepted
    return {
        "answer_tokens": len(one.tokens),
        "tokens_per_second": round(median(s for s, _ in speeds), 1),
        "with_guesses": round(median(s for _, s in speeds), 1),
        "ratio": round(median(ratios), 2),
        "ratios": [round(r, 2) for r in ratios],
        "guessed": drafted,
        "right": round(accepted / drafted, 2) if drafted else None,
        "tokens_per_step": round(len(one.tokens) / (after.steps - before.steps), 2),
    }


def main() -> int:
    """Measures each number of guesses on each prompt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--source", default="smollm2", help="what to load (%(default)s)"
    )
    parser.add_argument("--draft", choices=("ngram", "mtp"), default="ngram")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 3, 5, 7])
    parser.add_argument("--shortest", type=int, default=2, help="prompt_lookup_min")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=int, default=128, help="tokens of an answer")
    args = parser.parse_args()
    sizes = dict(max_model_len=1024, max_num_seqs=1, dtype="float32")
    lookup = {"prompt_lookup_min": args.shortest} if args.draft == "ngram" else {}
    plain = r1jax.load(args.source, **sizes)
    plain.engine.wait_until_compiled()
    for count in args.tokens:
        guessing = r1jax.load(
            args.source,
            draft=args.draft,
            num_draft_tokens=count,
            **lookup,
            **sizes,
        )
        guessing.engine.wait_until_compiled()
        for name, text in (PROMPTS if lookup else SUMS).items():
            rendered, _ = plain.render([{"role": "user", "content": text}])
            prompt = plain.tokenizer.encode(rendered)
            found = measure(plain, guessing, prompt, args.most, args.rounds)
            line = {"prompt": name, "guesses": count, **lookup}
            print(json.dumps(line | found), flush=True)
        guessing.close()
    plain.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
