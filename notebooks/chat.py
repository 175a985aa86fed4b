# %% [markdown]
# # Chat with R1's thoughts folded away
#
# A model in the manner of R1 thinks first and answers then. r1jax tells the two apart
# while they come. Here the thought unfolds as it is written and closes when the
# answer begins.

# %% [markdown]
# The largest distill that the accelerator and the disk have room for is taken: on one
# v5e chip of 16 GB an 8B model in int8, on eight of them a 70B one, if the disk holds
# its release. On a CPU it is r1-nano, which is in the package and does arithmetic.

# %%
import r1jax
from r1jax.fitting import distill_that_fits

found = distill_that_fits()
llm = r1jax.load(found.source, **found.options)
print(f"{found.source or 'r1-nano'}: {llm.parameter_count:,} parameters, {llm.dtype}")

# %% [markdown]
# What is shown is one piece of HTML, written anew at most ten times a second.

# %%
import html
import time

from IPython.display import HTML, display

THOUGHT = (
    "white-space: pre-wrap; color: #666; border-left: 3px solid #ccc; padding: 4px"
)


def page(thought: str, answer: str) -> HTML:
    """Draws an answer; the thought is open until the answer begins."""
    state = "" if answer else "open"
    return HTML(
        f"<details {state}><summary>thought, {len(thought)} characters</summary>"
        f'<div style="{THOUGHT}">{html.escape(thought)}</div></details>'
        f'<div style="white-space: pre-wrap">{html.escape(answer)}</div>'
    )


def ask(conversation: list, question: str) -> None:
    """Streams an answer and adds both to the conversation."""
    conversation.append({"role": "user", "content": question})
    shown, last, tokens = display(page("", ""), display_id=True), 0.0, 0
    thought = answer = ""
    began = time.time()
    for delta in llm.stream(conversation):
        thought, answer = thought + delta.reasoning, answer + delta.content
        tokens += len(delta.token_ids)
        if time.time() - last > 0.1:
            shown.update(page(thought, answer))
            last = time.time()
    shown.update(page(thought, answer))
    conversation.append({"role": "assistant", "content": answer})
    print(f"{tokens} tokens, {tokens / (time.time() - began):.0f} a second")


# %% [markdown]
# The first question also compiles the model's steps.

# %%
conversation: list = []
ask(conversation, "What is 507 - 268?")

# %% [markdown]
# The conversation goes on. R1's template leaves earlier thoughts out of the prompt.

# %%
ask(conversation, "What is 48 * 36?")

# %% [markdown]
# ## Ask several times
#
# R1's paper samples at temperature 0.6. Answers differ, and the most frequent one is
# right more often than a single one (the paper's cons@64).

# %%
import collections

question = {"role": "user", "content": "What is 37 * 86?"}
prompt, _ = llm.render([question])
answers = llm.generate([prompt] * 16, r1jax.SamplingParams(max_tokens=512))
votes = collections.Counter(
    each.content.rpartition("</think>")[2].strip() for each in answers
)
for answer, count in votes.most_common(4):
    print(f"{count:3} x {answer}")
print("   true:", 37 * 86)

# %% [markdown]
# ## Where it hesitated
#
# For each token the chance of any other, as the model gave it. Most steps of a
# thought are certain; the tall bars are where it chooses.

# %%
import matplotlib.pyplot as plt
import numpy as np

greedy = r1jax.SamplingParams(temperature=0, max_tokens=512, logprobs=0)
said = llm.chat([question], greedy)
other = 1 - np.exp([each.logprob for each in said.logprobs])
in_thought = np.array([each.reasoning for each in said.logprobs])

figure, axes = plt.subplots(figsize=(10, 2.8), layout="constrained")
bars = np.maximum(other, 1e-6)
axes.bar(np.arange(len(bars)), bars, color=np.where(in_thought, "0.6", "C0"), width=1)
axes.set(xlabel="token of the answer (grey: thought)", ylabel="chance of another")
axes.set(yscale="log", ylim=(1e-6, 1))
axes.set_title(said.content.strip())
plt.show()

# %%
llm.close()
