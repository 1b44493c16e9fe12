"""Every route of the OpenAPI document, and those of a demo, over real HTTP, with what Schemathesis makes of it: values
at the limits of what is described and beyond them, and some drawn. Whatever is asked, the api does not fail and answers
as it is described.

The same requests every time; `SCAN_EXAMPLES=500 pytest tests/test_scanned_api.py` asks more of each route.
"""

import asyncio
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import requests
import schemathesis
from asked_shop import BALL, AskedShop, ReplicasAtHand
from brokers import settings_on
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from shelves import offer
from test_letter_routes import UNKNOWN, letter, publish

from store.keys import KeyStore
from streams import door
from streams.demo_orders import orders_taken
from streams.embedded_broker import EmbeddedBroker
from streams.supervisor import Supervisor
from streams.topics import create_topics

# Schemathesis numbers its cases by `random`; what is asked does not come from it.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")

EXAMPLES = int(os.environ.get("SCAN_EXAMPLES", "8"))
DOCUMENT = orjson.loads((Path(__file__).parent.parent / "docs" / "openapi.json").read_bytes())
# Server-sent events have no end to wait for; tests of their own listen to them.
ENDLESS = ("/v1/users/{user_id}/recommendations/stream", "/v1/events/stream")
ROUTES = [(method, path) for path, methods in DOCUMENT["paths"].items() if path not in ENDLESS for method in methods]
ROUTES += [  # which only a demo has, and the committed document has not
    ("get", "/v1/demo"),
    ("post", "/v1/demo/products"),
    ("post", "/v1/demo/processes/{name}/stop"),
    ("post", "/v1/demo/processes/{name}/start"),
]
CHECKS: list[Any] = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
MODES = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
HELD = {"user_id": "ann/1", "product_id": BALL, "brand": "Lux", "one": "f", "other": "f"}  # made ids almost never are
NO_HTTP = "Invalid HTTP request received."  # says uvicorn of a header like `content-length: Ee;`: no route is asked
# No role runs beside the api: nobody carries out what was published, and nothing is ready.
WAITS_FOR_ROLES = ("/readyz", "/v1/users/{user_id}/identify")


class Encoder:
    """Stands for the model of queries; its vectors have the width of the shop's."""

    def hurry_queries(self) -> None: ...

    def encode_queries(self, queries: Sequence[Any]) -> list[dict[str, Any]]:
        return [{name: np.array([1.0, 0.0], np.float32) for name in ("fused", "text")} for _ in queries]


@pytest.fixture(scope="module")
def scanned(tansu: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str, str]]:
    """The operations of the document by their names, where they are answered, and a key that opens all."""
    home = tmp_path_factory.mktemp("scanned")
    told = settings_on(tansu, home).model_dump(exclude_unset=True, exclude={"home"})
    told |= {"api_requests_per_s": 0, "demo_orders": home / "orders", "pictures_root": home}
    shop = AskedShop(home, ReplicasAtHand(), lambda _: Encoder(), **told)  # type: ignore[arg-type, return-value]
    create_topics(shop.settings, shop.names)
    publish(shop.settings, letter(shop.names.catalog_updates, 7, UNKNOWN.format("a"), b"{}", key=b"a"))
    shop.fill()
    price = {"amount": 5.0, "currency": "EUR"}
    shop.shelf.put_offer(b"sold", offer(state="sold_out", brand="Lux", price=price, attributes={"a": "b"}), ())
    key = KeyStore(shop.products.engine).make("scan", ["read", "write", "admin"])[1]
    url = f"http://127.0.0.1:{shop.settings.api_port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(door, "FORGOTTEN_WITHIN_S", 0.05)
        patch.setattr(door, "STORED_WITHIN_S", 0.05)
        serving = threading.Thread(target=lambda: asyncio.run(serve(shop)))
        serving.start()
        until_full(shop)
        described = shop.api.app.openapi()
        assert {path: described["paths"][path] for path in DOCUMENT["paths"]} == DOCUMENT["paths"]
        assert described["paths"].keys() == DOCUMENT["paths"].keys() | {path for _, path in ROUTES}
        yield schemathesis.openapi.from_dict(described), url, key
        shop.api.stop()
        serving.join(20)
    shop.vectors.close()


async def serve(shop: AskedShop) -> None:
    assert shop.settings.demo_orders is not None
    async with orders_taken(Supervisor([], shop.settings.home / "logs"), [], shop.settings.demo_orders):
        await shop.api.run()
    await shop.publisher.stop()


def until_full(shop: AskedShop) -> None:
    deadline = time.monotonic() + 120.0  # the first time, what ranks is compiled
    while not shop.api.views.are_full:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_the_api_answers_as_it_is_described_whatever_is_asked(
    scanned: tuple[Any, str, str], method: str, path: str
) -> None:
    schema, url, key = scanned
    operation = schema[path][method.upper()]
    with requests.Session() as session:
        session.trust_env = False

        def ask(case: Any, *, of_held: bool) -> None:
            if of_held:
                case.path_parameters.update({name: HELD[name] for name in case.path_parameters.keys() & HELD})
            told = {"Authorization": f"Bearer {key}"}
            answer = case.call(url, session=session, headers=told, allow_redirects=False, timeout=20)
            if answer.text == NO_HTTP:
                return
            assert answer.status_code < 500 or (answer.status_code == 503 and path in WAITS_FOR_ROLES), answer.text
            case.validate_response(answer, checks=CHECKS)

        limits = schema.iter_coverage_cases(
            operation, generation_modes=MODES, generation_config=schema.config.generation_for(operation=operation)
        )
        for place, case in enumerate(one for one in limits if one.method == operation.method.upper()):
            ask(case, of_held=place % 2 == 0)
        settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(given(case=st.one_of(map(operation.as_strategy, MODES)), of_held=st.booleans())(ask))()
