# %% [markdown]
# # One model over eight chips
#
# r1jax names the axes of every array, and one table says over which devices each axis
# is cut. Here a model lies on eight devices, and we look where, and what they send
# each other.

# %% [markdown]
# A machine with fewer than eight accelerators shows eight devices of its CPU instead.
# They are virtual, so it is not faster, but everything is cut and sent as on chips.

# %%
import jax
from jax.extend.backend import clear_backends

jax.config.update("jax_num_cpu_devices", 8)  # before JAX starts; chips do not mind
if len(jax.devices()) < 8:
    jax.config.update("jax_platforms", "cpu")
    clear_backends()
print(jax.devices())

# %%
import r1jax
from r1jax.fitting import distill_that_fits

found = distill_that_fits()
one = None if found.source else r1jax.load()  # on one device, to compare with
mesh = r1jax.make_mesh(4, 2)
llm = r1jax.load(found.source, **{"mesh": mesh, **found.options})
mesh = llm.target.placement.mesh
print(found.source or "r1-nano", dict(mesh.shape))

# %% [markdown]
# ## Where every array lies
#
# The embedding table is cut by its vocabulary: the numbers are devices.

# %%
params = llm.params
jax.debug.visualize_array_sharding(params["embed"]["embedding"])

# %% [markdown]
# A layer's projection from heads to the model's width is cut by heads, and experts
# are dealt out over all eight. (Of arrays with more axes two are drawn.)

# %%
from jax.sharding import NamedSharding, PartitionSpec


def draw(name: str, array: jax.Array, rows: int, columns: int) -> None:
    """Draws where two of an array's axes lie."""
    spec = [*array.sharding.spec, *[None] * array.ndim][: array.ndim]
    print(f"{name} {array.shape}: axes {rows} and {columns}")
    where = NamedSharding(mesh, PartitionSpec(spec[rows], spec[columns]))
    jax.debug.visualize_sharding((array.shape[rows], array.shape[columns]), where)


draw("o", params["dense_layers"]["attention"]["o"]["kernel"], 1, 3)
if "moe_layers" in params:
    draw("experts", params["moe_layers"]["moe"]["experts"]["down"], 1, 2)

# %% [markdown]
# All of them: the bytes of each, whole and on one device.

# %%
import math

held = dict.fromkeys(mesh.devices.flat, 0)
print(f"{'array':44} {'shape':22} {'cut':30} {'MiB':>7} {'on each':>8}")
for path, array in jax.tree_util.tree_leaves_with_path(params):
    name = "/".join(str(getattr(k, "key", k)) for k in path)
    part = math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
    cut = ", ".join(str(axis) for axis in array.sharding.spec if axis) or "-"
    shape = " x ".join(map(str, array.shape))
    sizes = f"{array.nbytes / 2**20:7.2f} {part / 2**20:8.2f}"
    print(f"{name:44} {shape:22} {cut:30} {sizes}")
    for device in held:
        held[device] += part

# %%
import matplotlib.pyplot as plt
import numpy as np

total = sum(array.nbytes for array in jax.tree.leaves(params))
figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
axes.bar([str(d.id) for d in held], np.array(list(held.values())) / 2**20)
axes.axhline(total / len(held) / 2**20, color="black", linewidth=1)
axes.set(xlabel="device", ylabel="MiB of weights")
axes.set_title("the line is an eighth of the model; the rest is held more than once")
plt.show()

# %% [markdown]
# ## What is sent
#
# The compiled program of a whole sequence, and the exchanges in it. Loops over layers
# are counted. This plain form gathers experts where they are needed; the steps of the
# engine send tokens to them instead.

# %%
from r1jax.engine import simple
from r1jax.plan import collectives
from r1jax.plan.hlo import Program

sequence = jax.numpy.arange(64) % llm.config.vocab_size
run = simple.whole_logits(llm.config, llm.target.everywhere)
text = run.lower(params, sequence).compile().as_text()
exchanges = collectives.read(Program(text), mesh.size)
print(f"{'kind':20} {'group':26} {'times':>5} {'KiB':>8}  where")
for each in exchanges:
    group = ",".join(map(str, each.group))
    print(
        f"{each.kind:20} {group:26} {each.times:5} {each.bytes / 1024:8.1f}  "
        f"{each.where[:60]}"
    )

# %% [markdown]
# The first of them as XLA writes it, with the groups of devices that talk to each
# other:

# %%
lines = [line.strip() for line in text.splitlines() if "replica_groups" in line]
print("\n\n".join(line[:300] for line in lines[:2]))

# %%
kinds = sorted({each.kind for each in exchanges})
sent = [sum(e.times * e.sent for e in exchanges if e.kind == k) / 1024 for k in kinds]
figure, axes = plt.subplots(figsize=(7, 0.8 + 0.5 * len(kinds)), layout="constrained")
axes.barh(kinds, sent)
axes.set(xlabel="KiB that a device sends for 64 tokens")
plt.show()

# %% [markdown]
# ## It is the same model
#
# Where one device holds it too, the logits are compared.

# %%
ids = [int(i) for i in sequence]
cut = llm.logits(ids)
print("logits", cut.shape, "largest", np.abs(cut).max())
if one is not None:
    print("largest difference from one device:", np.abs(cut - one.logits(ids)).max())
