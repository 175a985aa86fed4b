# %% [markdown]
# # What slice does R1 need?
#
# The TPU compiler needs no TPU. `r1jax.plan` compiles the engine's own steps for a
# slice that is not there, and says whether the model fits, how much cache is left,
# and the least that a step can take.

# %% [markdown]
# ## By shapes alone
#
# Which of these slices hold R1 with 64 sequences of 2,048 tokens, and what memory and
# matrix units would allow of each. Nothing is compiled yet.

# %%
import r1jax
from r1jax.plan import recommend, slices
from r1jax.presets import preset
from r1jax.quant import scheme

slices.prepare("v5e:8x8")  # describes TPUs; this notebook itself runs on the CPU
config = preset("r1")
forms = [(dtype, scheme(dtype)) for dtype in ("int8", "bfloat16")]
SOME = ("v5e:4x8", "v5e:8x8", "v6e:4x4", "v6e:4x8", "v5p:2x4x4", "tpu7x:2x2x2")
try:
    found = recommend.candidates(config, forms, batch=64, context=2048, slices=SOME)
except r1jax.R1jaxError as error:  # the TPU compiler is for Linux on x86-64 only
    found = []
    print(error)
print(f"{len(found)} of {len(SOME)} slices hold it")

# %%
import matplotlib.pyplot as plt

if found:
    names = [f"{one.setup.on.name} {one.dtype}" for one in found]
    figure, axes = plt.subplots(
        figsize=(8, 0.8 + 0.3 * len(found)), layout="constrained"
    )
    axes.barh(names, [one.most for one in found])
    axes.invert_yaxis()
    axes.set(xlabel="tokens a second and chip, exchanges left out")
    axes.set_title("R1, 64 sequences of 2,048 tokens")
    plt.show()

# %% [markdown]
# ## By the compiler
#
# One of them compiled: memory as the compiler counts it, and exchanges read out of
# the program. `--chunk 512` would add the step that computes prompts, `--recommend 3`
# would compile the best three and rank them.

# %%
import subprocess
import sys

SLICE = "v5e:8x8"
command = [sys.executable, "-m", "r1jax.plan", "r1", "--topology", SLICE]
command += ["--dtype", "int8", "--batch", "64", "--context", "2048", "--chunk", "0"]
command += ["--picture", "plan.png"]
told = subprocess.run(command, capture_output=True, text=True, check=False)
print(told.stdout or told.stderr)

# %%
from IPython.display import Image, display

if told.returncode == 0:
    display(Image("plan.png"))
