"""The few step shapes that are compiled, and which of them a plan takes."""

from collections.abc import Sequence

from r1jax.cache import Geometry

_SHORT = 64  # tokens of the shortest chunk
_FEW = (
    4  # of so many sequences at most, one decodes beside the chunks of a `fine` shape
)
_MANY = 16  # sequences from which that is worth a shape of its own
_PADDED = 32  # a chunk of fewer times the rows beside it has a shape without them


class Shapes:
    """Shapes for an engine's limits; only those that were opened are used.

    Decodes alone come in powers of two up to `max_num_seqs`; chunks ride beside them.
    Where reading weights takes most of a step's time, padding costs little and three
    sizes of chunks do. Where every token costs, as on a CPU, `fine` gives chunks of
    powers of two, alone or as many as fit, beside a quarter of the sequences or all; a
    short one also beside none, so that a lone prompt is not padded.
    Where guesses are verified, decodes have places for them beside chunks always, and
    alone in shapes of their own.

    Attributes:
      first: Shapes that suffice for every plan.
      rest: Shapes that only save time.
      judging: Shapes that also have a form which judges prompts; any one suffices.
    """

    def __init__(
        self,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        drafts: int = 0,
        fine: bool = False,
    ) -> None:
        """Lays out the shapes; none is open yet.

        Args:
          max_num_seqs: As of `EngineOptions`.
          max_num_batched_tokens: Likewise.
          drafts: Guesses that a decode may bring.
          fine: Whether padding costs as much as work.
        """
        most, longest = max_num_seqs, max_num_batched_tokens
        short = min(_SHORT, longest)
        powers = [2**i for i in range(most.bit_length()) if 2**i < most]
        widths = sorted({1, 1 + drafts})
        steady = [Geometry(n, 0, 0, w) for w in widths for n in (*powers, most)]
        lengths, beside = [short], [most]
        if fine:
            lengths = [short * 2**i for i in range((longest // short).bit_length())]
            beside = [most // _FEW, most] if most >= _MANY else [most]
        sizes = {(1, longest)}
        for tokens in lengths:
            sizes |= {(1, tokens), (min(most, longest // tokens), tokens)}
        wide = widths[-1]
        mixed = [Geometry(n, *size, wide) for size in sorted(sizes) for n in beside]
        if fine:
            alone = (n for n in lengths if n < _PADDED * beside[0])
            mixed += [Geometry(0, 1, n, wide) for n in alone]
        self.first = [Geometry(most, 1, short, wide), steady[-1]]
        self.rest = [g for g in (*steady, *mixed) if g not in self.first]
        # A step's time in tokens' worth, but for its tokens: reading the weights.
        self._start = 64 if fine else 256
        few = {(1, short), (min(most, longest // short), short), (1, longest)}
        coarse = (Geometry(most, *size, wide) for size in few)
        self.judging = sorted(coarse, key=lambda g: (-g.chunk_tokens, -g.chunks))
        self._open: list[Geometry] = []
        self._judging: list[Geometry] = []

    def open(self, geometry: Geometry, scores: bool = False) -> None:
        """Says that a shape is compiled; another thread may be planning.

        Args:
          geometry: The shape.
          scores: Whether it is the form that judges prompts.
        """
        if scores:
            self._judging = [*self._judging, geometry]
        else:
            self._open = sorted([*self._open, geometry], key=lambda g: g.tokens)

    @property
    def scores(self) -> bool:
        """Whether prompts can be judged."""
        return bool(self._judging)

    def steady(self, decodes: int, tokens: int = 1) -> Geometry:
        """Returns the smallest open shape for decodes alone, of so many tokens each."""
        alone = (g for g in self._open if not g.chunks)
        return next(
            g for g in alone if g.decodes >= decodes and g.decode_tokens >= tokens
        )

    def mixed(
        self, left: Sequence[int], decodes: int, scores: bool = False
    ) -> Geometry:
        """Returns the open shape that wastes least, in padding and in further steps.

        Args:
          left: Tokens that each prompt has still to be fed, the first in line first.
          decodes: Sequences that decode beside them.
          scores: Whether some of the prompts are judged.
        """

        def waste(g: Geometry) -> tuple[int, int]:
            fed = sum(min(n, g.chunk_tokens) for n in left[: g.chunks])
            steps = -(-sum(left) // fed)  # if all went on like this
            # Of equals the one that is done with the first prompts sooner.
            return g.tokens - fed + self._start * steps, -g.chunk_tokens

        forms = self._judging if scores else self._open
        fitting = [g for g in forms if g.chunks and g.decodes >= decodes]
        return min(fitting, key=waste)
