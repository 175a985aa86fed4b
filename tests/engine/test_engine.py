"""The engine on real arrays: whatever else runs, its tokens are the plain loop's."""

import dataclasses
import itertools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engine.collect import ask, submit
from engine.toy_guides import Ends, Swings, Turns
from r1jax import cache, model, parameters, sharding
from r1jax.config import ModelConfig
from r1jax.engine import loop, simple
from r1jax.engine.loop import Engine
from r1jax.engine.runner import Message, Runner
from r1jax.engine.types import EngineOptions, SamplingParams
from r1jax.pallas.backend import REFERENCE
from r1jax.target import CPU, PLAIN, Target

CONFIG = ModelConfig.from_dict(
    {
        "family": "qwen2",
        "vocab_size": 64,
        "width": 32,
        "layers": 2,
        "dense_layers": 2,
        "mlp_width": 48,
        "attention": {
            "heads": 4,
            "kv_heads": 2,
            "head_dim": 8,
            "qkv_bias": True,
            "rope": {"theta": 100.0},
        },
        "moe": None,
        "mtp_layers": 0,
        "tied_head": False,
        "norm_eps": 1e-6,
        "max_positions": 256,
        "bos_id": None,
        "eos_ids": (),
    }
)
LONGEST = 160


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda: parameters.init(CONFIG, jax.random.key(7)))()


def engine_of(params, *, slots, chunk, pages, page_size, **drafting):
    options = EngineOptions(LONGEST, slots, chunk, page_size, **drafting)
    pools = cache.make_pools(CONFIG, pages, page_size, jnp.float32)
    engine = Engine(CONFIG, model.for_cpu(params), pools, options, target=CPU, seed=1)
    engine.wait_until_compiled()
    return engine


class Knowing:
    """Guesses what the plain loop has answered, and every third time something else."""

    def __init__(self, answers):
        self.known = [
            prompt_of(length) + answer
            for (length, _), answer in zip(REQUESTS, answers, strict=True)
        ]
        self.turn = itertools.count()

    def guess(self, sequence, device):
        tokens = sequence.tokens
        whole = next((k for k in self.known if k[: len(tokens)] == tokens), tokens)
        guesses = whole[len(tokens) : len(tokens) + 3] or [0]
        if next(self.turn) % 3 == 0:
            guesses[-1] = (guesses[-1] + 1) % CONFIG.vocab_size
        return guesses

    def forget(self, sequence):
        pass


@pytest.fixture(scope="module")
def guessing(params, plain_answers):
    """Two at once, few pages, and guesses of which most are right."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_drafter", lambda options: Knowing(plain_answers))
        engine = engine_of(
            params,
            slots=2,
            chunk=16,
            pages=42,
            page_size=4,
            draft="ngram",
            num_draft_tokens=3,
        )
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def meshed_guessing(params, plain_answers):
    """As `meshed`, with guesses of which most are right."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_drafter", lambda options: Knowing(plain_answers))
        engine = meshed_engine(params, draft="ngram", num_draft_tokens=3)
    engine.wait_until_compiled()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def roomy(params):
    """Two at once, both their prompts in a step, pages for all."""
    engine = engine_of(params, slots=2, chunk=128, pages=100, page_size=8)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def tight(params):
    """Three at once, short chunks, and pages for little more than one."""
    engine = engine_of(params, slots=3, chunk=16, pages=42, page_size=4)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def meshed(params):
    """Two data shards of two devices each, through the kernels' meanings."""
    engine = meshed_engine(params)
    engine.wait_until_compiled()
    yield engine
    engine.close()


def meshed_engine(params, **drafting):
    placement = sharding.Placement(sharding.make_mesh(2, 2), "throughput")
    target = Target("kernels", REFERENCE, placement)
    options = EngineOptions(LONGEST, 2, 64, page_size=16, **drafting)
    pools = cache.make_pools(CONFIG, 40, 16, jnp.float32, target)
    axes = parameters.logical_axes(CONFIG)
    where = sharding.shardings(params, axes, placement.mesh, placement.rules)
    mine = jax.device_put(params, where, may_alias=False)
    return Engine(CONFIG, mine, pools, options, target=target, seed=1)


# Prompt length and sampling of requests that have nothing in common.
REQUESTS = [
    (5, dict(temperature=0.0)),
    (70, dict(temperature=0.0, max_tokens=20)),
    (100, dict(temperature=1.0, top_p=1.0, seed=3)),
    (1, dict(temperature=0.7, top_p=0.9, seed=4, logprobs=3)),
    (17, dict(temperature=1.5, top_k=20, min_p=0.02, seed=-5)),
    (30, dict(temperature=0.0, repetition_penalty=1.3)),
    (12, dict(temperature=0.9, presence_penalty=0.8, frequency_penalty=0.4, seed=6)),
    (64, dict(temperature=1.0, repetition_penalty=0.8, seed=2**63 - 1)),
    (33, dict(temperature=2.0, top_p=1.0, seed=9, logprobs=0)),
    (3, dict(temperature=0.0, frequency_penalty=0.7, presence_penalty=-0.3)),
]


def prompt_of(length):
    return np.random.default_rng(length).integers(0, 64, length).tolist()


@pytest.fixture(scope="module")
def plain_answers(params):
    """What the plain loop answers to each of REQUESTS, 40 tokens at most."""
    return [
        simple.generate(
            CONFIG,
            params,
            prompt_of(length),
            SamplingParams(**{"max_tokens": 40, **sampling}),
            max_model_len=LONGEST,
        )
        for length, sampling in REQUESTS
    ]


@pytest.fixture(
    params=[
        *("roomy", "tight", "meshed", "guessing"),
        pytest.param("meshed_guessing", marks=pytest.mark.slow),
    ]
)
def engine(request):
    return request.getfixturevalue(request.param)


def test_a_crowd_gets_the_tokens_of_the_plain_loop(engine, plain_answers):
    before = engine.stats()
    answers = [
        submit(engine, prompt_of(length), **{"max_tokens": 40, **sampling})[1]
        for length, sampling in REQUESTS
    ]
    for i, (answer, wanted) in enumerate(zip(answers, plain_answers, strict=True)):
        assert answer.wait().tokens == wanted, REQUESTS[i]
        assert [bool(e.finish) for e in answer.events] == [False] * (
            len(wanted) - 1
        ) + [True]
    after = engine.stats()
    if engine.options.max_num_seqs == 3:
        assert after.preemptions > before.preemptions
    if engine.options.draft:
        accepted, drafts = (
            getattr(after, name) - getattr(before, name)
            for name in ("accepted", "drafts")
        )
        assert accepted > 100
        assert after.preemptions > before.preemptions or engine.options.page_size > 4
        assert drafts > accepted / 3
    tokens = after.generation_tokens - before.generation_tokens
    assert tokens == sum(len(wanted) for wanted in plain_answers)


def test_a_seed_gives_the_same_tokens_alone_as_in_a_crowd(engine, plain_answers):
    for i in (2, 4, 6):
        length, sampling = REQUESTS[i]
        answer = ask(engine, prompt_of(length), **{"max_tokens": 40, **sampling})
        assert answer.tokens == plain_answers[i]


# Samplings of requests whose prompts begin alike.
ALIKE = [
    dict(temperature=0.0),
    dict(temperature=0.0, repetition_penalty=1.3),
    dict(temperature=0.9, presence_penalty=0.8, frequency_penalty=0.4, seed=6),
    dict(temperature=1.2, repetition_penalty=0.8, seed=7),
    dict(temperature=0.0, frequency_penalty=0.9),
    dict(temperature=1.0, top_p=1.0, seed=8),
]


@pytest.fixture(scope="module")
def alike(params):
    """Prompts of 64 equal tokens and a few others, and the plain loop's answers."""
    prompts = [prompt_of(64) + prompt_of(i)[: 3 * i] for i in range(len(ALIKE))]
    return prompts, [
        simple.generate(
            CONFIG,
            params,
            prompt,
            SamplingParams(**{"max_tokens": 30, **sampling}),
            max_model_len=LONGEST,
        )
        for prompt, sampling in zip(prompts, ALIKE, strict=True)
    ]


def test_what_is_found_in_the_cache_changes_no_token(engine, alike):
    """Nor what penalties count, nor after preemption."""
    prompts, plain = alike
    before = engine.stats()
    for _ in range(2):
        answers = [
            submit(engine, prompt, **{"max_tokens": 30, **sampling})[1]
            for prompt, sampling in zip(prompts, ALIKE, strict=True)
        ]
        for answer, wanted in zip(answers, plain, strict=True):
            assert answer.wait().tokens == wanted
            assert {event.cached_tokens for event in answer.events[1:]} == {0}
    after, size = engine.stats(), engine.options.page_size
    cached = [answer.events[0].cached_tokens for answer in answers]
    if engine.options.max_num_seqs == 2:  # there are pages for all
        assert min(cached) >= 64 - size
    asked = 2 * sum(map(len, prompts))
    assert after.prefix_queries - before.prefix_queries == asked
    assert sum(cached) <= after.prefix_hits - before.prefix_hits < asked
    assert after.pages_used == 0
    engine._scheduler.audit()


def test_cancels_at_any_moment_leave_no_page_held(engine, alike):
    prompts, plain = alike
    random = np.random.default_rng(3)
    for _ in range(6):
        started = [submit(engine, prompt, temperature=0.0) for prompt in prompts]
        for number, answer in started:
            answer.wait(events=int(random.integers(0, 5)))
            engine.cancel(number)
        for _, answer in started:
            answer.wait()
    answer = ask(engine, prompts[0], **{"max_tokens": 30, **ALIKE[0]})
    assert answer.tokens == plain[0]
    assert engine.stats().pages_used == 0
    engine._scheduler.audit()


def test_the_end_of_the_context_is_reached_and_no_further(engine, params):
    prompt = prompt_of(LONGEST - 7)
    answer = ask(engine, prompt)
    wanted = simple.generate(
        CONFIG, params, prompt, SamplingParams(temperature=0), max_model_len=LONGEST
    )
    assert len(wanted) == 7
    assert answer.tokens == wanted
    assert answer.finish == "length"


def test_logprobs_are_the_log_softmax_of_the_models_logits(engine, params):
    """Of the model's own distribution, whatever the sampling does to it."""
    prompt = prompt_of(20)
    sampling = dict(temperature=1.3, top_k=3, repetition_penalty=1.2, seed=1)
    answer = ask(engine, prompt, max_tokens=12, logprobs=5, **sampling)
    padded = simple.padded(prompt + answer.tokens)
    logits = np.asarray(simple.whole_logits(CONFIG)(params, padded), np.float64)
    exact = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for at, event in enumerate(answer.events, len(prompt) - 1):
        assert event.logprob == pytest.approx(exact[at, event.token], abs=1e-4)
        best = np.argsort(-exact[at])[:5]
        assert [token for token, _ in event.top_logprobs] == best.tolist()
        values = [value for _, value in event.top_logprobs]
        assert values == pytest.approx(exact[at, best].tolist(), abs=1e-4)


def test_logprobs_come_only_where_they_were_asked_for(roomy):
    bare, none, one = (
        submit(roomy, [1, 2], max_tokens=3, logprobs=n)[1] for n in (None, 0, 1)
    )
    for answer in (bare, none, one):
        answer.wait()
    assert {event.logprob for event in bare.events} == {None}
    assert {event.top_logprobs for event in (*bare.events, *none.events)} == {()}
    for event, other in zip(none.events, one.events, strict=True):
        assert event.logprob == pytest.approx(other.logprob, abs=1e-5)
        assert other.top_logprobs == ((event.token, other.logprob),)


def test_pages_of_a_cancelled_request_serve_the_next_one(tight, plain_answers):
    """The next one finds another's entries in its pages, and must not see them."""
    for _ in range(3):
        number, answer = submit(tight, prompt_of(100), temperature=2.0)
        answer.wait(events=3)
        tight.cancel(number)
        answer.wait()
        length, sampling = REQUESTS[5]
        again = ask(tight, prompt_of(length), **{"max_tokens": 40, **sampling})
        assert again.tokens == plain_answers[5]


def test_penalties_begin_anew_for_each_request(roomy, plain_answers):
    length, sampling = REQUESTS[9]
    for _ in range(5):  # more than there are slots
        again = ask(roomy, prompt_of(length), **{"max_tokens": 40, **sampling})
        assert again.tokens == plain_answers[9]


def test_nothing_is_compiled_while_serving(roomy, caplog, monkeypatch):
    def no_more(self, geometry, scores=False):
        raise AssertionError(f"{geometry} is compiled on a request's path")

    monkeypatch.setattr(Runner, "compile", no_more)
    caplog.set_level(logging.WARNING)
    jax.config.update("jax_log_compiles", True)
    try:
        rules = dict(allowed_token_ids=(1, 2), logit_bias=((3, 1.0),))
        answers = [
            submit(
                roomy,
                prompt_of(n),
                max_tokens=5,
                frequency_penalty=n % 2,
                logprobs=2,
                prompt_logprobs=None if n % 3 else n % 4,
                **(rules if n > 50 else {}),
            )[1]
            for n in (1, 30, 70, 128, 40, 64)
        ]
        for answer in answers:
            assert answer.wait().finish == "length"
        served = len(caplog.records)
        jax.jit(lambda x: x + 17)(1.0)  # so that the log is known to work
    finally:
        jax.config.update("jax_log_compiles", False)
    assert [r.getMessage() for r in caplog.records[:served]] == []
    assert len(caplog.records) > served


def test_every_transfer_of_a_step_is_on_purpose(roomy):
    jax.config.update("jax_transfer_guard", "disallow")
    try:
        with pytest.raises(Exception, match="Disallowed"):
            jnp.sin(np.ones(3, np.float32)).block_until_ready()
        asked = dict(logprobs=2, prompt_logprobs=2, presence_penalty=1)
        rules = dict(logit_bias=((3, 1.0),), allowed_token_ids=(1, 2))
        answer = ask(roomy, prompt_of(70), max_tokens=5, **asked, **rules)
    finally:
        jax.config.update("jax_transfer_guard", "allow")
    assert answer.finish == "length"


def test_a_prompt_takes_one_step_and_each_further_token_another(roomy):
    before = roomy.stats().steps
    ask(roomy, prompt_of(70), max_tokens=10)
    assert roomy.stats().steps - before == 10


def test_one_slot_and_one_token_at_a_time_still_work(params):
    options = EngineOptions(12, max_num_seqs=1, max_num_batched_tokens=1, page_size=1)
    pools = cache.make_pools(CONFIG, 13, 1, jnp.float32)
    engine = Engine(
        CONFIG, params, pools, options, target=PLAIN
    )  # and layers in one stack
    answers = [submit(engine, prompt_of(5))[1] for _ in range(2)]
    wanted = simple.generate(
        CONFIG, params, prompt_of(5), SamplingParams(temperature=0), max_model_len=12
    )
    for answer in answers:
        assert answer.wait().tokens == wanted
    engine.close()


def test_end_tokens_of_the_model_stop_it(params):
    """The model's own end tokens come from its config."""
    prompt, sampling = prompt_of(9), SamplingParams(temperature=0, max_tokens=11)
    free = simple.generate(CONFIG, params, prompt, sampling, max_model_len=12)
    config = dataclasses.replace(CONFIG, eos_ids=(free[1],))
    stopped = simple.generate(config, params, prompt, sampling, max_model_len=12)
    assert stopped == free[: free.index(free[1]) + 1]


# Prompt length, sampling and guide of requests that may not say everything. Of the
# plain answers to these prompts, what is forbidden here would come at once.
RULED = [
    (5, dict(temperature=0.0, logit_bias=((7, 100.0), (9, 3.5))), None),
    (70, dict(temperature=1.0, seed=3, logit_bias=((7, -100.0), (63, 4.0))), None),
    (30, dict(temperature=0.0, allowed_token_ids=(1, 40, 63)), None),
    (12, dict(temperature=2.0, top_k=40, seed=4, allowed_token_ids=(0, 33)), None),
    (3, dict(temperature=0.0, bad_words=((5,), (17,), (17, 40))), None),
    (33, dict(temperature=0.0, min_tokens=12), None),
    (64, dict(temperature=0.9, min_tokens=30, seed=8), None),
    (9, dict(temperature=0.0), lambda: Turns(64)),
    (100, dict(temperature=1.2, top_p=0.9, seed=5, logprobs=2), lambda: Turns(64)),
    (1, dict(temperature=0.0), lambda: Swings(50, 3, 64)),
    (
        17,
        dict(
            temperature=0.8,
            seed=6,
            min_tokens=25,
            repetition_penalty=1.3,
            frequency_penalty=0.5,
            logit_bias=((2, 5.0),),
            bad_words=((2, 4), (4, 2), (6,)),
        ),
        lambda: Turns(64),
    ),
]


def ruled(params):
    """RULED, with the words and end tokens that bite, and 40 tokens at most."""
    for length, sampling, guide in RULED:
        asked = {"max_tokens": 40, **sampling}
        free = simple.generate(
            CONFIG,
            params,
            prompt_of(length),
            SamplingParams(temperature=0, max_tokens=8),
            max_model_len=LONGEST,
        )
        if "bad_words" in sampling:
            asked["bad_words"] += ((free[0],), tuple(free[1:3]))
        if "min_tokens" in sampling:
            asked["stop_token_ids"] = tuple({*free, *range(0, 64, 3)})
        yield prompt_of(length), asked, guide or (lambda: None)


@pytest.fixture(scope="module")
def ruled_answers(params):
    """What the plain loop answers to each of RULED."""
    return [
        simple.generate(
            CONFIG,
            params,
            prompt,
            SamplingParams(**asked),
            max_model_len=LONGEST,
            guide=guide(),
        )
        for prompt, asked, guide in ruled(params)
    ]


def test_rules_bite_in_the_plain_loop(params, ruled_answers):
    """So that what holds of the engine below is not held by chance."""
    for i, (prompt, asked, _) in enumerate(ruled(params)):
        rules = ("logit_bias", "allowed_token_ids", "bad_words", "min_tokens")
        free = {name: value for name, value in asked.items() if name not in rules}
        sampling = SamplingParams(**free)
        plain = simple.generate(CONFIG, params, prompt, sampling, max_model_len=LONGEST)
        assert plain != ruled_answers[i], RULED[i]
    assert set(ruled_answers[2]) <= {1, 40, 63}
    assert len(ruled_answers[6]) >= 30
    assert [token % 2 for token in ruled_answers[7]] == [0, 1] * 20
    assert ruled_answers[9][3:] == [3, 50] * 18 + [3]


def test_a_crowd_with_rules_gets_the_tokens_of_the_plain_loop(
    engine, params, plain_answers, ruled_answers
):
    """Beside others that have none, whatever slots and pages they lose meanwhile."""
    before = engine.stats()
    answers = []
    for i, (prompt, asked, guide) in enumerate(ruled(params)):
        answers.append(submit(engine, prompt, guide(), **asked)[1])
        if i < len(REQUESTS):
            length, sampling = REQUESTS[i]
            free = {"max_tokens": 40, **sampling}
            answers.append(submit(engine, prompt_of(length), **free)[1])
    wanted = iter(ruled_answers), iter(plain_answers)
    for i, answer in enumerate(answers):
        assert answer.wait().tokens == next(wanted[i % 2] if i < 20 else wanted[0]), i
    if engine.options.max_num_seqs == 3:
        assert engine.stats().preemptions > before.preemptions


def test_the_bytes_of_a_step_say_all_that_another_process_must_know(
    roomy, monkeypatch, params, ruled_answers
):
    run = roomy._runner.run
    monkeypatch.setattr(
        roomy._runner, "run", lambda step: run(Message.from_bytes(step.to_bytes()))
    )
    answers = [
        submit(roomy, prompt, guide(), **asked, prompt_logprobs=1)[1]
        for prompt, asked, guide in ruled(params)
    ]
    for answer, wanted in zip(answers, ruled_answers, strict=True):
        assert answer.wait().tokens == wanted


def test_logprobs_are_of_the_model_before_its_rules(roomy):
    length, asked = 20, dict(max_tokens=1, logprobs=3)
    free = ask(roomy, prompt_of(length), **asked).events[0]
    [other] = [t for t, _ in free.top_logprobs][1:2]
    held = ask(roomy, prompt_of(length), allowed_token_ids=(other,), **asked).events[0]
    assert held.token == other
    assert held.logprob == free.top_logprobs[1][1]
    assert held.top_logprobs == free.top_logprobs


@pytest.mark.parametrize("raises", [False, True])
def test_an_answer_that_cannot_go_on_ends_alone_and_says_why(roomy, raises):
    others = [submit(roomy, prompt_of(9), Turns(64), max_tokens=20)[1]]
    answer = submit(roomy, prompt_of(5), Ends(4, 64, raises), max_tokens=20)[1].wait()
    others.append(submit(roomy, prompt_of(9), max_tokens=20)[1])
    assert len(answer.tokens) == 4
    assert answer.finish == "error"
    assert answer.events[-1].token is None
    words = "the grammar is lost" if raises else "allow no token"
    assert words in answer.events[-1].error
    for other in others:
        assert other.wait().finish == "length"
    never = ask(roomy, prompt_of(5), allowed_token_ids=(5,), bad_words=((5,),))
    assert (never.tokens, never.finish) == ([], "error")


def test_binding_guides_alone_take_one_step_for_each_token(roomy):
    ask(roomy, prompt_of(5), max_tokens=2)  # after which no other's step is left
    before = roomy.stats().steps
    ask(roomy, prompt_of(70), guide=Turns(64), max_tokens=10)
    assert roomy.stats().steps - before == 10


def near(judged, wanted):
    """Whether two judgements are one, where equal numbers may change places."""
    assert [token for token, _, _ in judged] == [token for token, _, _ in wanted]
    assert judged[0] == wanted[0] == (judged[0][0], None, ())
    for (_, own, best), (_, other, likeliest) in zip(
        judged[1:], wanted[1:], strict=True
    ):
        assert own == pytest.approx(other, abs=1e-5)
        values = dict(best)
        assert values == pytest.approx(dict(likeliest), abs=1e-5)
        assert [*values.values()] == sorted(values.values(), reverse=True)


def test_prompts_are_judged_as_the_plain_loop_judges_them(engine, params):
    """Chunk by chunk where they are long, beside answers that go on."""
    lengths = (1, 2, 17, 100, LONGEST - 1, LONGEST)
    other = submit(engine, prompt_of(5), max_tokens=40, temperature=1, seed=1)[1]
    answers = [
        submit(
            engine, prompt_of(length), max_tokens=0 if n % 2 else 1, prompt_logprobs=n
        )[1]
        for n, length in enumerate(lengths)
    ]
    for n, (length, answer) in enumerate(zip(lengths, answers, strict=True)):
        [event] = answer.wait().events
        assert event.finish == "length"
        assert (event.token is None) == bool(n % 2)
        near(event.prompt, simple.judge(CONFIG, params, prompt_of(length), n))
    assert len(other.wait().tokens) == 40


def test_a_judged_prompt_is_answered_as_any_other(engine, params, plain_answers):
    length, sampling = REQUESTS[1]
    answer = ask(engine, prompt_of(length), **sampling, prompt_logprobs=20)
    assert answer.tokens == plain_answers[1]
    near(answer.events[0].prompt, simple.judge(CONFIG, params, prompt_of(length), 20))
    assert not any(event.prompt for event in answer.events[1:])
