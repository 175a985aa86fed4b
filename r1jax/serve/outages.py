"""The errors of a server that cannot serve just now, and when to come back."""

from r1jax.serve.errors import ApiError


def stopping() -> ApiError:
    """Makes the error of a server that is about to stop."""
    return ApiError(
        503,
        "the server is shutting down",
        "it was asked to stop",
        "try again later, or another server",
        code="shutting_down",
        headers={"Retry-After": "5"},
    )


def failed(reason: str) -> ApiError:
    """Makes the error of an engine that failed: this server ends, another may serve."""
    return ApiError(
        503,
        "the engine failed",
        reason,
        "try again later, or another server; this one's log says more",
        code="engine_error",
        headers={"Retry-After": "5"},
    )


def overloaded(waiting: int, most: int, unit: str) -> ApiError:
    """Makes the error of a full queue, measured in sequences or in prompt tokens."""
    return ApiError(
        503,
        f"{waiting} {unit} are waiting already",
        f"the server lets {most} wait",
        "try again later",
        code="overloaded",
        headers={"Retry-After": "2"},
    )


def waited_too_long(seconds: float) -> ApiError:
    """Makes the error of a request that no token came for in time."""
    return ApiError(
        503,
        f"the first token did not come within {seconds:g} seconds",
        "the server is busy, and was started with --queue-timeout",
        "try again later",
        code="queue_timeout",
        headers={"Retry-After": "2"},
    )


def took_too_long(seconds: float) -> ApiError:
    """Makes the error of a request that was not answered whole in time."""
    return ApiError(
        504,
        f"the answer was not finished within {seconds:g} seconds",
        "the server was started with --request-timeout",
        "ask for a shorter answer ('max_tokens'), or in several requests",
        code="request_timeout",
    )
