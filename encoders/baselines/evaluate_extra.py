"""What only the evaluation needs is installed by the extra `evaluate`, and asked for when it is used."""

import importlib
from typing import Any


def module_of_extra(name: str) -> Any:
    """Return the imported module, as `scipy.sparse`.

    Raises ImportError, with what to install, where it is not there.
    """
    try:
        return importlib.import_module(name)
    except ImportError as missing:
        raise ImportError(
            f"the package {name.partition('.')[0]} is needed for this: pip install '.[evaluate]' in Freshet's folder"
        ) from missing
