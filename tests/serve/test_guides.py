"""Two rules at once."""

import numpy as np

from r1jax.serve.guides import both


class Rule:
    def __init__(self, bits, binds=False):
        self.binds, self.heard = binds, []
        self.bits = None if bits is None else np.array([bits], np.uint32)

    def mask(self):
        return self.bits

    def advance(self, token):
        self.heard.append(token)


def test_one_guide_alone_is_itself():
    rule = Rule(1)
    assert both(rule, None) is rule
    assert both(None, rule) is rule
    assert both(None, None) is None


def test_what_both_allow_is_allowed_and_the_first_rules_where_they_clash():
    assert both(Rule(0b110), Rule(0b011)).mask() == [0b010]
    assert both(Rule(0b100), Rule(0b011)).mask() == [0b100]
    assert both(Rule(None), Rule(0b011)).mask() == [0b011]
    assert both(Rule(0b100), Rule(None)).mask() == [0b100]
    assert both(Rule(None), Rule(None)).mask() is None


def test_both_hear_every_token_and_either_may_bind():
    first, second = Rule(1), Rule(1, binds=True)
    joined = both(first, second)
    joined.advance(5)
    assert first.heard == second.heard == [5]
    assert joined.binds
    assert not both(Rule(1), Rule(1)).binds
