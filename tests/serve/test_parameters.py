"""The parameters that vLLM's users know, and what they ask of the engine."""

import dataclasses

import pytest

from r1jax.engine.types import SamplingParams
from r1jax.serve.logprobs import completion_entries

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = [{"role": "user", "content": "1+1?"}]


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_sampling_parameters_reach_the_engine(site, llm, path):
    asked = {
        "temperature": 0.5,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.25,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "repetition_penalty": 1.5,
        "logit_bias": {"64": 5, "65": -100},
        "allowed_token_ids": [64, 65],
        "seed": 3,
        "min_tokens": 2,
        "max_tokens": 3,
        "ignore_eos": True,
        "stop_token_ids": [66],
        "priority": -4,
        "prompt_logprobs": 2,
    }
    body = {"messages": USER} if path == CHAT else {"prompt": "a"}
    assert site.client.post(path, json={**body, **asked}).status_code == 200
    asked |= {
        "logit_bias": ((64, 5), (65, -100)),
        "allowed_token_ids": (64, 65),
        "stop_token_ids": (66,),
        "logprobs": None,
        "bad_words": (),
    }
    assert dataclasses.asdict(llm.engine.samplings[0]) == asked
    # Whoever adds a parameter adds it here.
    assert asked.keys() == vars(SamplingParams()).keys()


def test_bad_words_are_followed_in_every_choice_by_itself(site, llm):
    site.complete(bad_words=["ab"], n=2)
    first, second = llm.engine.guides
    assert first is not second
    a, b = llm.encode("ab")
    first.advance(a)
    allows = [guide.mask()[b // 32] >> b % 32 & 1 for guide in (first, second)]
    assert allows == [0, 1]
    site.chat(bad_words=["ab"])
    assert llm.engine.guides[2] is not None
    site.complete()
    assert llm.engine.guides[3] is None


def test_echo_with_logprobs_judges_the_prompt(site, llm):
    choice = site.complete(prompt="ab", echo=True, logprobs=1, max_tokens=2).json()
    choice = choice["choices"][0]
    assert choice["text"] == "abÜ"
    assert choice["logprobs"] == {
        "tokens": ["<bos>", "a", "b", "bytes:\\xc3", "bytes:\\x9c"],
        "token_logprobs": [None, -0.25, -0.25, -0.5, -0.5],
        "top_logprobs": [
            None,
            {"$": -0.125, "a": -0.25},
            {"$": -0.125, "b": -0.25},
            {"bytes:\\xc3": -0.5},
            {"bytes:\\x9c": -0.5},
        ],
        "text_offset": [0, 0, 1, 2, 2],
    }
    assert llm.engine.samplings[0].prompt_logprobs == 1


@pytest.mark.parametrize("prompt", ["ab", [64, 65]])
def test_no_tokens_at_all_only_judge_the_prompt(site, llm, prompt):
    body = {"prompt": prompt, "echo": True, "logprobs": 0, "max_tokens": 0}
    whole = site.complete(**body).json()
    choice = whole["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("ab", "length")
    assert (
        choice["logprobs"]["token_logprobs"][-2:] == [-0.25] * 2
        if prompt == "ab"
        else [None, -0.25]
    )
    assert whole["usage"]["completion_tokens"] == 0
    (event,) = site.events(TEXT, **body)
    assert event["choices"] == whole["choices"]


def test_a_prompt_as_long_as_the_context_can_be_judged(door):
    ids = [64] * 256
    body = {"prompt": ids, "echo": True, "logprobs": 0, "max_tokens": 0}
    choice = door.complete(**body).json()["choices"][0]
    assert len(choice["logprobs"]["tokens"]) == 256
    assert door.complete(**body | {"max_tokens": 1}).status_code == 400


def test_an_echo_alone_needs_no_logprobs(site, llm):
    site.complete(echo=True)
    assert llm.engine.samplings[0].prompt_logprobs is None
    text = site.complete(prompt="ab", echo=True, max_tokens=0).json()["choices"][0]
    assert (text["text"], text["logprobs"]) == ("ab", None)


def test_offsets_of_an_echo_count_what_the_text_shows(site):
    body = {"echo": True, "logprobs": 0, "max_tokens": 0, "prompt": "<bos>é<eos>b"}
    choice = site.complete(**body).json()["choices"][0]
    assert choice["text"] == body["prompt"]
    assert choice["logprobs"]["text_offset"] == [0, 5, 5, 6, 11]
    body["prompt"] = [256, 64, 257, 65]
    choice = site.complete(**body).json()["choices"][0]
    assert choice["text"] == "ab"
    assert choice["logprobs"]["text_offset"] == [0, 0, 1, 1]


PROMPT_LOGPROBS = [
    None,
    {
        "65": {"logprob": -0.25, "rank": None, "decoded_token": "b"},
        "3": {"logprob": -0.125, "rank": 1, "decoded_token": "$"},
    },
]


def test_prompt_logprobs_have_vllms_shape(site, llm):
    body = {"prompt_logprobs": 1, "max_tokens": 1}
    for each in site.complete(**body, prompt=[64, 65], n=2).json()["choices"]:
        assert each["prompt_logprobs"] == PROMPT_LOGPROBS
    whole = site.chat(**body).json()
    assert len(whole["prompt_logprobs"]) == len(llm.engine.prompts[-1])
    events = site.events(CHAT, messages=USER, **body)
    assert events[0]["prompt_logprobs"] == whole["prompt_logprobs"]


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_token_ids_come_whole_and_streamed_alike(site, llm, path):
    body = {"return_token_ids": True, "n": 2, "stop": ["1 → 2."]}
    body |= {"messages": USER} if path == CHAT else {"prompt": "a", "max_tokens": 90}
    whole = site.client.post(path, json=body).json()
    answer = llm.encode(llm.engine.text.split("1 → 2.")[0] + "1 → 2.")
    assert [each["token_ids"] for each in whole["choices"]] == [answer] * 2
    place = whole if path == CHAT else whole["choices"][1]
    assert place["prompt_token_ids"] == llm.engine.prompts[0]
    streamed, prompts = [[], []], []
    for event in site.events(path, **body):
        (choice,) = event["choices"]
        streamed[choice["index"]] += choice.get("token_ids", [])
        prompts += [
            each["prompt_token_ids"]
            for each in (event, choice)
            if "prompt_token_ids" in each
        ]
    assert streamed == [answer] * 2
    assert prompts == [llm.engine.prompts[0]] * (1 if path == CHAT else 2)


def test_tokens_are_named_by_their_ids_where_asked_for(site, llm):
    first = llm.encode(llm.engine.text)[0]
    named = {"return_tokens_as_token_ids": True, "max_tokens": 1}
    choice = site.complete(**named, logprobs=1).json()["choices"][0]
    assert choice["logprobs"]["tokens"] == [f"token_id:{first}"]
    assert choice["logprobs"]["top_logprobs"] == [{f"token_id:{first}": -0.5}]
    entries = site.chat(**named, logprobs=True).json()["choices"][0]["logprobs"]
    assert entries["reasoning_content"][0]["token"] == f"token_id:{first}"


def test_ids_without_a_token_have_names_of_their_own(tokenizer):
    entries = [(300, -0.5, [(301, -0.25), (300, -0.5)], 0)]
    (top,) = completion_entries(tokenizer, entries, ids=False)["top_logprobs"]
    assert top == {"token_id:301": -0.25, "token_id:300": -0.5}


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({"truncate_prompt_tokens": 2}, [66, 67]),
        ({"truncate_prompt_tokens": 2, "truncation_side": "right"}, [64, 65]),
        ({"truncate_prompt_tokens": 9}, [64, 65, 66, 67]),
        ({"truncate_prompt_tokens": -1}, [64, 65, 66, 67]),
    ],
)
def test_a_prompt_is_cut_as_asked(site, llm, asked, kept):
    body = site.complete(prompt=[64, 65, 66, 67], echo=True, **asked).json()
    assert llm.engine.prompts == [kept]
    assert body["usage"]["prompt_tokens"] == len(kept)
    assert body["choices"][0]["text"].startswith(llm.tokenizer.decode(kept))


def test_a_prompt_too_long_is_cut_to_leave_room_for_the_answer(site, llm):
    long = {"truncate_prompt_tokens": -1, "max_tokens": 6}
    assert site.complete(prompt="x" * 300, **long).status_code == 200
    messages = [{"role": "user", "content": "x" * 300}]
    assert site.chat(messages=messages, **long).status_code == 200
    assert [len(prompt) for prompt in llm.engine.prompts] == [250, 250]


def test_special_tokens_are_shown_where_asked_for(site, llm):
    llm.engine.text = "a<bos>b"
    for asked, text in (({}, "ab"), ({"skip_special_tokens": False}, "a<bos>b")):
        assert site.complete(**asked).json()["choices"][0]["text"] == text
        message = site.chat(**asked, chat_template_kwargs={"thinking": False}).json()
        assert message["choices"][0]["message"]["content"] == text


def test_an_answer_says_what_stopped_it(site, llm):
    (colon,) = llm.encode(":")
    for asked, reason in (
        ({"stop": ["sée"]}, "sée"),
        ({"stop_token_ids": [colon]}, colon),
        ({}, None),
        ({"max_tokens": 1}, None),
    ):
        asked = {"max_tokens": 200, **asked}
        for whole in (site.complete(**asked), site.chat(**asked)):
            assert whole.json()["choices"][0]["stop_reason"] == reason
        last = site.events(TEXT, prompt="a", **asked)[-1]
        assert last["choices"][0]["stop_reason"] == reason


def test_an_answers_id_is_the_one_asked_for(site):
    assert site.complete(request_id="mine").json()["id"] == "cmpl-mine"
    assert site.chat(request_id="mine").json()["id"] == "chatcmpl-mine"


def test_cached_tokens_are_counted_once_a_prompt(site, llm):
    llm.engine.cached = 3
    usage = site.complete(prompt=["abcd", "efgh"], n=2).json()["usage"]
    assert usage["prompt_tokens"] == 10
    assert usage["prompt_tokens_details"] == {"cached_tokens": 6}
    assert usage["prompt_cache_hit_tokens"] == 6
    assert usage["prompt_cache_miss_tokens"] == 4
    options = {"include_usage": True}
    last = site.events(CHAT, messages=USER, n=3, stream_options=options)[-1]
    assert last["usage"]["prompt_cache_hit_tokens"] == 3
