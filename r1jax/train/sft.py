"""Supervised fine-tuning: from a checkpoint and conversations to a checkpoint.

Distilling a teacher is the same: its answers are the conversations.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from r1jax import sharding
from r1jax.errors import ConfigError
from r1jax.load import open_tokenizer
from r1jax.quant import FLOATS
from r1jax.text import Tokenizer
from r1jax.train import data, lora, optimizer, state
from r1jax.train.batch import Example, Packed, fill
from r1jax.train.checkpoints import Checkpoints
from r1jax.train.interrupts import interrupts
from r1jax.train.log import Log
from r1jax.train.lora import Lora
from r1jax.train.loss import Loss
from r1jax.train.models import Model, export, open_model
from r1jax.train.settings import COMPUTED, among, at_least, in_common
from r1jax.train.state import State
from r1jax.typing import PyTree

Say = Callable[[str], None]

_LEAST = {
    "steps": 1,
    "save_every": 1,
    "keep": 1,
    "seed": 0,
    "data.width": 2,
    "data.rows": 1,
    "data.parts": 1,
    "lora.rank": 0,
}


def run(settings: ConfigDict, output: Path, resume: bool, say: Say = print) -> bool:
    """Trains, and writes checkpoints, metrics and the model into a directory.

    Args:
      settings: As in configs/sft.py.
      output: The directory.
      resume: Whether to go on with its newest checkpoint.
      say: Takes what is to be read.

    Returns:
      Whether all steps were done; False after Ctrl-C, which saves.

    Raises:
      R1jaxError: Something is wrong with the settings, the data or the checkpoint.
    """
    at_least(settings, _LEAST)
    among(settings, {"export_dtype": FLOATS, "loss.dtype": COMPUTED})
    mesh = sharding.make_mesh(settings.mesh.data, settings.mesh.tensor)
    adapters = Lora(**settings.lora) if settings.lora.rank else None
    choice = optimizer.Optimizer(steps=settings.steps, **settings.optimizer)
    loss = Loss(**settings.loss, steps=settings.steps)
    _check(settings, adapters)
    model = open_model(settings.model, mesh, bool(loss.mtp_weight), settings.seed)
    some, dropped = data.examples(
        _tokenizer(settings, model),
        settings.data.files,
        settings.data.width,
        settings.data.drop_longer,
    )
    batches = data.Batches(
        some,
        settings.data.width,
        settings.data.rows,
        settings.data.parts,
        settings.seed,
    )
    say(
        f"{len(some)} conversations in {len(batches.packed.tokens)} rows of "
        f"{settings.data.width} tokens, {fill(batches.packed):.1%} filled"
        + (f"; {dropped} longer ones left out" if dropped else "")
    )
    tools = optimizer.build(choice)
    now = _first_state(model, tools, adapters, settings.seed, mesh)
    learnt = sum(leaf.size for leaf in jax.tree.leaves(now.params))
    say(f"{learnt:,} parameters learn, on {mesh.size} device(s)")
    output.mkdir(parents=True, exist_ok=True)
    about = _about(settings, some)
    with Checkpoints(output, settings.keep) as saved:
        if not resume:
            saved.check_new()
        else:
            now = saved.restore(now, about)
            say(f"goes on after step {int(now.step)}")

        def write(state: State) -> Path:
            return export(
                model.config,
                model.source,
                state,
                adapters,
                output,
                settings.export_dtype,
                settings.tokenizer or None,
            )

        def save(state: State, last: bool) -> None:
            saved.save(state, about)
            if settings.export_every_save and not last:
                write(state)

        take = _compiled(model, loss, tools, adapters, now, mesh, settings)
        with Log(output, settings.steps, int(now.step)) as log:
            rate = optimizer.schedule(choice)
            now = _learn(settings, now, take, batches, rate, log, save)
    picture = log.close()
    if picture:
        say(f"drew {picture}")
    if int(now.step) < settings.steps:
        say(f"stopped and saved after step {int(now.step)}; --resume goes on")
        return False
    say(f"wrote {write(now)}")
    return True


def _compiled(
    model: Model,
    loss: Loss,
    tools: Any,
    adapters: Lora | None,
    now: State,
    mesh: Any,
    settings: ConfigDict,
) -> Callable[[State, Packed], tuple[State, dict[str, Any]]]:
    """Returns a step that takes a batch from the host; it donates the state."""
    where = jax.tree.map(lambda leaf: leaf.sharding, now)
    step = jax.jit(
        state.make_step(model.config, loss, tools, adapters),
        donate_argnums=0,
        out_shardings=(where, None),
        compiler_options=state.compile_options(),
    )
    place = sharding.Placement(mesh, "training").sharding(
        (None, "rows", None), (1, settings.data.rows, settings.data.width)
    )
    return lambda state, batch: step(state, jax.device_put(batch, place))


def _learn(
    settings: ConfigDict,
    now: State,
    take: Callable[[State, Packed], tuple[State, dict[str, Any]]],
    batches: data.Batches,
    rate: Callable[[int], Any],
    log: Log,
    save: Callable[[State, bool], None],
) -> State:
    """Takes the steps that are left, until the last or Ctrl-C; both are saved."""
    size = settings.data.parts * settings.data.rows * settings.data.width
    with interrupts() as stopped:
        for number in range(int(now.step), settings.steps):
            began = time.perf_counter()
            now, found = take(now, batches[number])
            numbers = {name: float(value) for name, value in found.items()}
            seconds = time.perf_counter() - began
            log.write(
                number + 1,
                **numbers,
                learning_rate=float(rate(number)),
                tokens_per_second=size / seconds,
            )
            last = stopped() or number + 1 == settings.steps
            if last or (number + 1) % settings.save_every == 0:
                save(now, last)
            if last:
                break
    return now


def _first_state(
    model: Model, tools: Any, adapters: Lora | None, seed: int, mesh: Any
) -> State:
    def make(params: PyTree) -> State:
        if adapters is None:
            return state.create(params, tools)
        some = lora.init(params, adapters, jax.random.key(seed))
        return state.create(some, tools, params)

    where = state.places(jax.eval_shape(make, model.params), model.places, mesh)
    made: State = jax.jit(make, out_shardings=where)(model.params)
    return made


def _tokenizer(settings: ConfigDict, model: Model) -> Tokenizer:
    if settings.tokenizer:
        return Tokenizer.from_directory(settings.tokenizer)
    found = open_tokenizer(model.source) if model.source else None
    if found is not None:
        return found
    raise ConfigError(
        f"{settings.model} has no tokenizer",
        "conversations must become tokens",
        "set tokenizer to a directory with tokenizer.json",
    )


def _check(settings: ConfigDict, adapters: Lora | None) -> None:
    """Refuses settings that do not go together."""
    rows, shards = settings.data.rows, settings.mesh.data
    if rows % shards:
        raise ConfigError(
            f"data.rows is {rows} and mesh.data {shards}",
            "each device has equally many rows",
            "make data.rows a multiple of mesh.data",
        )
    moved = {
        "optimizer.name=muon": settings.optimizer.name == "muon",
        "loss.bias_speed": settings.loss.bias_speed != 0,
        "loss.mtp_weight": settings.loss.mtp_weight != 0,
    }
    lora.refuse_with_adapters(adapters, moved)


def _about(settings: ConfigDict, some: Sequence[Example]) -> dict[str, Any]:
    """Says what a resumed run must have in common with its beginning."""
    digest = hashlib.sha256()
    for example in some:
        digest.update(np.asarray(example.tokens, np.int32).tobytes())
        digest.update(np.asarray(example.weights, np.float32).tobytes())
    free = ("save_every", "keep", "export_dtype", "export_every_save")
    fields = ConfigDict(settings.to_dict())
    del fields.data.files  # their content counts, not where they are
    digested = {"the data's digest": digest.hexdigest()[:16]}
    return digested | in_common(fields, free)
