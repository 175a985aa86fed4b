"""vLLM's `--speculative-config`: how tokens are guessed ahead, as JSON."""

import difflib
import json
from typing import Any

from r1jax.errors import ConfigError

# vLLM's keys, and the options of `r1jax.load` that they are.
_OPTIONS = {
    "method": "draft",
    "num_speculative_tokens": "num_draft_tokens",
    "prompt_lookup_max": "prompt_lookup_max",
    "prompt_lookup_min": "prompt_lookup_min",
}
_METHODS = {"mtp": "mtp", "deepseek_mtp": "mtp", "ngram": "ngram"}
_EXAMPLE = '\'{"method": "ngram", "num_speculative_tokens": 3}\''


def read_speculation(text: str) -> dict[str, Any]:
    """Reads the flag's JSON into options of `r1jax.load`.

    Raises:
      ConfigError: It is no JSON object, or has a key or a value that is not understood.
    """
    try:
        given = json.loads(text)
    except ValueError as error:
        raise _wrong(f"{text!r} is not JSON", str(error)) from None
    if not isinstance(given, dict):
        raise _wrong(f"{text!r} is not an object", "it names a method and its options")
    options: dict[str, Any] = {}
    for key, value in given.items():
        if key not in _OPTIONS:
            near = difflib.get_close_matches(key, _OPTIONS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise _wrong(
                f"unknown key {key!r}", f"keys are {', '.join(_OPTIONS)}{hint}"
            )
        if key == "method":
            options["draft"] = _method(value)
        elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise _wrong(f"{key} is {value!r}", "it is a number of tokens, 1 or more")
        else:
            options[_OPTIONS[key]] = value
    if "draft" not in options:
        raise _wrong("no method", f"it is one of {', '.join(_METHODS)}")
    return options


def _method(value: Any) -> str:
    if not isinstance(value, str) or value not in _METHODS:
        raise _wrong(f"method is {value!r}", f"it is one of {', '.join(_METHODS)}")
    return _METHODS[value]


def _wrong(what: str, why: str) -> ConfigError:
    return ConfigError(f"--speculative-config: {what}", why, f"give {_EXAMPLE}")
