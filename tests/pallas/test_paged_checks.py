"""What cannot work is refused before anything is traced, with the numbers."""

from dataclasses import replace

import pytest

from pallas.paged_steps import BLOCKS, run, step
from r1jax.errors import ConfigError
from r1jax.pallas.gqa_attention.cases import CASES as GQA
from r1jax.pallas.mla_attention.cases import CASES as MLA

CASE = replace(GQA[0].small(), context=64, rows=2)


@pytest.mark.parametrize(
    ("change", "blocks", "said"),
    [
        (dict(page=24, context=48), {}, "pages of 24 tokens"),
        (dict(dtype="int8", page=32), {}, "scales lie along lanes"),
        (dict(width=96), {}, "pad entries to 256"),
        (dict(heads=5), {}, "5 query heads over 2 key heads"),
        ({}, dict(keys=200), "blocks of 200 keys"),
        ({}, dict(piece=96), "pieces of 96 keys"),
        ({}, dict(depth=1), "depth of 2 or more"),
        ({}, dict(keys=2**17, piece=128), "would keep"),
    ],
)
def test_impossible_sizes_are_refused(change, blocks, said):
    with pytest.raises(ConfigError, match=said):
        run(
            step(replace(CASE, **change), [5, 9], [1, 1]),
            blocks=replace(BLOCKS, **blocks),
        )


def test_a_value_is_part_of_its_entry():
    case = replace(MLA[0].small(), value_width=300, rows=1)
    with pytest.raises(ConfigError, match="300 lanes in an entry of 256"):
        run(step(case, [5], [1]))
