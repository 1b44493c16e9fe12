"""The OpenAPI document of the api, made from its routes: `python -m streams.openapi docs/openapi.json`."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from streams.api.role import Api
from streams.roles import MAKERS, Parts
from streams.settings import Settings


def document() -> dict[str, Any]:
    """As /openapi.json answers it. The api is made as a worker makes it, in a folder of its own; nothing runs.

    By the settings' defaults, whatever the environment says.
    """
    defaults = {name: field.get_default(call_default_factory=True) for name, field in Settings.model_fields.items()}
    with TemporaryDirectory() as home:
        parts = Parts(Settings(**defaults | {"home": Path(home)}))
        api = MAKERS["api"](parts)
        assert isinstance(api, Api)
        described: dict[str, Any] = api.app.openapi()
        parts.vectors.close()
    return described


def render() -> bytes:
    """The document as JSON with its keys in order, the same bytes for the same routes."""
    return orjson.dumps(document(), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(render())
