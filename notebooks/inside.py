# %% [markdown]
# # Look inside
#
# What happens in the layers while a model thinks: which experts each token goes to,
# what the cache keeps of it, what the tokens of the answer attend to, and what the
# layers would have said had they been the last.

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import r1jax
from r1jax import inside
from r1jax.presets import preset

# %% [markdown]
# r1-nano, which is in the package, has all of R1's parts at a size that shows: latent
# attention, 16 experts of which a token takes 4, and a shared one. `r1jax.load` with
# the name of a distill works too; those have no experts and keep keys and values.

# %%
llm = r1jax.load()
question = [{"role": "user", "content": "What is 507 - 268?"}]
said = llm.chat(question, r1jax.SamplingParams(temperature=0, max_tokens=256))
print(said.reasoning, said.content, sep="\n")

# %% [markdown]
# `inside.look` runs the whole conversation once, in the plain form that every faster
# one is held to, and returns what the layers tell of themselves.

# %%
prompt, _ = llm.render(question)
tokens = [*llm.tokenizer.encode(prompt), *said.token_ids]


def word(token: int) -> str:
    """Writes a token so that it can be drawn: in one line, short."""
    text = llm.tokenizer.decode([token], skip_special=False)
    for sign, drawn in (("\n", "⏎"), ("｜", "|"), ("▁", "_"), ("$", r"\$")):
        text = text.replace(sign, drawn)
    return text if len(text) <= 9 else text[:8] + "…"


words = [word(token) for token in tokens]

params = llm.params
seen = jax.jit(functools.partial(inside.look, llm.config))(params, jnp.array(tokens))
print("residual stream", seen.residual.shape, "(layers + 1, tokens, width)")
print("attention      ", seen.shares.shape, "(layers, heads, tokens, tokens)")
print("cache          ", seen.cached.shape, "(layers, tokens, numbers)")

# %% [markdown]
# ## Experts
#
# Each column is a token, each mark an expert that it went to. The bars count them:
# the bias of the router was moved in training until no expert was idle.

# %%
chosen = seen.chosen
if chosen is None:
    print("this model has no experts")
else:
    experts = llm.config.moe.experts
    marks = np.asarray(jax.nn.one_hot(chosen, experts).sum(axis=2))  # [M, T, E]
    figure, rows = plt.subplots(
        len(marks),
        2,
        figsize=(12, 1.9 * len(marks)),
        width_ratios=[6, 1],
        layout="constrained",
        squeeze=False,
    )
    first = llm.config.dense_layers
    for layer, (left, right) in enumerate(rows):
        left.imshow(marks[layer].T, aspect="auto", cmap="Blues", origin="lower")
        left.set(ylabel=f"layer {first + layer}\nexpert")
        right.barh(np.arange(experts), marks[layer].sum(axis=0), color="C0")
        right.set_ylim(-0.5, experts - 0.5)
    rows[-1, 0].set_xlabel("token")
    rows[-1, 1].set_xlabel("tokens")
    plt.show()

# %% [markdown]
# Do experts know something? For every expert of the last layer, the tokens that go to
# it most often beyond chance.

# %%
if chosen is not None:
    last = marks[-1]
    usual = last.mean(axis=0)
    kinds = sorted(set(words))
    each = np.array([last[np.array(words) == k].mean(axis=0) for k in kinds])
    often = np.array([words.count(k) for k in kinds])
    lift = np.where(often[:, None] > 1, each - usual, -1)
    for expert in range(experts):
        order = np.argsort(-lift[:, expert])[:6]
        best = [repr(kinds[i]) for i in order if lift[i, expert] > 0.1]
        print(f"expert {expert:2}:", "  ".join(best))

# %% [markdown]
# ## The latent cache
#
# Attention keeps one short latent of each token for all heads, and beside it the part
# of the key that carries the position. Keys and values of every head are rebuilt from
# it.

# %%
middle = llm.config.layers // 2
attention = llm.config.attention
rank = getattr(attention, "kv_rank", seen.cached.shape[-1] // 2)
entries = np.asarray(seen.cached[middle]).T
figure, panels = plt.subplots(
    2, 1, figsize=(12, 4.5), height_ratios=[3, 2], sharex=True, layout="constrained"
)
for panel, part in zip(panels, (entries[:rank], entries[rank:]), strict=True):
    limit = np.quantile(np.abs(part), 0.99)
    drawn = panel.imshow(part, aspect="auto", cmap="RdBu", vmin=-limit, vmax=limit)
    figure.colorbar(drawn)
latent = hasattr(attention, "kv_rank")
panels[0].set(ylabel="latent" if latent else "heads", title=f"layer {middle}")
panels[1].set(ylabel="rotating key" if latent else "more heads", xlabel="token")
plt.show()

# %% [markdown]
# R1 keeps 576 numbers of a token and layer. With keys and values of its 128 heads it
# would be 71 times as many.

# %%
r1 = preset("r1").attention
whole = r1.heads * (r1.nope_dim + r1.rope_dim + r1.value_dim)
print(
    f"R1: {r1.latent_dim} instead of {whole:,} numbers, 1/{whole / r1.latent_dim:.0f}"
)

# %% [markdown]
# ## Attention over the thought
#
# What the model looks at when it writes the first digit of its answer: one row for
# each head, layers from top to bottom.

# %%
box = max(i for i, w in enumerate(words) if "boxed" in w or "{" in w)
shares = np.asarray(seen.shares[:, :, box, : box + 1])
shares = shares.reshape(-1, box + 1)
start = max(0, box - 70)
figure, axes = plt.subplots(figsize=(14, 4.5), layout="constrained")
drawn = axes.imshow(shares[:, start:], aspect="auto", cmap="magma_r", vmax=0.6)
axes.set_xticks(range(box + 1 - start), words[start : box + 1], rotation=90, fontsize=7)
axes.set_yticks(np.arange(llm.config.layers) * attention.heads - 0.5)
axes.set_yticklabels([f"layer {i}" for i in range(llm.config.layers)], va="top")
axes.grid(axis="y", color="0.7")
figure.colorbar(drawn, label="share of attention")
plt.show()

# %% [markdown]
# All tokens at once, the mean over the heads of the last layer. Lines that run beside
# the diagonal are copies: each step of the thought looks at what it continues.

# %%
figure, axes = plt.subplots(figsize=(6, 5.5), layout="constrained")
mean = np.asarray(seen.shares[-1].mean(axis=0))
axes.imshow(np.sqrt(mean), cmap="magma_r")
axes.set(xlabel="is attended to", ylabel="attends", title="last layer, square root")
plt.show()

# %% [markdown]
# ## Logit lens
#
# Each layer's hidden state, read as if it were the last one. Read a column from
# below: the word becomes what the model says (top row); the darker, the more likely.

# %%
read = jax.jit(functools.partial(inside.lens, llm.config))
span = slice(max(0, box - 9), min(len(words) - 1, box + 6))
logits = [read(params, layer[span]) for layer in seen.residual]
chances = np.asarray(jax.nn.softmax(jnp.stack(logits), axis=-1))
best, sure = chances.argmax(axis=-1), chances.max(axis=-1)

figure, axes = plt.subplots(figsize=(12, 3.4), layout="constrained")
axes.imshow(sure, aspect="auto", cmap="Greens", vmin=0, vmax=1.3, origin="lower")
for layer in range(len(best)):
    for place in range(best.shape[1]):
        read_as = word(int(best[layer, place]))
        axes.text(place, layer, read_as, ha="center", va="center", fontsize=8)
axes.set_xticks(range(best.shape[1]), words[span], rotation=45)
axes.set_yticks(range(len(best)), ["embedded", *range(len(best) - 1)])
axes.set(xlabel="the token read", ylabel="after layer")
plt.show()

# %%
llm.close()
