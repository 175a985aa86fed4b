"""TLS: the flags, checked before a model is loaded, as uvicorn takes them."""

import argparse
import ssl
from typing import Any

from r1jax.errors import ConfigError


def tls_options(args: argparse.Namespace) -> dict[str, Any]:
    """Gives uvicorn's arguments; none where no certificate is named.

    Raises:
      ConfigError: A file is missing or no good, or flags do not go together.
    """
    given = {
        "ssl_keyfile": args.ssl_keyfile,
        "ssl_ca_certs": args.ssl_ca_certs,
        "ssl_cert_reqs": args.ssl_cert_reqs,
    }
    if not args.ssl_certfile:
        for name, value in given.items():
            if value:
                raise ConfigError(
                    f"--{name.replace('_', '-')} without --ssl-certfile",
                    "without a certificate the server does not speak TLS",
                    "name the certificate, or leave the other out",
                )
        return {}
    if args.ssl_cert_reqs and not args.ssl_ca_certs:
        raise ConfigError(
            f"--ssl-cert-reqs {args.ssl_cert_reqs} without --ssl-ca-certs",
            "clients' certificates can only be judged by authorities",
            "name a file of authorities' certificates",
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A password would be asked for on the terminal.
        context.load_cert_chain(args.ssl_certfile, args.ssl_keyfile, password="")
        if args.ssl_ca_certs:
            context.load_verify_locations(args.ssl_ca_certs)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        names = (args.ssl_certfile, args.ssl_keyfile, args.ssl_ca_certs)
        raise ConfigError(
            f"no TLS with {', '.join(filter(None, names))}",
            str(error),
            "name files in PEM form that belong together; a key without a password",
        ) from None
    return {"ssl_certfile": args.ssl_certfile, **given}
