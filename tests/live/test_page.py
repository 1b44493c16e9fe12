"""The page in a real browser, over every role in real processes: a click changes the list, what sells out goes."""

import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from brokers import EmbeddedBroker, settings_on
from conftest import REPOSITORY, required
from system import System, running

from store.keys import KeyStore
from streams.api.access import KNOWN_FOR_S
from streams.ports import free_port
from streams.shop import draw_shop

playwright = pytest.importorskip("playwright.sync_api", reason="the tests' extras bring it")

pytestmark = pytest.mark.timeout(300)

PRODUCTS = 24
WITHIN_MS = 30_000
PICTURES = REPOSITORY / ".freshet" / "screenshots"  # git-ignored; kept to be looked at


@pytest.fixture(scope="module")
def shop(
    tansu: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[System, list[dict[str, Any]]]]:
    """Every role runs, and knows some drawn products."""
    folder = tmp_path_factory.mktemp("page")
    catalog = draw_shop(folder / "shop", PRODUCTS)
    settings = settings_on(tansu, folder, pictures_root=catalog.parent, api_port=free_port(), encode_batch=8)
    products = [orjson.loads(line) for line in catalog.read_bytes().splitlines()]
    with running(settings, nice=0) as system:
        system.start("catalog", "encode", "index,api", "clicks", "learner")
        for product in products:
            system.send(system.names.catalog_updates, product["product_id"].encode(), orjson.dumps(product))
        system.confirm()
        system.until_quiet(120)
        system.until(partial(is_ready, settings.api_port), 180, "the api is ready")
        yield system, products


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, or another that is on the PATH."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        if required("browser"):
            pytest.fail("a browser is required, and no chromium is on the PATH")
        pytest.skip("no chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(shop: tuple[System, Any], browser: Any) -> Iterator[Any]:
    """A tab of a new visitor in which no script has failed."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(WITHIN_MS)
    page = context.new_page()
    failed: list[str] = []
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(f"http://127.0.0.1:{shop[0].settings.api_port}/")
    page.wait_for_selector("#found .card")
    yield page
    assert failed == []
    context.close()


def titles(page: Any, where: str) -> list[str]:
    return [text.split("\n")[0] for text in page.locator(f"{where} button span").all_inner_texts()]


def keep(page: Any, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png")


def test_words_find_products_and_a_click_changes_the_list_without_a_reload(shop: Any, page: Any) -> None:
    _, products = shop
    page.wait_for_selector("#yours button")
    before = titles(page, "#yours")
    wanted = products[0]
    page.fill("#words", wanted["title"])
    page.press("#words", "Enter")
    page.wait_for_function(
        "title => document.querySelector('#found .card span')?.innerText.startsWith(title)", arg=wanted["title"]
    )
    page.evaluate("() => (window.isTheSamePage = true)")
    page.locator("#found .card").first.click()
    page.wait_for_selector("#product-title")
    assert page.inner_text("#product-title") == wanted["title"]
    page.wait_for_function("() => /ms after your click/.test(document.getElementById('you').textContent)")
    after = titles(page, "#yours")
    assert after != before
    assert page.evaluate("() => window.isTheSamePage"), "it was loaded again"
    assert page.inner_text("#problem") == ""
    reasons = page.locator("#yours small").all_inner_texts()
    assert any(wanted["title"] in reason for reason in reasons), reasons
    page.wait_for_function("() => [...document.querySelectorAll('.one img')].every(image => image.naturalWidth > 0)")
    keep(page, "product")


def test_a_picture_finds_its_product(shop: Any, page: Any) -> None:
    system, products = shop
    wanted = products[5]
    page.set_input_files("#picture", Path(system.settings.pictures_root) / wanted["image_links"][0])
    page.wait_for_function(
        "title => document.querySelector('#found .card span')?.innerText.startsWith(title)", arg=wanted["title"]
    )
    assert page.is_visible("#looked-for img")
    keep(page, "by-picture")


def test_what_sells_out_disappears_from_the_list(shop: Any, page: Any) -> None:
    system, products = shop
    page.locator("#found .card").first.click()  # from now on she is somebody with a list
    page.wait_for_function("() => /ms after your click/.test(document.getElementById('you').textContent)")
    gone = titles(page, "#yours")[0]
    product_id = next(product["product_id"] for product in products if product["title"] == gone)
    patch = {"op": "patch", "product_id": product_id, "availability": "out_of_stock"}
    system.send(system.names.catalog_updates, product_id.encode(), orjson.dumps(patch))
    system.confirm()
    page.wait_for_function(
        "gone => ![...document.querySelectorAll('#yours span')].some(line => line.innerText.startsWith(gone + '\\n'))",
        arg=gone,
    )
    assert "something sold out" in page.inner_text("#happened")


def test_it_can_be_used_by_keyboard_and_on_a_narrow_screen(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("() => document.documentElement.scrollWidth <= 360"), "nothing stands beyond the edge"
    page.locator("#words").focus()
    page.keyboard.type("lamp")
    page.keyboard.press("Enter")
    page.wait_for_selector("#happened li:text('found in')")  # what is shown is what was asked for
    page.locator("#found .card").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#product-title")
    keep(page, "narrow")


def test_the_operator_sees_every_role_at_work(shop: Any, page: Any) -> None:
    page.goto(f"http://127.0.0.1:{shop[0].settings.api_port}/operator")
    page.wait_for_function("() => document.querySelectorAll('#roles tbody tr').length === 6")
    assert set(page.locator("#roles tbody tr td:nth-child(2)").all_inner_texts()) == {"running"}
    page.wait_for_selector("#new .card")
    page.wait_for_selector("#letters caption")
    assert not page.is_visible("#problem"), page.inner_text("#problem")
    keep(page, "operator")


def test_a_product_can_be_opened_again_after_a_search(shop: Any, page: Any) -> None:
    for _ in range(2):
        page.fill("#words", shop[1][1]["title"])
        page.press("#words", "Enter")
        page.wait_for_function(
            "title => document.querySelector('#found .card span')?.innerText.startsWith(title)",
            arg=shop[1][1]["title"],
        )
        page.locator("#found .card").first.click()
        page.wait_for_selector("#product:not([hidden]) #product-title")
    page.locator("h1 a").click()
    page.wait_for_function("() => document.getElementById('found-title').textContent === 'Rising now'")
    assert not page.is_visible("#product")


def test_where_keys_are_needed_the_page_asks_for_one_that_suffices(shop: Any, browser: Any) -> None:
    keys = KeyStore(shop[0].parts.products.engine)
    reads, both = keys.make("reads", ["read"]), keys.make("shop", ["read", "write"])
    time.sleep(KNOWN_FOR_S + 0.2)
    context = browser.new_context()
    context.set_default_timeout(WITHIN_MS)
    page = context.new_page()
    try:
        page.goto(f"http://127.0.0.1:{shop[0].settings.api_port}/")
        tell_key(page, reads[1])
        page.wait_for_selector("#found .card")
        page.wait_for_function(
            "() => [...document.querySelectorAll('#found img')].some(image => image.naturalWidth > 0)"
        )
        page.locator("#found .card").first.click()
        page.wait_for_function(
            "() => /may not write/.test(document.querySelector('#key-needed [role=alert]').textContent)"
        )
        tell_key(page, both[1])
        page.wait_for_function("() => /ms after your click/.test(document.getElementById('you').textContent)")
    finally:
        context.close()
        for key, _ in (reads, both):
            keys.remove(key.key_id)


def tell_key(page: Any, key: str) -> None:
    page.wait_for_selector("#key-needed[open]")
    page.fill("#key-needed input", key)
    page.locator("#key-needed button").click()
