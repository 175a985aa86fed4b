"""Asks the server beside it how it is: exit code 0 for well, 1 for not.

    python deploy/probe.py [URL]

URL is that of the environment's HEALTH_URL, or http://127.0.0.1:8000/health, if left
out. `/health` is well when new requests are served at full speed; `/` (the chat page)
when the server answers at all, also while it compiles or stops. On a TPU slice only
process 0 serves. The others are well as long as they run: they end by themselves when
one of them is lost. Certificates are not checked, as the server's name is not
127.0.0.1. Needs Python alone.
"""

import os
import ssl
import sys
import urllib.request
from collections.abc import Mapping, Sequence

_URL = "http://127.0.0.1:8000/health"
_SECONDS = 5
_NUMBERS = ("TPU_WORKER_ID", "MEGASCALE_SLICE_ID")  # of the host, and of its slice


def follows(environment: Mapping[str, str]) -> bool:
    """Tells whether this is a process of a TPU slice that does not serve."""
    return any(environment.get(name, "0") != "0" for name in _NUMBERS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Asks, and says in a line what is wrong."""
    given = sys.argv[1:] if arguments is None else arguments
    url = given[0] if given else os.environ.get("HEALTH_URL", _URL)
    if follows(os.environ):
        return 0
    unchecked = ssl._create_unverified_context()
    try:
        urllib.request.urlopen(url, timeout=_SECONDS, context=unchecked).close()
    except (OSError, ValueError) as error:  # urllib's errors are the former
        sys.stderr.write(f"{url}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
