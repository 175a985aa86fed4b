"""No template reads what it should not, runs without end, or fills the memory."""

import pytest

from r1jax.errors import TextError
from r1jax.text import ChatTemplate

MESSAGES = [{"role": "user", "content": "Hi"}]
MEGABYTE = "{% set s = 'x' * 1000000 %}"
GROW = (
    "{% set ns = namespace(s='x') %}"
    "{% for i in range(99) %}{% set ns.s = STEP %}{% endfor %}"
)

ENDLESS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}",
    "loops that skip": "{% for a in range(99999) %}{% for b in range(99999) if b < 0 %}"
    "{% endfor %}{% endfor %}",
    "long range": "{% for a in range(10**9) %}{% endfor %}",
    "recursive loop": "{% for a in [1] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "doubling macro": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}"
    "{% endmacro %}{{ f(99) }}",
    "endless macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}
GROWING = {
    "repetition": "{{ 'a' * 10**10 }}",
    "repeated lists": "{% set x = [1] * 99999 %}{% set y = [x] * 99999 %}{{ y }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "power of itself": "{{ (10 ** 99) ** (10 ** 99) }}",
    "squaring": GROW.replace("'x'", "3").replace("STEP", "ns.s * ns.s"),
    "concatenation": GROW.replace("STEP", "ns.s ~ ns.s"),
    "addition": GROW.replace("STEP", "ns.s + ns.s"),
    "replacement": GROW.replace("STEP", "ns.s.replace('x', 'xxxx')"),
    "replace filter": GROW.replace("STEP", "ns.s | replace('x', 'xxxx')"),
    "width": "{{ '%1000000000d' % 1 }}",
    "named width": "{{ '%(a)1000000000d' | format(a=1) }}",
    "computed width": "{{ '%*d' % (10**9, 1) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "nested format": "{{ '{:{}}'.format(1, 10**9) }}",
    "centring": "{{ 'a'.center(10**9) }}",
    "bytes": "{{ (1).to_bytes(10**10, 'big') }}",
    "join": MEGABYTE + "{{ s.join(range(99999) | map('string')) }}",
    "join filter": MEGABYTE
    + "{{ range(99999) | map(attribute='a', default=s) | join }}",
    "indent": "{{ ('a\n' * 99999) | indent(99999) }}",
    "tojson": "{{ range(9999) | list | tojson(indent=10**9) }}",
    "slices": MEGABYTE + "".join(f"{{% set a{i} = s[{i}:] %}}" for i in range(999)),
    "refund by indent": MEGABYTE + "{{ 'a' | indent(-10**12) }}{{ s * 999 }}",
    "refund by guard": MEGABYTE
    + "{{ ['ab'] | map('loop!', -10**12) | map('list') | list }}{{ s * 999 }}",
    "set block": "{% set t %}{% for i in range(99999) %}" + "y" * 9999 + "{% endfor %}"
    "{% endset %}",
    "output": MEGABYTE + "{% for i in range(99999) %}{{ s }}{% endfor %}",
    "lists of lists": "{% set a = 'x' %}"
    + "{% set a = [a, a, a, a, a, a, a, a, a, a] %}" * 30
    + "{{ a }}",
    "views of views": "{% set a = 'x' %}"
    + "{% set a = {'a': a, 'b': a, 'c': a}.items() %}" * 60
    + "{{ a }}",
}
READING = {
    "class": "{{ ''.__class__.__mro__ }}",
    "class by key": "{{ ''['__class__']['__mro__'] }}",
    "attr filter": "{{ '' | attr('__class__') }}",
    "globals": "{{ raise_exception.__globals__['sys'] }}",
    "format field": "{{ '{0.__class__}'.format('') }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "change": "{{ messages.append(1) }}",
}


@pytest.mark.parametrize("name", [*ENDLESS, *GROWING])
def test_runaway_template_is_stopped(name: str) -> None:
    source = (ENDLESS | GROWING)[name]
    with pytest.raises(TextError) as caught:
        ChatTemplate(source, None, None).render(MESSAGES)
    assert str(caught.value).count("\n") == 2


@pytest.mark.parametrize("name", READING)
def test_template_reads_nothing_but_its_variables(name: str) -> None:
    try:
        read = ChatTemplate(READING[name], None, None).render(MESSAGES)
    except TextError:
        read = ""
    assert read == ""


def test_namespaces_that_hold_themselves_print_their_name_only() -> None:
    source = "{% set a = namespace() %}{% set a.a = a %}{{ a }}"
    assert ChatTemplate(source, None, None).render(MESSAGES) == "<Namespace>"


def test_harmless_template_may_still_do_its_work() -> None:
    source = (
        "{{ [1, 2] + [3] }} {{ 2 ** 10 }} {{ 2.5 * 1000000000 }} {{ 7 % 4 }} "
        "{{ '%05.1f' % 3.14159 }} {{ '{:>5}|{}'.format('a', 'b') }} {{ 'ab' * 2 }} "
        "{{ ['a', 1] | join('-') }} {{ ', '.join(['x', 'y']) }} "
        "{{ 'a b'.replace(' ', '_') }} {{ 'a\nb' | indent(2) }} {{ 'a' ~ 1 }} "
        "{% for a, b in {'k': 'v'}.items() %}{{ a ~ b ~ loop.length }}{% endfor %}"
        "{% for a in [1, [2]] recursive %}"
        "{{ loop(a) if a is iterable else a }}{% endfor %}"
    )
    assert ChatTemplate(source, None, None).render(MESSAGES) == (
        "[1, 2, 3] 1024 2500000000.0 3 003.1     a|b abab a-1 x, y a_b a\n  b a1 kv112"
    )


def test_long_conversations_are_within_the_budget() -> None:
    source = (
        "{% for m in messages %}{% set c = m.content.strip() %}"
        "{{ '<' + m.role + '>' + c.replace('a', 'b') ~ '\n' }}{% endfor %}"
    )
    messages = [{"role": "user", "content": "a long line " * 100}] * 5000
    text = ChatTemplate(source, None, None).render(messages)
    assert text.count("<user>") == 5000
