"""What crosses to the device is the plan, to the last number."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.cache import Geometry
from r1jax.engine.packing import Form, fields, pack, unpack, views
from r1jax.engine.plans import Plan, Row, Sequence, Share
from r1jax.engine.types import SamplingParams
from r1jax.target import PLAIN

COLUMNS, SLOTS, PAGE = 5, 7, 4
GEOMETRY = Geometry(3, 2, 6)
FORM = Form(GEOMETRY, COLUMNS, shards=2)
UNPACK = jax.jit(lambda ints, floats: unpack(ints, floats, FORM, PLAIN))

penalties = st.floats(-2, 2, width=32)
samplings = st.builds(
    SamplingParams,
    temperature=st.floats(0, 2, width=32),
    top_p=st.floats(0.125, 1, width=32),
    min_p=st.floats(0, 1, width=32),
    top_k=st.integers(0, 2**31 - 1),
    presence_penalty=penalties,
    frequency_penalty=penalties,
    repetition_penalty=st.floats(0.125, 8, width=32),
    logprobs=st.none() | st.integers(0, 20),
)


@st.composite
def sequences(draw):
    tokens = draw(
        st.lists(st.integers(0, 2**31 - 1), min_size=2, max_size=COLUMNS * PAGE)
    )
    prompt = draw(st.integers(1, len(tokens)))
    pages = draw(
        st.lists(
            st.integers(1, 10**6), min_size=-(-len(tokens) // PAGE), max_size=COLUMNS
        )
    )
    return Sequence(
        id=draw(st.integers(0, 10**9)),
        tokens=tokens,
        prompt_length=prompt,
        sampling=draw(samplings),
        limit=draw(st.integers(1, 100)),
        slot=draw(st.integers(0, SLOTS - 1)),
        home=draw(st.integers(0, 3)),
        pages=pages,
    )


@st.composite
def shares(draw):
    decodes = [
        Row(s, len(s.tokens), 1, True, True)
        for s in draw(st.lists(sequences(), max_size=GEOMETRY.decodes))
    ]
    chunks = []
    for s in draw(st.lists(sequences(), max_size=GEOMETRY.chunks)):
        start = draw(st.integers(0, len(s.tokens) - 1))
        count = min(draw(st.integers(1, GEOMETRY.chunk_tokens)), len(s.tokens) - start)
        chunks.append(Row(s, start, count, start + count == len(s.tokens), False))
    return Share(decodes, chunks)


plans = st.builds(
    Plan,
    st.lists(shares(), min_size=FORM.shards, max_size=FORM.shards),
    st.just(GEOMETRY),
)


@settings(deadline=None)
@given(plans, st.integers(-(2**63), 2**64 - 1))
def test_the_device_unpacks_what_the_host_packed(plan, seed):
    rows = {number: (place, row) for number, place, row in plan.placed()}
    seeds = {row.sequence.id: seed - row.sequence.id for _, row in rows.values()}
    ruled = dict.fromkeys(list(rows)[::2], 2)
    step = UNPACK(*pack(plan, FORM, SLOTS, seeds, ruled))
    step = jax.tree.map(np.asarray, step)
    batch, drawn = step.batch, step.sampling
    fed = np.zeros(FORM.shards * GEOMETRY.tokens, bool)
    for number, (place, row) in rows.items():
        s, sampling = row.sequence, row.sequence.sampling
        cut = slice(place, place + row.count)
        fed[cut] = True
        where = range(row.start, row.start + row.count)
        assert batch.positions[cut].tolist() == list(where)
        if not row.decode:
            assert batch.tokens[cut].tolist() == [s.tokens[at] for at in where]
        pages = batch.page_table[number].tolist()
        assert pages == s.pages + [0] * (COLUMNS - len(s.pages))
        assert batch.lengths[number] == row.start + row.count
        assert step.last[number] == cut.stop - 1
        assert step.slot[number] == s.slot
        assert batch.homes[number] == s.home
        assert bool(step.from_device[number]) == row.decode
        assert bool(step.samples[number]) == row.samples
        assert step.rules[number] == ruled.get(number, 0)
        assert step.prompt_length[number] == s.prompt_length
        assert bool(step.logprobs[number]) == (sampling.logprobs is not None)
        assert drawn.temperature[number] == sampling.temperature
        assert drawn.top_p[number] == sampling.top_p
        assert drawn.top_k[number] == sampling.top_k
        assert drawn.min_p[number] == sampling.min_p
        assert drawn.presence[number] == sampling.presence_penalty
        assert drawn.frequency[number] == sampling.frequency_penalty
        assert drawn.repetition[number] == sampling.repetition_penalty
        high, low = (int(half) for half in drawn.seed[number])
        assert high << 32 | low == seeds[s.id] % 2**64
    padding = [n for n in range(FORM.rows) if n not in rows]
    assert np.all(batch.positions[~fed] == -1)
    assert np.all(step.slot[padding] == SLOTS)
    assert not batch.lengths[padding].any()
    assert not batch.page_table[padding].any()
    assert not step.samples[padding].any()
    assert not step.logprobs[padding].any()


def test_fields_cover_every_number_once():
    sizes = fields(FORM)
    ints = np.arange(FORM.shapes[0][0])
    cut = views(ints, FORM)
    assert {name: v.shape for name, v in cut.items()} == sizes
    assert np.concatenate([v.ravel() for v in cut.values()]).tolist() == ints.tolist()
