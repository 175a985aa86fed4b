"""Every device gets its own slice of a checkpoint, and nothing is read twice."""

import threading

import jax
import numpy as np
import pytest
import tensorstore as ts
from jax.experimental.layout import Format, Layout

from damages import flip
from r1jax import parameters
from r1jax.errors import CheckpointError
from r1jax.sharding import make_mesh
from r1jax.weights import arrays, leaves, open_source, reading, store
from r1jax.weights.room import Room

CHUNKED = "deepseek_yarn"


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("kind", ["hf", "orbax"])
def test_each_device_gets_its_own_slice(kind, converted, same, shardings_of):
    source, output = converted(CHUNKED, "bfloat16")
    opened = open_source(source if kind == "hf" else output)
    shardings = shardings_of(opened.config)
    params = opened.params("bfloat16", shardings=shardings)
    assert opened.kind == kind
    assert jax.tree.map(lambda leaf: leaf.sharding, params) == shardings
    down = params["moe_layers"]["moe"]["experts"]["down"]
    assert {part.data.shape[1] for part in down.addressable_shards} == {4}
    same(params, open_source(source).params("bfloat16"))


CUTS = {
    "experts": ("data", "tensor"),
    **dict.fromkeys(("vocab", "heads", "mlp", "expert_mlp"), ("tensor",)),
}


def on_mesh(config, data: int, tensor: int, scheme=None):
    """Cuts what a mesh's sizes divide; the rest every device has whole."""
    mesh = make_mesh(data, tensor)

    def place(leaf, axes):
        cuts = []
        for axis, size in zip(axes, leaf.shape, strict=True):
            cut = CUTS.get(axis, ())
            even = size % int(np.prod([mesh.shape[name] for name in cut])) == 0
            free = not any(set(cut) & set(other) for other in cuts)
            cuts.append(cut if even and free else ())
        return jax.NamedSharding(mesh, jax.P(*(cut or None for cut in cuts)))

    shapes = parameters.abstract(config, "bfloat16", scheme)
    return jax.tree.map(place, shapes, parameters.logical_axes(config, scheme))


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 8), "bfloat16"),
        ((2, 4), "int8"),
        ((4, 2), "fp8_blocks"),
        ((8, 1), "int4"),
    ],
    ids=str,
)
def test_any_mesh_has_the_same_values(shape, dtype, converted, same):
    _, output = converted(CHUNKED, dtype)
    opened = open_source(output)
    places = on_mesh(opened.config, *shape, opened.scheme)
    params = opened.params(shardings=places)
    assert jax.tree.map(lambda leaf: leaf.sharding, params) == places
    same(params, opened.params())


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("piece", [1, 2**30])  # bytes: layer by layer, and whole
def test_leaves_lie_as_they_are_asked_to(piece, converted, same, monkeypatch):
    monkeypatch.setattr(reading, "_PIECE", piece)
    _, output = converted(CHUNKED, "bfloat16")
    opened = open_source(output)
    places = on_mesh(opened.config, 2, 4)
    shapes = parameters.abstract(opened.config, "bfloat16")

    def turned(leaf, place):
        order = tuple(reversed(range(len(leaf.shape))))
        return Format(Layout(major_to_minor=order), place)

    formats = jax.tree.map(turned, shapes, places)
    params = opened.params(shardings=formats)
    for leaf, wanted in zip(*map(jax.tree.leaves, (params, formats)), strict=True):
        assert leaf.sharding == wanted.sharding
        assert leaf.format.layout.major_to_minor == wanted.layout.major_to_minor
    same(params, opened.params())


def read_bytes() -> int:
    """Bytes that tensorstore has read from files, ever."""
    (metric,) = ts.experimental_collect_matching_metrics(
        "/tensorstore/kvstore/file/bytes_read"
    )
    return metric["values"][0]["value"]


@pytest.mark.parametrize("shape", [(1, 8), (2, 4), (8, 1)], ids=str)
def test_every_chunk_is_read_once_however_many_devices_share_it(
    shape, converted, monkeypatch
):
    monkeypatch.setattr(arrays, "_CHUNK", 300)
    _, output = converted(CHUNKED, "bfloat16")
    opened = open_source(output)
    places = on_mesh(opened.config, *shape)
    on_disk = sum(p.stat().st_size for p in output.glob("*/**/*") if p.is_file())
    before = read_bytes()
    opened.params(shardings=places)
    assert read_bytes() - before == on_disk


def test_a_device_reads_its_slice_rounded_up_to_chunks(converted, monkeypatch):
    """One process of eight, which holds one device's part of every leaf."""
    monkeypatch.setattr(leaves, "_WHOLE", 0)
    monkeypatch.setattr(arrays, "_CHUNK", 300)
    _, output = converted(CHUNKED, "bfloat16")
    opened = open_source(output)
    stored = {a.name: a for a in store.arrays(opened.config, opened.manifest)}
    experts = stored["moe_layers/moe/experts/down"]
    before = read_bytes()
    with reading.Reader(output) as reader:
        array = reader._source(experts, experts.dtype)
        layers, count, *inner = experts.shape
        place = (slice(0, layers), slice(2, 4), *(slice(0, n) for n in inner))
        array.read(place)
    description = (output / experts.folder / "zarr.json").stat().st_size
    chunk = 2 * np.prod(experts.chunk) + 4  # with its checksum
    chunks = layers * 2 * np.prod(inner) // np.prod(experts.chunk)
    assert read_bytes() - before == description + chunks * chunk
    assert count == 16


def test_memory_has_room_for_one_thing_that_is_too_large():
    room = Room(10)
    with room.held(100):
        pass
    with room.held(6), room.held(4):
        waiting = threading.Thread(target=room.enter, args=(1,))
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
    waiting.join(5)
    assert not waiting.is_alive()


def test_an_error_ends_all_waiting_for_memory():
    room = Room(10)
    room.enter(10)
    raised = []

    def wait():
        with pytest.raises(CheckpointError) as error:
            room.enter(1)
        raised.append(error.value)

    waiting = threading.Thread(target=wait)
    waiting.start()
    room.fail(CheckpointError("broken"))
    waiting.join(5)
    assert [error.what for error in raised] == ["broken"]


def test_one_broken_leaf_ends_the_reading_of_all(converted, shardings_of):
    _, output = converted(CHUNKED, "bfloat16")
    flip("moe_layers.moe.experts.down/c/0/0/0/0")(output)
    opened = open_source(output)
    with pytest.raises(CheckpointError, match="moe_layers/moe/experts/down"):
        opened.params(shardings=shardings_of(opened.config))
