"""Names of repositories on the hub, and the revisions that presets were made from."""

import re
from dataclasses import dataclass

from r1jax.errors import ConfigError

# Presets, and the repositories of their weights.
RELEASES = {
    "r1": "deepseek-ai/DeepSeek-R1",
    "r1-zero": "deepseek-ai/DeepSeek-R1-Zero",
    "v3-base": "deepseek-ai/DeepSeek-V3-Base",
    "v3-0324": "deepseek-ai/DeepSeek-V3-0324",
    "r1-0528": "deepseek-ai/DeepSeek-R1-0528",
    "distill-qwen-1.5b": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    "distill-qwen-7b": "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
    "distill-qwen-14b": "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B",
    "distill-qwen-32b": "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B",
    "distill-llama-8b": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
    "distill-llama-70b": "deepseek-ai/DeepSeek-R1-Distill-Llama-70B",
    "r1-0528-qwen3-8b": "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B",
}
# What is taken of a repository where no revision is named. Others give their newest.
_PINS = {
    "distill-qwen-1.5b": "ad9f0ae0864d7fbcd1cd905e3c6c5b069cc8b562",
    "distill-qwen-7b": "916b56a44061fd5cd7d6a8fb632557ed4f724f60",
    "distill-qwen-14b": "1df8507178afcc1bef68cd8c393f61a886323761",
    "distill-qwen-32b": "711ad2ea6aa40cfca18895e8aca02ab92df1a746",
    "distill-llama-8b": "6a6f4aa4197940add57724a7707d069478df56b1",
    "distill-llama-70b": "b1c0b44b4369b597ad119a196caf79a9c40e141e",
}
PINNED = {RELEASES[preset]: commit for preset, commit in _PINS.items()}
NEWEST = "main"
_WORD = r"[A-Za-z0-9_](?:[\w.-]*\w)?"
_NAME = re.compile(f"{_WORD}/{_WORD}", re.ASCII)
_REVISION = re.compile(r"\w[\w./+-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Repository:
    """A repository at a revision.

    Attributes:
      name: As in `owner/name`.
      revision: A branch, a tag or a commit.
    """

    name: str
    revision: str

    @property
    def fixed(self) -> bool:
        """Whether the revision is a commit, which never means anything else."""
        return _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        """Returns the name with its revision, a commit in short."""
        return f"{self.name}@{self.revision[:12] if self.fixed else self.revision}"


def parse(source: str) -> Repository | None:
    """Reads `owner/name` or `owner/name@revision`; None where it is neither.

    Raises:
      ConfigError: It has the sign, but no revision behind it.
    """
    name, sign, revision = source.partition("@")
    if not _NAME.fullmatch(name) or name.endswith(".gguf") or "--" in name:
        return None
    if not sign:
        return Repository(name, PINNED.get(name, NEWEST))
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise ConfigError(
            f"{source}: {revision!r} is no revision",
            "behind the @ stands a branch, a tag or a commit",
            f"name one, or leave it out: {name}",
        )
    return Repository(name, revision)
