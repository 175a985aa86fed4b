"""A model of random weights, in effect: it says anything that a guide allows."""

import numpy as np


def allowed(mask: np.ndarray | None, size: int) -> np.ndarray:
    """Returns the ids that a mask lets come."""
    if mask is None:
        return np.arange(size)
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))


def babble(guide, masks, seed: int, most: int = 400, likely: bytes = b'"}],'):
    """Says random tokens until an end token or `most` of them.

    A third of the time one that closes something is said, if any may be: an answer of
    random words hardly ever ends.

    Returns:
        The token ids, and "stop" or "length".
    """
    rng, said = np.random.default_rng(seed), []
    closers = [i for i in range(masks.size) if _is_one_of(masks, i, likely)]
    while len(said) < most:
        ids = allowed(guide.mask(), masks.size)
        assert len(ids), "the guide allows nothing"
        closing = np.intersect1d(ids, [*closers, *masks.ends])
        pool = closing if len(closing) and rng.random() < 1 / 3 else ids
        token = int(rng.choice(pool))
        guide.advance(token)
        if token in masks.ends:
            return said, "stop"
        said.append(token)
    return said, "length"


def _is_one_of(masks, index: int, letters: bytes) -> bool:
    data = masks.tokenizer.token_bytes(index)
    return len(data) == 1 and data in letters
