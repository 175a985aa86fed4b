"""The exchange of rows by XLA's own collective: the same runs, one slice for each."""

import jax

from r1jax.pallas.expert_dispatch.plan import Axis, Runs
from r1jax.typing import Array, Float


def exchange(
    rows: Float[Array, "sent D"], runs: Runs, axis: Axis, capacity: int
) -> Float[Array, "M D"]:
    """Returns [capacity, D] with the runs of all senders where they belong.

    Rows that no run covers hold anything.
    """
    return jax.lax.ragged_all_to_all(
        rows,
        jax.lax.empty((capacity, rows.shape[1]), rows.dtype),
        input_offsets=runs.first,
        send_sizes=runs.rows,
        output_offsets=runs.to,
        recv_sizes=runs.arriving,
        axis_name=axis.name,
    )
