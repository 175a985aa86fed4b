# %% [markdown]
# # Learn: adapters, then reinforcement
#
# First r1-nano is taught an operation that it has never seen, by low-rank adapters on
# conversations. Then it learns by GRPO, as R1 did: it answers, is judged by rule, and
# what was better than its group becomes likelier. Both are small enough for a CPU.

# %%
import json
import tempfile
from pathlib import Path

import r1jax
from r1jax.train import log, rl, settings, sft

folder = Path(tempfile.mkdtemp())
print(folder)

# %% [markdown]
# A run writes its numbers line by line. This draws them while it goes on.

# %%
import io
import threading

from IPython.display import Image, display
from matplotlib.figure import Figure


class Live:
    """Draws numbers of a run every two seconds, in one place."""

    def __init__(self, run: Path, *names: str) -> None:
        """Draws `names` out of the metrics in the folder `run`."""
        self.run, self.names = run, names
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def picture(self) -> Image:
        """Draws what there is now."""
        lines = log.read(self.run / log.FILE)
        figure = Figure(figsize=(4 * len(self.names), 2.8), layout="constrained")
        panels = figure.subplots(1, len(self.names), squeeze=False)[0]
        for panel, name in zip(panels, self.names, strict=True):
            some = [line for line in lines if name in line]
            panel.plot([x["step"] for x in some], [x[name] for x in some], "o-", ms=3)
            panel.set(xlabel="step", title=name)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=90)
        return Image(drawn.getvalue())

    def watch(self) -> None:
        """Draws until the run is over."""
        while not self.over.wait(2):
            self.shown.update(self.picture())

    def __enter__(self) -> None:
        self.shown = display(self.picture(), display_id=True)
        self.thread.start()

    def __exit__(self, *failure: object) -> None:
        self.over.set()
        self.thread.join()
        self.shown.update(self.picture())


# %% [markdown]
# ## A new operation
#
# `a @ b` shall be `a + b + 1`, a sum that r1-nano can do if it is asked in words that
# it knows. So its own thoughts make the lessons: it is asked for the sum, and where the
# answer is right, thought and answer become those to the new question. (That is
# rejection sampling, as in the third stage of R1.)

# %%
import random

greedy = r1jax.SamplingParams(temperature=0, max_tokens=160)
drawn = random.Random(0)
pairs = list({(drawn.randint(2, 99), drawn.randint(2, 99)) for _ in range(300)})
taught_pairs, held_out = pairs[32:], pairs[:32]


def ask(llm: r1jax.LLM, question: str, some: list) -> list:
    """Returns the answers to a question about pairs of numbers."""
    asked = [[{"role": "user", "content": question.format(*pair)}] for pair in some]
    return llm.generate([llm.render(each)[0] for each in asked], greedy)


def is_right(answer: r1jax.Delta, pair: tuple) -> bool:
    """Tells whether the box holds a + b + 1."""
    return rf"\boxed{{{sum(pair) + 1}}}" in answer.content


llm = r1jax.load()
before = ask(llm, "What is {} @ {}?", held_out)
print(before[0].content)
count = sum(map(is_right, before, held_out))
print(f"before: {count} of {len(held_out)} right")

# %%
lessons = []
for pair, answer in zip(
    taught_pairs, ask(llm, "What is {} + {} + 1?", taught_pairs), strict=True
):
    if is_right(answer, pair):
        thought, _, told = answer.content.partition("</think>")
        said = {"reasoning_content": thought.strip(), "content": told.strip()}
        question = {"role": "user", "content": "What is {} @ {}?".format(*pair)}
        lessons.append([question, {"role": "assistant", **said}])
lines = [json.dumps({"messages": lesson}) + "\n" for lesson in lessons]
(folder / "lessons.jsonl").write_text("".join(lines))
print(f"{len(lessons)} lessons of {len(taught_pairs)} sums; the first:\n{lines[0]}")
llm.close()

# %% [markdown]
# Adapters of rank 8 on attention and feed-forward; the model's own weights stay. The
# names and their defaults are those of `configs/sft.py`.

# %%
changes = {
    "model": "r1-nano",
    "data.files": folder / "lessons.jsonl",
    "data.width": 128,
    "data.rows": 8,
    "lora.rank": 8,
    "lora.kernels": "q_up,kv_down,k_up,v_up,o,gate_up,down",
    "steps": 40,
    "save_every": 40,
    "optimizer.learning_rate": 0.001,
    "optimizer.warmup_steps": 5,
}
chosen = settings.load(
    "sft:lora", [f"{name}={value}" for name, value in changes.items()]
)
with Live(folder / "sft", "loss", "accuracy", "learning_rate"):
    sft.run(chosen, folder / "sft", resume=False)

# %%
taught = r1jax.load(folder / "sft" / "hf-40")
after = ask(taught, "What is {} @ {}?", held_out)
print(after[0].content)
print(f"after: {sum(map(is_right, after, held_out))} of {len(held_out)} right")
taught.close()

# %% [markdown]
# ## Reinforcement
#
# No lessons now. Eight answers to each of eight problems, judged by rule; an update
# makes the better ones of each group likelier. R1 took 10,400 steps with 512 problems
# each; the few here show how it goes, not how far.

# %%
changes = {
    "model": "r1-nano",
    "tasks": "countdown",
    "steps": 6,
    "save_every": 6,
    "sampling.group": 8,
    "sampling.prompts": 8,
    "sampling.widths": "(128, 256)",
    "optimizer.learning_rate": 5e-4,
    "optimizer.warmup_steps": 2,
}
chosen = settings.load("grpo", [f"{name}={value}" for name, value in changes.items()])
with Live(folder / "grpo", "reward", "tokens", "entropy", "kl"):
    rl.run(chosen, folder / "grpo", resume=False)

# %% [markdown]
# `useful_groups` is the share of problems whose answers differed in reward: the
# others teach nothing. `mismatch` is rounding between sampling and learning, and
# should be small.

# %%
for line in log.read(folder / "grpo" / log.FILE):
    names = ("step", "reward", "accuracy", "useful_groups", "mismatch", "seconds")
    print("  ".join(f"{name} {line[name]:.3g}" for name in names if name in line))
