"""Converts a Hugging Face directory or a GGUF file to an r1jax checkpoint.

    python tools/convert_weights.py --input DeepSeek-R1 --output r1 --dtype bfloat16

The output is an Orbax directory with a manifest and the tokenizer. It grows in
`OUTPUT.partial` and appears under its name when it is complete. Whatever stops the
conversion, the same command goes on where it stood; memory stays small whatever the
size of the model.
"""

import argparse
import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # no accelerator is needed, or taken

from r1jax.errors import R1jaxError
from r1jax.weights import convert
from r1jax.weights.dtypes import DTYPES

PARTS = {
    "attention": "the projections of attention",
    "dense": "dense feed-forward layers and shared experts",
    "experts": "the routed experts",
}


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
        help="of the weights; some small ones are always float32, and beside weights "
        "of few bits embedding, head and norms are bfloat16 (%(default)s)",
    )
    for part, what in PARTS.items():
        parser.add_argument(
            f"--{part}-dtype",
            choices=DTYPES,
            help=f"of {what}, where it differs from --dtype",
        )
    arguments = parser.parse_args()
    try:
        report = convert(
            arguments.input,
            arguments.output,
            dtype=arguments.dtype,
            **{f"{part}_dtype": getattr(arguments, f"{part}_dtype") for part in PARTS},
        )
    except R1jaxError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(
            f"stopped: {arguments.output} is not finished; the same command goes on "
            f"where it stood, or remove {arguments.output}.partial\n"
        )
        return 130
    sys.stdout.write(f"{report}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
