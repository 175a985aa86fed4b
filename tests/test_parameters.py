"""The parameter tree: its sizes, names and dtypes, for every model that is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import parameters, sharding
from r1jax.presets import preset

COUNTS = {
    "r1": 671_026_419_200,
    "v3-base": 671_026_419_200,
    "distill-qwen-1.5b": 1_777_088_000,
    "distill-qwen-7b": 7_615_616_512,
    "distill-qwen-14b": 14_770_033_664,
    "distill-qwen-32b": 32_763_876_352,
    "distill-llama-8b": 8_030_261_248,
    "distill-llama-70b": 70_553_706_496,
    "r1-0528-qwen3-8b": 8_190_735_360,
}
TOYS = ("r1", "qwen2", "llama", "qwen3")


def by_path(tree, is_leaf=None):
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_those_of_the_releases(name):
    assert parameters.count(preset(name)) == COUNTS[name]


@pytest.mark.parametrize("family", TOYS)
def test_every_dimension_of_every_leaf_has_a_name_that_placement_knows(tiny, family):
    shapes = by_path(parameters.abstract(tiny(family)))
    axes = by_path(
        parameters.logical_axes(tiny(family)), is_leaf=lambda x: isinstance(x, tuple)
    )
    assert axes.keys() == shapes.keys()
    for path, names in axes.items():
        assert len(names) == len(shapes[path].shape), path
        assert set(names) <= set(sharding.AXES), path
        stacked = path.split("/")[0] in ("dense_layers", "moe_layers", "mtp")
        assert (names[0] == "layers") == stacked, path


def test_the_toy_r1_has_every_leaf_of_the_drawing(tiny):
    """The tree as drawn in docs/weights.md; names are the format on disk."""
    attention = {
        "q_down/kernel": (64, 48),
        "q_down_norm/scale": (48,),
        "q_up/kernel": (48, 4, 24),
        "kv_down/kernel": (64, 40),
        "kv_norm/scale": (32,),
        "k_up/kernel": (32, 4, 16),
        "v_up/kernel": (32, 4, 16),
        "o/kernel": (4, 16, 64),
    }
    norms = {"attention_norm/scale": (64,), "mlp_norm/scale": (64,)}
    block = norms | {f"attention/{name}": shape for name, shape in attention.items()}
    mlp = {"mlp/gate_up/kernel": (64, 2, 128), "mlp/down/kernel": (128, 64)}
    moe = {
        "moe/router/kernel": (64, 16),
        "moe/router/bias": (16,),
        "moe/experts/gate_up": (16, 64, 2, 32),
        "moe/experts/down": (16, 32, 64),
        "moe/shared/gate_up/kernel": (64, 2, 32),
        "moe/shared/down/kernel": (32, 64),
    }
    words = {"embed/embedding": (512, 64), "lm_head/kernel": (64, 512)}
    mtp = {f"block/{name}": shape for name, shape in (block | moe).items()} | words
    mtp |= {
        f"{name}/scale": (64,) for name in ("embed_norm", "hidden_norm", "head_norm")
    }
    mtp["projection/kernel"] = (128, 64)
    wanted = words | {"final_norm/scale": (64,)}
    wanted |= {f"dense_layers/{name}": (1, *s) for name, s in (block | mlp).items()}
    wanted |= {f"moe_layers/{name}": (2, *s) for name, s in (block | moe).items()}
    wanted |= {f"mtp/{name}": (1, *shape) for name, shape in mtp.items()}
    found = by_path(parameters.abstract(tiny("r1")))
    assert {path: leaf.shape for path, leaf in found.items()} == wanted


def test_a_tied_head_has_no_leaf_of_its_own(tiny):
    tied, free = tiny("llama"), tiny("qwen2")
    assert tied.tied_head
    assert "lm_head/kernel" not in by_path(parameters.abstract(tied))
    assert "lm_head/kernel" in by_path(parameters.abstract(free))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_routers_bias_alone_is_always_float32(tiny, dtype):
    for path, leaf in by_path(parameters.abstract(tiny("r1"), dtype)).items():
        wide = path.endswith("moe/router/bias")
        assert leaf.dtype == (jnp.float32 if wide else dtype), path
        assert parameters.keeps_float32(tuple(path.split("/"))) == wide


@pytest.mark.parametrize("family", ["r1", "qwen2"])
def test_random_kernels_have_unit_gain(tiny, tiny_params, family):
    """The embedding and the experts included; norms are ones and biases zeros."""
    outputs = {"o": 2, "v_up": 1, "k_up": 1, "q_up": 1, "q": 1, "k": 1, "v": 1}
    for path, leaf in by_path(tiny_params(family)).items():
        *_, owner, kind = path.split("/")
        stacked = path.split("/")[0] in ("dense_layers", "moe_layers", "mtp")
        shape = leaf.shape[stacked:]
        if kind in ("scale", "bias"):
            assert np.all(leaf == (kind == "scale")), path
            continue
        inputs = 64 if kind == "embedding" else shape[owner == "experts"]
        if outputs.get(owner) == 2:
            inputs = shape[0] * shape[1]
        assert float(jnp.std(leaf)) == pytest.approx(inputs**-0.5, rel=0.1), path


def test_layers_differ_and_a_key_gives_the_same_parameters_again(tiny, tiny_params):
    config = tiny("qwen2")
    kernel = tiny_params("qwen2")["dense_layers"]["mlp"]["down"]["kernel"]
    assert not np.array_equal(kernel[0], kernel[1])
    again = jax.jit(lambda: parameters.init(config, jax.random.key(0)))()
    jax.tree.map(np.testing.assert_array_equal, again, tiny_params("qwen2"))
