"""The process behind `maths.Judges`: pairs on standard input, verdicts on output."""

import json
import logging
import os
import re
import resource
import sys

import sympy
from math_verify import parse, verify

from r1jax.text.answers import compare

_ROOM = 4 * 2**30  # bytes of memory beyond what the libraries take
_PLACES = 12  # decimals: 1.414214 is not the root of 2
_SECONDS = 5  # math-verify's own limits, which a hard loop escapes
_ANGULAR = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_DEGREES = re.compile(r"\(?(\d+(?:\.\d+)?)\s+degrees\s*\)?")


def main() -> None:
    """Answers each line `[answer, truth]` with `{"correct": ..., "note": ...}`."""
    _limit_memory()
    logging.disable(logging.CRITICAL)  # math-verify logs what it cannot read
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        answer, truth = json.loads(line)
        print(json.dumps(_judge(answer, truth)), file=out, flush=True)


def _judge(answer: str, truth: str) -> dict[str, bool | str]:
    try:
        correct = compare(answer, truth, expressions_equal)
    except (MemoryError, RecursionError) as error:
        return {"correct": False, "note": f"cannot be judged: {type(error).__name__}"}
    return {"correct": correct is True, "note": ""}


def expressions_equal(answer: str, truth: str) -> bool:
    """Compares two single expressions by math-verify, as exactly as numbers are."""
    given, true = (_parsed(text) for text in (answer, truth))
    if not given or not true:
        return False
    return bool(verify(true, given, float_rounding=_PLACES, timeout_seconds=_SECONDS))


def _parsed(text: str) -> list[object]:
    text = text.replace("⟦", r"\{").replace("⟧", r"\}")
    if _ANGULAR.search(text):  # math-verify drops the sign of degrees
        text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    found = parse(f"\\boxed{{{text}}}", parsing_timeout=_SECONDS)
    return [_with_imaginary_unit(each) for each in found]


def _with_imaginary_unit(parsed: object) -> object:
    """Reads the letter i as the imaginary unit, which math-verify takes for a name."""
    if not isinstance(parsed, sympy.Basic):
        return parsed
    return parsed.subs(
        {name: sympy.I for name in parsed.free_symbols if str(name) == "i"}
    )


def _limit_memory() -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + _ROOM, hard))


if __name__ == "__main__":
    main()
