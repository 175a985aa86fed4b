"""What a checkpoint's weights are kept as: the names that users choose from."""

import dataclasses

from r1jax import quant
from r1jax.config import ModelConfig
from r1jax.errors import ConfigError
from r1jax.quant import Scheme

DTYPES = ("bfloat16", "float16", "float32", *quant.FORMS)


def chosen_scheme(
    config: ModelConfig,
    dtype: str,
    attention_dtype: str | None = None,
    dense_dtype: str | None = None,
    experts_dtype: str | None = None,
    *,
    plain: str = "bfloat16",
) -> tuple[str, Scheme | None]:
    """Returns the float type of plain leaves, and what is stored in few bits.

    Args:
      config: The model.
      dtype: One of `DTYPES`.
      attention_dtype: What the projections of attention are instead.
      dense_dtype: The same for feed-forward layers and shared experts.
      experts_dtype: The same for routed experts.
      plain: The float type beside a `dtype` of few bits.

    Raises:
      ConfigError: A name is unknown, or experts are named where there are none.
    """
    experts = config.moe is not None
    scheme = quant.scheme(dtype, experts)
    parts = {
        "attention": attention_dtype,
        "dense": dense_dtype,
        "experts": experts_dtype,
    }
    given = {part: form for part, form in parts.items() if form}
    if "experts" in given and not experts:
        raise ConfigError(
            f"experts_dtype is {experts_dtype!r}",
            f"this {config.family} model has no experts",
            "leave it out",
        )
    plain = dtype if scheme is None else plain
    for part, form in given.items():
        if form not in (plain, *quant.FORMS):
            raise ConfigError(
                f"{part}_dtype is {form!r}",
                f"this part can be {plain}, as what is plain, or in few bits: "
                f"{', '.join(quant.FORMS)}",
                "choose one of them",
            )
    forms = {part: None if form == plain else form for part, form in given.items()}
    scheme = dataclasses.replace(scheme or Scheme(), **forms)
    return plain, None if scheme == Scheme() else scheme
