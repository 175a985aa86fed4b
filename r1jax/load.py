"""One door: a source of weights becomes a language model that can be asked."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from r1jax import parameters
from r1jax.capacity import cache_pages, weight_bytes
from r1jax.config import ModelConfig
from r1jax.engine.drafts import check_drafts
from r1jax.engine.types import EngineOptions, SamplingParams
from r1jax.errors import CheckpointError, ConfigError, RequestError
from r1jax.hosts import Hosts
from r1jax.hub import RELEASES
from r1jax.layers.expert_places import Places, plan_places
from r1jax.llm import LLM
from r1jax.locate import locate
from r1jax.placing import placements
from r1jax.presets import NAMES, preset
from r1jax.quant import Scheme, quantise_tree
from r1jax.sharding import STRATEGIES, Placement, make_mesh
from r1jax.target import Target, target_for
from r1jax.text.tokenizer import Tokenizer
from r1jax.typing import PyTree
from r1jax.weights import Source, open_source, read_expert_loads
from r1jax.weights.dtypes import chosen_scheme

# Random weights beyond this are surely a mistake: a preset alone has no others.
_MOST_RANDOM = 2 * 10**9


def load(
    source: str | os.PathLike[str] | None = None,
    *,
    dtype: str | None = None,
    attention_dtype: str | None = None,
    dense_dtype: str | None = None,
    experts_dtype: str | None = None,
    mesh: Mesh | None = None,
    strategy: str | None = None,
    kernels: bool | None = None,
    max_model_len: int | None = None,
    max_num_seqs: int = 8,
    max_num_batched_tokens: int = 512,
    page_size: int = 128,
    num_pages: int | None = None,
    prefix_caching: bool = True,
    memory_utilization: float | None = None,
    redundant_experts: int = 0,
    expert_loads: str | os.PathLike[str] | None = None,
    draft: str | None = None,
    num_draft_tokens: int | None = None,
    prompt_lookup_max: int | None = None,
    prompt_lookup_min: int | None = None,
    seed: int | None = None,
    hosts: Hosts | None = None,
) -> LLM:
    """Loads a model.

    Args:
      source: An r1jax checkpoint, a Hugging Face directory, a GGUF file, a preset's
        name (random weights), a Hugging Face repository's name or name@revision
        (docs/hub.md), an r1jax checkpoint in a bucket (gs://BUCKET/PATH), or None for
        r1-nano, which comes with this package. "smollm2" is the model of the `demo`
        extra.
      dtype: float32, bfloat16 or float16; by default float32 on a CPU, where XLA is
        slow with the others, and bfloat16 elsewhere. Or of few bits: int8, fp8,
        fp8_blocks or int4 (docs/weights.md); what stays plain is of the default then.
        A checkpoint that is stored so is loaded so.
      attention_dtype: Other than `dtype` for the projections of attention.
      dense_dtype: The same for feed-forward layers and shared experts.
      experts_dtype: The same for routed experts.
      mesh: Devices to cut the model over, as `r1jax.make_mesh(data, tensor)` arranges
        them. By default it runs on one device.
      strategy: How the mesh is used (`r1jax.sharding.RULES`): by default "throughput",
        which cuts sequences over `data` and heads, feed-forward and vocabulary over
        `tensor`; "latency" cuts these over both, for a few sequences. Experts go over
        all.
      kernels: Whether Pallas kernels run, or plain JAX. By default they do on TPUs that
        they are compiled for; on NVIDIA GPUs only when asked for, since they have not
        been run on one yet.
      max_model_len: Longest context in tokens; the model's own limit by default.
      max_num_seqs: Sequences that decode at once, on each part of `data`.
      max_num_batched_tokens: Prompt tokens of one step, on each part of `data`.
      page_size: Tokens in a page of the cache.
      num_pages: Pages in the cache of each device; by default as many as all sequences
        need at full length, within the memory allowed.
      prefix_caching: Whether a request begins with the pages that an earlier one has
        filled with the same tokens.
      memory_utilization: The share of the device's memory, less the weights, that
        the cache may take: 0.9 by default, on a CPU 0.1.
      redundant_experts: Copies of the busiest experts of each layer, to even out the
        devices' work; on a mesh only, and with `expert_loads`.
      expert_loads: A file of `save_expert_loads` that says how busy each expert is.
        Without copies it puts the experts in a better order.
      draft: How tokens are guessed ahead and verified several in a step: "mtp" by the
        model's own multi-token-prediction layer, "ngram" by what followed the same
        tokens earlier. The answers stay the same (docs/drafting.md).
      num_draft_tokens: How many are guessed at once; by default 1 with "mtp" and 3 with
        "ngram".
      prompt_lookup_max: With "ngram", how many of the newest tokens are looked up
        first; 4 by default, or the minimum if that is more.
      prompt_lookup_min: The fewest that are looked up; 2 by default, or the maximum if
        that is less.
      seed: For a preset's random weights, and for requests that have no seed.
      hosts: The other processes of this program, as `r1jax.hosts.join` gives them;
        all must load the same, over a mesh of all their devices (by default one that
        has them all on its second axis). Process 0 decides how many pages there are.

    Raises:
      R1jaxError: The source or an option cannot be used; says why and what to do.
    """
    if hosts is not None and mesh is None:
        mesh = make_mesh(1, jax.device_count())
    name = "r1jax" if source is None else os.fspath(source)
    opened: Source | None = None
    parts = (attention_dtype, dense_dtype, experts_dtype)
    if not (name in NAMES and not Path(name).exists()):
        forms = functools.partial(_forms, None, dtype=dtype, parts=parts)
        opened = open_source(locate(source, forms))
    config = opened.config if opened else preset(name)
    check_drafts(config, draft)
    chosen, scheme = _forms(opened, config, dtype, parts)
    target = _target(config, mesh, strategy, kernels)
    on = target.placement
    loads = None if expert_loads is None else read_expert_loads(expert_loads, config)
    devices = on.devices("experts") if on else 1
    places = plan_places(config, devices, redundant_experts, loads)
    if opened:
        params = _read(opened, chosen, scheme, target, places, draft == "mtp")
    else:
        params = _random(name, config, chosen, scheme, seed or 0)
    tokenizer = open_tokenizer(opened) if opened else None
    if tokenizer is not None:
        ends = dict.fromkeys((*config.eos_ids, *tokenizer.eos_ids))
        config = dataclasses.replace(config, eos_ids=tuple(ends))
    options = EngineOptions(
        max_model_len=_context(config, max_model_len),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        page_size=page_size,
        num_pages=num_pages,
        prefix_caching=prefix_caching,
        **_drafting(draft, num_draft_tokens, prompt_lookup_max, prompt_lookup_min),
    )
    if num_pages is None:
        weights = weight_bytes(config, params, target, places)
        pages = cache_pages(
            config, options, chosen, target, weights, memory_utilization
        )
        options = dataclasses.replace(options, num_pages=pages)
    if hosts is not None:
        options = _agreed(hosts, name, config, chosen, scheme, target, options, places)
    recommended = _sampling(opened.generation if opened else {})
    return LLM(
        name,
        config,
        params,
        tokenizer,
        options,
        recommended,
        seed,
        target,
        hosts,
        places,
    )


def _agreed(
    hosts: Hosts,
    name: str,
    config: ModelConfig,
    dtype: str,
    scheme: Scheme | None,
    target: Target,
    options: EngineOptions,
    places: dict[str, Places],
) -> EngineOptions:
    """Returns the options of process 0, after comparing what must be the same."""
    assert target.placement is not None
    pages = {"num_pages": options.num_pages}
    settings = {
        "the model": Path(name).name,
        "its configuration": repr(config),
        "dtype": dtype,
        "what is of few bits": repr(scheme),
        "the form": target.form,
        "the mesh": dict(target.placement.mesh.shape),
        "the strategy": target.placement.rules,
        "the digest of the experts' places": _digest(places),
        "the version of JAX": jax.__version__,
        **{k: v for k, v in vars(options).items() if k not in pages},
    }
    return dataclasses.replace(options, **hosts.agree(settings, pages))


def _drafting(
    draft: str | None, count: int | None, longest: int | None, shortest: int | None
) -> dict[str, Any]:
    """Returns the engine's options of guessing, those that were not left out.

    Raises:
      ConfigError: One is given that the way of guessing has not.
    """
    lookup = {"prompt_lookup_max": longest, "prompt_lookup_min": shortest}
    for name, value, ways in (
        ("num_draft_tokens", count, ("mtp", "ngram")),
        *((name, value, ("ngram",)) for name, value in lookup.items()),
    ):
        if value is not None and draft not in ways:
            raise ConfigError(
                f"{name} is {value} while draft is {draft!r}",
                f"it is an option of {' and '.join(ways)}",
                f"leave it out, or choose draft={ways[-1]!r}",
            )
    if count is None:
        count = 3 if draft == "ngram" else 1
    return {
        "draft": draft,
        "num_draft_tokens": count,
        "prompt_lookup_max": max(4, shortest or 1) if longest is None else longest,
        "prompt_lookup_min": min(2, longest or 2) if shortest is None else shortest,
    }


def _digest(places: Mapping[str, Places]) -> str:
    taken = hashlib.sha256()
    for name, place in sorted(places.items()):
        taken.update(name.encode() + place.tobytes())
    return taken.hexdigest()


def _target(
    config: ModelConfig, mesh: Mesh | None, strategy: str | None, kernels: bool | None
) -> Target:
    if strategy not in (None, *STRATEGIES):
        raise ConfigError(
            f"strategy is {strategy!r}",
            f"a mesh is used for {' or '.join(STRATEGIES)}",
            "choose one of them",
        )
    if mesh is None and strategy is not None:
        raise ConfigError(
            f"strategy is {strategy!r} without a mesh",
            "it says how devices share the work, and there is one",
            "leave it out, or say over how many devices the model is cut",
        )
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    placement = None if mesh is None else Placement(mesh, strategy or STRATEGIES[-1])
    return target_for(device.device_kind, config, placement, kernels)


def _read(
    opened: Source,
    dtype: str,
    scheme: Scheme | None,
    target: Target,
    places: Mapping[str, Places],
    mtp: bool,
) -> PyTree:
    """Reads weights, straight to their devices unless experts are to be moved first."""
    if places:
        return opened.params(dtype, scheme=scheme, mtp=mtp)
    shapes = parameters.abstract(opened.config, dtype, scheme)
    where = placements(opened.config, shapes, target, places)
    return opened.params(dtype, scheme=scheme, shardings=where, mtp=mtp)


def _random(
    name: str, config: ModelConfig, dtype: str, scheme: Scheme | None, seed: int
) -> PyTree:
    size = parameters.count(config)
    if size > _MOST_RANDOM:
        raise CheckpointError(
            f"the preset {name!r} has {size:,} parameters and no weights of its own",
            "a preset says how large a model is; only small ones are filled at random",
            f"load {RELEASES.get(name, 'a checkpoint of it')} (docs/hub.md)",
        )

    def make() -> PyTree:
        plain = parameters.init(config, jax.random.key(seed), dtype)
        return quantise_tree(plain, scheme)

    return jax.jit(make)()


def open_tokenizer(opened: Source) -> Tokenizer | None:
    """Returns a checkpoint's tokenizer; None where it has none."""
    if opened.tokenizer_fields is not None:
        return Tokenizer.from_gguf_fields(opened.tokenizer_fields)
    if opened.tokenizer_directory is not None:
        return Tokenizer.from_directory(opened.tokenizer_directory)
    return None


def _forms(
    opened: Source | None,
    config: ModelConfig,
    dtype: str | None,
    parts: Sequence[str | None],
) -> tuple[str, Scheme | None]:
    """Returns the dtype of what is plain, and what is kept in few bits."""
    usual = "float32" if jax.devices()[0].platform == "cpu" else "bfloat16"
    if dtype is None and not any(parts):
        return usual, opened.scheme if opened else None
    return chosen_scheme(config, dtype or usual, *parts, plain=usual)


def _context(config: ModelConfig, asked: int | None) -> int:
    if asked is not None and not 2 <= asked <= config.max_positions:
        raise ConfigError(
            f"max_model_len is {asked}",
            f"the model was made for contexts of 2 to {config.max_positions} tokens",
            f"choose at most {config.max_positions}",
        )
    return asked or config.max_positions


def _sampling(generation: Mapping[str, Any]) -> SamplingParams:
    """Returns the checkpoint's recommended sampling, R1's where it says nothing."""
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    given = {n: generation[n] for n in names if generation.get(n) is not None}
    if generation.get("do_sample") is False:
        given["temperature"] = 0.0
    try:
        return SamplingParams(**given)
    except RequestError as error:
        raise CheckpointError(
            f"generation_config.json: {error.what}", error.why, error.fix
        ) from None
