"""Text completions, whole and streamed."""

import pytest

THOUGHT, ANSWER = "Ünë pénsée: 1+1 → 2.", "It is 2. 🎉 Done\n"
TEXT = f"{THOUGHT}\n</think>\n\n{ANSWER}"
PATH = "/v1/completions"


def test_text_is_not_parted(site):
    body = site.complete(max_tokens=200).json()
    assert body["object"] == "text_completion"
    assert body["choices"][0]["text"] == TEXT
    assert body["choices"][0]["finish_reason"] == "stop"


def test_sixteen_tokens_are_the_default(site):
    body = site.complete().json()
    assert body["usage"]["completion_tokens"] == 16
    assert body["choices"][0]["finish_reason"] == "length"


def test_half_a_character_at_the_end_is_not_shown_as_such(site):
    text = site.complete(max_tokens=1).json()["choices"][0]["text"]
    assert text == "\ufffd"


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("ab", ["<bos>ab"]),
        ("<bos>ab", ["<bos>ab"]),
        (["ab", "c"], ["<bos>ab", "<bos>c"]),
        ([64, 65], ["ab"]),
        ([[64, 65], [66]], ["ab", "c"]),
        ([[64], "b"], ["a", "<bos>b"]),
    ],
)
def test_all_forms_of_a_prompt_are_understood(site, llm, prompt, texts):
    body = site.complete(prompt=prompt, n=2).json()
    prompts = [
        llm.tokenizer.decode(ids, skip_special=False) for ids in llm.engine.prompts
    ]
    assert prompts == [text for text in texts for _ in range(2)]
    assert [choice["index"] for choice in body["choices"]] == [*range(2 * len(texts))]
    total = sum(len(llm.encode(text)) for text in texts)
    assert body["usage"]["prompt_tokens"] == total


def test_bos_can_be_left_out(site, llm):
    site.complete(prompt="ab", add_special_tokens=False)
    assert llm.tokenizer.decode(llm.engine.prompts[0], skip_special=False) == "ab"


def test_a_prompts_seeds_do_not_depend_on_its_neighbours(site, llm):
    site.complete(prompt=["a", "b"], n=2, seed=3)
    assert [params.seed for params in llm.engine.samplings] == [3, 4, 3, 4]


@pytest.mark.parametrize("prompt", ["1+1=", [64, 65]])
def test_echo_puts_the_prompt_in_front_once(site, llm, prompt):
    shown = prompt if isinstance(prompt, str) else "ab"
    body = {"prompt": prompt, "echo": True, "max_tokens": 200}
    whole = site.complete(**body).json()["choices"][0]["text"]
    events = site.events(PATH, **body)
    assert whole == shown + TEXT
    assert "".join(event["choices"][0]["text"] for event in events) == whole


def test_the_stream_joined_is_the_whole_answer(site):
    body = {"prompt": ["a", "b"], "max_tokens": 60, "stop": ["two", "\n\nIt is 2. 🎊"]}
    whole = site.complete(**body).json()["choices"]
    joined = ["", ""]
    for event in site.events(PATH, **body):
        (choice,) = event["choices"]
        joined[choice["index"]] += choice["text"]
    assert joined == [choice["text"] for choice in whole]


def test_stream_usage_comes_last(site):
    options = {"include_usage": True}
    events = site.events(PATH, prompt="1+1", stream_options=options)
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == site.complete().json()["usage"]


def test_logprobs_name_every_token_and_its_place(site):
    choice = site.complete(max_tokens=4, logprobs=1).json()["choices"][0]
    assert choice["logprobs"] == {
        "tokens": ["bytes:\\xc3", "bytes:\\x9c", "n", "bytes:\\xc3"],
        "token_logprobs": [-0.5] * 4,
        "top_logprobs": [
            {"bytes:\\xc3": -0.5},
            {"bytes:\\x9c": -0.5},
            {"n": -0.5},
            {"bytes:\\xc3": -0.5},
        ],
        "text_offset": [0, 0, 1, 2],
    }


def test_the_chosen_token_is_among_the_top_even_of_none(site):
    choice = site.complete(max_tokens=3, logprobs=0).json()["choices"][0]
    assert choice["logprobs"]["top_logprobs"][2] == {"n": -0.5}


def test_a_stop_token_ends_the_text_and_is_not_shown(site, llm):
    (token,) = llm.encode(":")
    choice = site.complete(max_tokens=50, stop_token_ids=[token]).json()["choices"][0]
    assert choice["text"] == "Ünë pénsée"
    assert choice["finish_reason"] == "stop"
    kept = {"stop_token_ids": [token], "include_stop_str_in_output": True}
    choice = site.complete(max_tokens=50, **kept).json()["choices"][0]
    assert choice["text"] == "Ünë pénsée:"
