"""Published pass@1 and cons@64, in percent, to set ours beside.

R1, R1-Zero and the distills: arXiv 2501.12948 (tables 4 and 5) and its later version
in Nature. "open-r1" repeated the distills' measurements with lighteval
(huggingface/open-r1, pull request 643).
"""

from collections.abc import Mapping

PASS_AT_1: Mapping[str, Mapping[str, float]] = {
    "aime": {
        "R1": 79.8, "R1-Zero": 77.9, "Qwen-1.5B": 28.9, "Qwen-7B": 55.5,
        "Llama-8B": 50.4, "Qwen-14B": 69.7, "Qwen-32B": 72.6, "Llama-70B": 70.0,
        "open-r1 Qwen-7B": 51.3, "open-r1 Llama-8B": 43.5,
    },
    "math500": {
        "R1": 97.3, "R1-Zero": 95.9, "Qwen-1.5B": 83.9, "Qwen-7B": 92.8,
        "Llama-8B": 89.1, "Qwen-14B": 93.9, "Qwen-32B": 94.3, "Llama-70B": 94.5,
        "open-r1 Qwen-7B": 93.4, "open-r1 Llama-8B": 87.9,
    },
    "gpqa": {
        "R1": 71.5, "R1-Zero": 75.8, "Qwen-1.5B": 33.8, "Qwen-7B": 49.1,
        "Llama-8B": 49.0, "Qwen-14B": 59.1, "Qwen-32B": 62.1, "Llama-70B": 65.2,
        "open-r1 Qwen-7B": 52.4, "open-r1 Llama-8B": 49.1,
    },
    "mmlu": {"R1": 90.8, "R1-Zero": 88.8},
}  # fmt: skip
CONS_AT_64: Mapping[str, Mapping[str, float]] = {
    "aime": {
        "Qwen-1.5B": 52.7, "Qwen-7B": 83.3, "Llama-8B": 80.0, "Qwen-14B": 80.0,
        "Qwen-32B": 83.3, "Llama-70B": 86.7,
    },
}  # fmt: skip
