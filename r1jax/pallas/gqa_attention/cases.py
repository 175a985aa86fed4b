"""Grouped-query attention of the distills, and of Qwen3 and SmolLM2, on a chip."""

from r1jax.pallas.paged.cases import Case


def _case(
    name: str, heads: int, kv_heads: int, width: int = 128, **sizes: int | str
) -> Case:
    kind = "mixed" if sizes.get("tokens") else "decode"
    fixed = dict(rows=32, context=2048, value_width=width, kind=kind)
    return Case(
        name=name,
        heads=heads,
        kv_heads=kv_heads,
        width=width,
        **(fixed | sizes),  # type: ignore[arg-type]
    )


CASES = (
    _case("llama-8b-tensor4-decode", 8, 2),
    _case("llama-8b-tensor4-decode-8x8192", 8, 2, rows=8, context=8192),
    _case("llama-8b-decode", 32, 8, rows=8),
    _case("llama-70b-tensor8-decode", 8, 1),
    _case("qwen-1.5b-decode", 12, 2),
    _case("qwen-7b-tensor4-decode", 7, 1),
    _case("qwen-14b-tensor8-decode", 5, 1),
    _case("qwen-32b-tensor8-decode-8x8192", 5, 1, rows=8, context=8192),
    _case("qwen3-8b-decode", 32, 8),
    _case("smollm2-decode", 9, 3, 64),
    _case("llama-8b-tensor4-decode-int8", 8, 2, dtype="int8"),
    _case("llama-8b-tensor4-decode-fp8", 8, 2, dtype="float8_e4m3fn"),
    _case("llama-8b-tensor4-mixed-512+8", 8, 2, rows=9, tokens=520),
    _case("llama-70b-tensor8-mixed-512+8", 8, 1, rows=9, tokens=520),
    _case("qwen-7b-tensor4-mixed-512+8", 7, 1, rows=9, tokens=520),
    _case("qwen-1.5b-verify-32x4", 12, 2, tokens=128),
    _case("smollm2-mixed-512+8", 9, 3, 64, rows=9, tokens=520),
)
