"""Ask NVML for driver and GPUs, in a process of its own: a sick GPU can hang or kill who asks.

Prints one JSON object: `{"driver": "535.104.05", "gpus": [["Tesla T4", [7, 5]]]}`.
"""

from __future__ import annotations

import json
import sys

import pynvml


def main() -> int:
    """Print what NVML says; return 1 where there is no NVML or no driver."""
    try:
        pynvml.nvmlInit()
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        gpus = [
            (pynvml.nvmlDeviceGetName(one), pynvml.nvmlDeviceGetCudaComputeCapability(one))
            for one in handles
        ]
        found = {"driver": pynvml.nvmlSystemGetDriverVersion(), "gpus": gpus}
    except pynvml.NVMLError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    print(json.dumps(found))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
