"""What the hub's failures mean, and what can be done about each."""

import os
from pathlib import Path

from r1jax.errors import CheckpointError
from r1jax.hub.names import NEWEST, Repository
from r1jax.weights.files import some

_BUSY = (408, 425, 429)  # and what is 500 or more: the same request may succeed later
_LOGIN = "set HF_TOKEN, or log in with `hf auth login`"


def failures() -> tuple[type[BaseException], ...]:
    """Returns what the hub's library raises where something outside is the cause.

    Besides its own errors: those of its HTTP library, which is another one in each of
    its releases and the base of its own; of answers that a hub would not give; and of
    its transfer protocol.
    """
    from huggingface_hub.errors import HfHubHTTPError

    http = HfHubHTTPError.__bases__[0]
    return (http, OSError, ValueError, LookupError, TypeError, RuntimeError)


def root_of(error: BaseException) -> BaseException:
    """Returns what is behind "not in the cache either"."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    while isinstance(error, LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__
    return error


def may_pass(error: BaseException) -> bool:
    """Tells whether trying again can help."""
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _BUSY
    if isinstance(error, OSError) and error.errno is not None:
        return isinstance(error, ConnectionError | TimeoutError)  # not a full disk
    return not isinstance(error, LookupError | TypeError)


def reason_of(error: BaseException) -> str:
    """Says in a few words why the hub did not answer."""
    status = _status(error)
    if status == 401 and not _is(error, "RepositoryNotFoundError"):
        return f"the hub refuses {_token() or 'the request'} (HTTP 401)"
    if status is not None:
        return f"the hub answers with HTTP {status}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if isinstance(error, ValueError | LookupError | TypeError):
        return f"the hub's answer cannot be understood ({lines[0]})"
    return f"the hub cannot be reached ({lines[0]})"


def refusal(repository: Repository, error: BaseException) -> CheckpointError:
    """Returns the error that tells a user what to do."""
    status, name = _status(error), repository.name
    if _is(error, "RevisionNotFoundError"):
        return CheckpointError(
            f"{name} has no revision {repository.revision!r}",
            "a revision is a branch, a tag or a whole commit of 40 digits",
            f"choose one of {_page(repository)}/commits/{NEWEST}",
        )
    if _is(error, "GatedRepoError"):
        return _gated(repository)
    if _is(error, "RepositoryNotFoundError"):
        return _not_found(repository)
    if status == 401:
        return CheckpointError(
            f"{repository}: {reason_of(error)}",
            "it has expired, was revoked or is mistyped; with such a token the hub "
            "refuses even what is public",
            "make a new one at the hub's settings, or leave the token away",
        )
    if status == 403:
        token = _token()
        return CheckpointError(
            f"{repository}: the hub forbids it (HTTP 403)",
            f"{token} may not read this repository" if token else "no token was sent",
            "give a token that may read it (a fine-grained one needs gated "
            "repositories too)"
            if token
            else _LOGIN,
        )
    if status == 429:
        return CheckpointError(
            f"{repository}: the hub has had too many requests (HTTP 429)",
            "it counts them by token, and by address where there is none",
            "wait some minutes" if _token() else f"wait some minutes, or {_LOGIN}",
        )
    return _no_answer(repository, error)


def _no_answer(repository: Repository, error: BaseException) -> CheckpointError:
    if _is(error, "LocalEntryNotFoundError", "OfflineModeIsEnabled"):
        return CheckpointError(
            f"{repository} is not in the cache",
            f"HF_HUB_OFFLINE forbids to ask the hub, and {_cached(repository)}",
            "unset it, or fetch it elsewhere with `hf download` and copy the cache "
            "here",
        )
    if isinstance(error, OSError) and error.errno is not None and not may_pass(error):
        return CheckpointError(
            f"{repository} cannot be stored",
            str(error),
            "make room, or let HF_HOME name a directory where you may write",
        )
    return CheckpointError(
        f"{repository} cannot be fetched",
        f"{reason_of(error)}, and {_cached(repository)}",
        "check the network, HF_ENDPOINT and the proxy, and try again: whole files stay",
    )


def _cached(repository: Repository) -> str:
    """Says what the cache has: the repository at other revisions, or others."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    here = cache / f"models--{repository.name.replace('/', '--')}" / "snapshots"
    commits = [path.name for path in here.glob("*")]
    if commits:
        return f"the cache has of it {some(commits)}"
    folders = (path.name.removeprefix("models--") for path in cache.glob("models--*"))
    names = [name.replace("--", "/", 1) for name in folders]
    return f"the cache {cache} " + (f"has {some(names)}" if names else "is empty")


def _gated(repository: Repository) -> CheckpointError:
    token = _token()
    if not token:
        return CheckpointError(
            f"{repository} is gated, and no token was sent",
            "its owner wants to know who takes it",
            f"ask for access at {_page(repository)}, then {_LOGIN}",
        )
    return CheckpointError(
        f"{repository} is gated, and {token} has no access to it",
        "its owner lets in whom he chose",
        f"ask for access at {_page(repository)} with the account of that token (a "
        "fine-grained token must also be allowed to read gated repositories)",
    )


def _not_found(repository: Repository) -> CheckpointError:
    token = _token()
    hidden = (
        f"or it is private and {token} may not read it"
        if token
        else "or it is private and no token was sent"
    )
    return CheckpointError(
        f"{repository.name} is neither a path here nor a repository of the hub",
        f"the name is wrong, {hidden}",
        "check the name and the path" + ("" if token else f", or {_LOGIN}"),
    )


def _is(error: BaseException, *names: str) -> bool:
    """Tells errors of the hub's library by their names: none is imported for it."""
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _status(error: BaseException) -> int | None:
    """Returns the HTTP status that came; None where no answer did."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _token() -> str:
    """Says which token is sent; empty where none is."""
    from huggingface_hub import get_token

    if os.environ.get("HF_TOKEN"):
        return "the token in HF_TOKEN"
    return "the token of the login" if get_token() else ""


def _page(repository: Repository) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository.name}"
