"""The flag that says how tokens are guessed ahead, in vLLM's words."""

import pytest

from r1jax.errors import ConfigError
from r1jax.serve.speculation import read_speculation


def test_vllms_words_become_options_of_load():
    text = '{"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 3}'
    wanted = {"draft": "ngram", "num_draft_tokens": 5, "prompt_lookup_max": 3}
    assert read_speculation(text) == wanted
    for name in ("mtp", "deepseek_mtp"):
        assert read_speculation(f'{{"method": "{name}"}}') == {"draft": "mtp"}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("ngram", "is not JSON"),
        ("[]", "is not an object"),
        ("{}", "no method"),
        ('{"method": "eagle"}', "method is 'eagle'"),
        ('{"method": ["mtp"]}', "method is"),
        ('{"method": "mtp", "model": "x"}', "unknown key 'model'"),
        ('{"method": "mtp", "num_speculative_tokens": 0}', "tokens is 0"),
        ('{"method": "mtp", "num_speculative_tokens": true}', "tokens is True"),
        ('{"method": "ngram", "prompt_lookup_max": "3"}', "max is '3'"),
    ],
)
def test_what_is_not_understood_is_refused(text, what):
    with pytest.raises(ConfigError) as caught:
        read_speculation(text)
    assert what in caught.value.what
    assert "method" in caught.value.fix


def test_a_key_with_a_slip_gets_the_nearest_one():
    with pytest.raises(ConfigError) as caught:
        read_speculation('{"method": "mtp", "num_speculative_token": 2}')
    assert "did you mean 'num_speculative_tokens'?" in caught.value.why
