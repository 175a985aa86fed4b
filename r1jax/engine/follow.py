"""The engine's loop in the processes that run what process 0 plans."""

from r1jax.engine.runner import Message, Runner
from r1jax.hosts import Hosts

_VERDICT_SECONDS = 5  # process 0 may say why a step has failed


def follow(runner: Runner, hosts: Hosts) -> None:
    """Runs process 0's steps in their order, until it stops in peace.

    A step begins while the one before it still runs, as in process 0. If one fails this
    process ends, and says why in one line.
    """
    before = None
    try:
        while (data := hosts.receive()) is not None:
            outputs = runner.run(Message.from_bytes(data))
            if not outputs:
                continue
            if before is not None:
                before.block_until_ready()
            before = outputs["token"]
    except Exception as error:  # the outer edge of this thread
        hosts.wait_for_loss(_VERDICT_SECONDS)  # ends here if the cause is elsewhere
        hosts.leave(f"a step failed: {error}".partition("\n")[0])
