"""A plan as text that a person can act on."""

from collections.abc import Sequence

from r1jax.plan.calibration import CALIBRATION
from r1jax.plan.report import Plan, Step

_GIB = 2**30
_BAR = 40


def table(plan: Plan, price: float | None = None) -> str:
    """Draws a plan.

    Args:
      plan: What was found.
      price: Of a chip for an hour, to say what tokens cost.
    """
    return "\n".join([_head(plan), "", *_memory(plan), "", *_steps(plan, price), ""])


def ranking(plans: Sequence[Plan]) -> str:
    """Draws plans in their order, a line each."""
    widths = (6, 8, 12, 9, 11, 9, 14)
    head = (
        "chips",
        "tensor",
        "strategy",
        "dtype",
        "floor ms",
        "expected",
        "tokens/s/chip",
    )
    lines = [_row("decode", head, widths)]
    for plan in plans:
        step, p = plan.steps[0], plan.setup.target.placement
        assert step.floor is not None
        assert p is not None
        cells = (
            f"{plan.setup.on.chips}",
            f"{p.mesh.shape['tensor']}",
            p.rules,
            plan.dtype,
            f"{step.floor.seconds * 1e3:.1f}",
            f"{(step.expected or 0) * 1e3:.1f}",
            f"{plan.rate_per_chip:,.0f}",
        )
        lines.append(_row(plan.setup.on.name, cells, widths))
    return "\n".join(lines) + "\n"


def _head(plan: Plan) -> str:
    on, p = plan.setup.on, plan.setup.target.placement
    mesh = (
        " x ".join(f"{k} {v}" for k, v in p.mesh.shape.items()) if p else "one device"
    )
    chips = f"{on.chips} chips"
    if on.devices_per_chip > 1:
        chips += f" ({len(on.devices)} devices)"
    form = {"kernels": "Pallas kernels"}.get(plan.setup.target.form, "plain JAX")
    by = ", ".join(f"{name} {version}" for name, version in plan.versions.items())
    rules = f", {p.rules}" if p else ""
    return (
        f"{plan.name} {plan.dtype} on {on.name}: {chips}, {mesh}{rules}, {form}\n"
        f"The compiler's estimate ({by}); nothing was run."
    )


def _memory(plan: Plan) -> list[str]:
    m, setup = plan.memory, plan.setup
    each = "device, half a chip" if setup.on.devices_per_chip > 1 else "chip"
    parts = {
        "weights": m.weights,
        "programs, padding": m.state,
        "temporaries": m.temporaries,
    }
    lines = [f"memory of each {each}"]
    if m.usable is None:
        lines += [f"  {name:<19}{size / _GIB:8.2f} GiB" for name, size in parts.items()]
        return [*lines, f"  {'cache':<19}{m.token:8,.0f} bytes a token"]
    parts["cache"] = m.cache
    for name, size in parts.items():
        bar = "#" * max(0, round(_BAR * size / m.usable))
        lines.append(f"  {name:<19}{size / _GIB:8.2f} GiB  {bar}")
    lines.append(f"  {'usable':<19}{m.usable / _GIB:8.2f} GiB  {'#' * _BAR}")
    context, most = setup.context, plan.sequences
    lines.append(
        f"  cache: {m.tokens:,} tokens in the slice ({m.token:,.0f} bytes each on a "
        f"{each.split(',')[0]}), {most:,} sequences of {context:,}"
    )
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    lines.append(f"  {plan.batch:,} sequences of {context:,} tokens: {verdict}")
    if m.cache <= 0:
        short = -(m.usable - m.weights - m.state - m.temporaries) / _GIB
        lines.append(f"  {max(short, 0):.2f} GiB short before any cache")
    return lines


def _steps(plan: Plan, price: float | None) -> list[str]:
    found = [step for step in plan.steps if step.floor]
    if not found:
        return ["no times: nothing is known of this machine's rates"]
    head = ("memory", "compute", "exchange", "floor", "expected")
    widths = (8, 9, 16, 8, 10)
    lines = [_row("milliseconds of a step", head, widths)]
    for step in found:
        assert step.floor is not None
        floor, expected = step.floor, step.expected or 0.0
        times = (floor.memory, floor.compute, floor.exchange, floor.seconds, expected)
        cells = [f"{seconds * 1e3:.1f}" for seconds in times]
        cells[2] += f" ({floor.exchanges})"
        lines.append(_row(f"  {_what(plan, step)}", cells, widths))
    for step in found:
        assert step.floor is not None
        least, expected = step.floor.seconds, step.expected or 0.0
        text = (
            f"{step.name}: {step.tokens / expected:,.0f} tokens a second expected, "
            f"{step.tokens / least:,.0f} at most; {step.floor.binds} takes longest"
        )
        if price is not None:
            cost = price * plan.setup.on.chips / 3600 * expected / step.tokens * 1e6
            text += f"; {cost:,.2f} a million tokens"
        lines.append(text)
    experts = ", experts as uniform routing picks them" if plan.setup.config.moe else ""
    c, percent = CALIBRATION, f"{CALIBRATION.error:.0%}"
    return [
        *lines,
        f"floor: memory read once{experts}, products at the bfloat16 peak,",
        "  exchanges by hops and links.",
        f"expected: as far from the floor as {c.source}, which reached",
        f"  {c.share:.0%} of bandwidth and {c.overhead * 1e6:.1f} us more an exchange",
        f"  (right within {percent} there).",
    ]


def _row(name: str, cells: Sequence[str], widths: Sequence[int]) -> str:
    pairs = zip(cells, widths, strict=True)
    return f"{name:<38}" + "".join(f"{cell:>{width}}" for cell, width in pairs)


def _what(plan: Plan, step: Step) -> str:
    context = plan.setup.context
    if step.name == "decode":
        return f"decode {plan.batch:,} sequences at {context:,}"
    chunks = plan.setup.shards * step.geometry.chunks
    chunk = step.geometry.chunk_tokens
    return f"prefill {chunks} x {chunk} tokens, and those"
