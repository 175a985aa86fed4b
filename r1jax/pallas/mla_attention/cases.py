"""DeepSeek-R1's absorbed attention on a chip, data parallel or over 8 chips' heads."""

from r1jax.pallas.paged.cases import Case


def _case(name: str, **sizes: int | str) -> Case:
    kind = "mixed" if sizes.get("tokens") else "decode"
    fixed = dict(kv_heads=0, width=640, value_width=512, kind=kind)
    return Case(name=name, **(fixed | sizes))  # type: ignore[arg-type]


CASES = (
    _case("r1-decode-8x2048", heads=128, rows=8, context=2048),
    _case("r1-decode-64x2048", heads=128, rows=64, context=2048),
    _case("r1-decode-32x8192", heads=128, rows=32, context=8192),
    _case("r1-tensor8-decode-32x2048", heads=16, rows=32, context=2048),
    _case("r1-tensor8-decode-8x8192", heads=16, rows=8, context=8192),
    _case("r1-decode-32x2048-int8", heads=128, rows=32, context=2048, dtype="int8"),
    _case(
        "r1-tensor8-decode-32x2048-int8",
        heads=16,
        rows=32,
        context=2048,
        dtype="int8",
    ),
    _case(
        "r1-decode-32x2048-fp8",
        heads=128,
        rows=32,
        context=2048,
        dtype="float8_e4m3fn",
    ),
    _case("r1-verify-32x2", heads=128, rows=32, context=2048, tokens=64),
    _case("r1-mixed-512+8", heads=128, rows=9, context=2048, tokens=520),
    _case("r1-tensor8-mixed-128+8", heads=16, rows=9, context=2048, tokens=136),
)
