"""Converts a Hugging Face directory or a GGUF file to an r1jax checkpoint.

    python tools/convert_weights.py --input DeepSeek-R1 --output r1 --dtype bfloat16

The output is an Orbax directory with a manifest and the tokenizer. It appears under its
name when it is complete; memory stays small whatever the size of the model.
"""

import argparse
import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # no accelerator is needed, or taken

from r1jax.errors import R1jaxError
from r1jax.weights import convert
from r1jax.weights.convert import DTYPES


def main() -> int:
    """Runs the conversion; returns 0, 2 for bad input, 130 when interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--input",
        required=True,
        metavar="PATH",
        help="a directory with config.json and safetensors, or a GGUF file",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help="the checkpoint's directory, not there yet or empty",
    )
    parser.add_argument(
        "--dtype",
        default="bfloat16",
        choices=DTYPES,
        help="of all weights but the router's bias, always float32 (%(default)s)",
    )
    arguments = parser.parse_args()
    try:
        report = convert(arguments.input, arguments.output, dtype=arguments.dtype)
    except R1jaxError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped: {arguments.output} was not written\n")
        return 130
    sys.stdout.write(f"{report}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
