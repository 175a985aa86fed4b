"""Ways to damage a checkpoint, by the damage's name."""

import json
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path], None]


def remove(name: str) -> Damage:
    return lambda path: (path / name).unlink()


def cut(name: str) -> Damage:
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:-3])


def empty(name: str) -> Damage:
    return lambda path: (path / name).write_bytes(b"")


def flip(name: str) -> Damage:
    def damage(path: Path) -> None:
        content = bytearray((path / name).read_bytes())
        content[len(content) // 2] ^= 1
        (path / name).write_bytes(content)

    return damage


def in_manifest(**fields) -> Damage:
    def damage(path: Path) -> None:
        manifest = json.loads((path / "r1jax.json").read_text())
        (path / "r1jax.json").write_text(json.dumps(manifest | fields))

    return damage


CHUNK = "dense_layers.mlp.down.kernel/c/0/0/0"
IN_MANIFEST = {
    "no manifest": remove("r1jax.json"),
    "half a manifest": cut("r1jax.json"),
    "another format": in_manifest(format=1),
    "no config": in_manifest(config={}),
    "a config of the wrong kind": in_manifest(config=7),
    "no leaves": in_manifest(leaves={}),
    "leaves of the wrong kind": in_manifest(leaves=[1]),
    "an unknown scheme": in_manifest(scheme={"attention": "int3"}),
    "an unknown dtype": in_manifest(dtype="int3"),
}
IN_LEAVES = {
    "a chunk missing": remove(CHUNK),
    "a chunk empty": empty(CHUNK),
    "a chunk cut short": cut(CHUNK),
    "a chunk with a flipped bit": flip(CHUNK),
    "an array's description missing": remove("embed.embedding/zarr.json"),
    "an array's description cut short": cut("embed.embedding/zarr.json"),
}
BESIDE = {
    "a tokenizer missing": remove("tokenizer.json"),
    "a tokenizer changed": flip("tokenizer.json"),
    "a foreign file": lambda path: (path / "thesis.tex").write_text("?"),
    "Orbax's description changed": flip("_METADATA"),
}
