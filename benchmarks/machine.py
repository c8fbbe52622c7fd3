"""Where and under which circumstances numbers were measured."""

import os
import platform
from importlib.metadata import version

import torch


def machine(*packages: str) -> dict[str, object]:
    """Threads, cores, other work at the moment, versions: for a result file.

    Arguments:
        packages: Whose versions to tell, besides those of Python and torch.
    """
    return {
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: version(name) for name in packages},
        },
    }
