"""Errors that say what happened, why it matters, and how to fix it.

Every error a user can cause is an `R1jaxError`. Its text is three lines, always in
the same order; the server turns the same three parts into an OpenAI error object.
"""


class R1jaxError(Exception):
    """An error caused by input: `what` happened, `why`, and how to `fix` it."""

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        """Keeps the three parts; empty ones are left out of the text."""
        self.what, self.why, self.fix = what, why, fix
        lines = [what]
        if why:
            lines.append(f"  why: {why}")
        if fix:
            lines.append(f"  fix: {fix}")
        super().__init__("\n".join(lines))


class ConfigError(R1jaxError):
    """A model, engine or preset configuration that cannot work."""


class CheckpointError(R1jaxError):
    """A checkpoint that is broken, incomplete, or not what it claims to be."""


class TextError(R1jaxError):
    """A tokenizer, chat template or text that cannot be used."""


class RequestError(R1jaxError):
    """A request that cannot be served as asked."""


class ShardingError(R1jaxError):
    """Logical axes, rules or sizes that do not fit the mesh."""
