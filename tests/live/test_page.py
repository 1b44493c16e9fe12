"""The page in a real browser, over every role in real processes: a click changes the list, what sells out goes."""

import asyncio
import re
import shutil
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from conftest import REPOSITORY, required
from PIL import Image, ImageDraw
from sqlalchemy import Engine

from store.database import open_database, transaction
from store.experiments import ExperimentStore, UserCounts, add_counts, addition_of_counts
from store.keys import KeyStore
from streams import demo_stage, up
from streams.api.access import KNOWN_FOR_S
from streams.broker import Broker
from streams.databases import database_of
from streams.demo_stage import Stage, stage
from streams.experiment_report import document_of
from streams.experiments import Experiment, Variant, VariedSettings
from streams.settings import Settings
from streams.topics import topic_names

playwright = pytest.importorskip("playwright.sync_api", reason="the tests' extras bring it")

pytestmark = pytest.mark.timeout(300)

PRODUCTS = 24
READY_WITHIN_S = 180
WITHIN_MS = 30_000
PICTURES = REPOSITORY / ".freshet" / "screenshots"  # git-ignored; kept to be looked at


class Staged:
    """The stage of `freshet demo`, with a small shop and without the play, in a thread that its processes end with."""

    def __init__(self) -> None:
        """Everything was started."""
        self._begun = threading.Event()
        self._over: Callable[[], object] = lambda: None
        self._on: Stage | None = None
        self._thread = threading.Thread(target=asyncio.run, args=(self._hold(),))
        self._thread.start()
        self._begun.wait(READY_WITHIN_S)
        assert self._on is not None, "it did not start"
        self.settings: Settings = self._on.settings
        lines = (self.settings.home / "shop" / "catalog.jsonl").read_bytes().splitlines()
        self.products: list[dict[str, Any]] = [orjson.loads(line) for line in lines]
        self._producer = Broker(self.settings).sync_producer()

    async def _hold(self) -> None:
        over = asyncio.Event()
        try:
            async with stage(None, seconds=60) as on:
                self._over = partial(asyncio.get_running_loop().call_soon_threadsafe, over.set)
                self._on = on
                self._begun.set()
                await over.wait()
                await on.play.close()
        finally:
            self._begun.set()

    def publish(self, update: dict[str, Any]) -> None:
        """It stands in `catalog-updates`, confirmed."""
        topic = topic_names(self.settings, "").catalog_updates
        self._producer.send(topic, key=update["product_id"].encode(), value=orjson.dumps(update)).get(20)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        url = f"http://127.0.0.1:{self.settings.api_port}{path}"
        answer = httpx.request("GET" if body is None else "POST", url, json=body, trust_env=False, timeout=20)
        return answer.json()

    def has_all(self) -> bool:
        """Every role is ready and every product can be found."""
        try:
            is_ready = self.ask("/readyz")["ready"]
            return bool(is_ready and self.ask("/v1/status")["stores"]["vectors"].get("fused") == PRODUCTS)
        except httpx.TransportError:
            return False

    def close(self) -> None:
        """No process is left."""
        self._producer.close(timeout=1)
        self._over()
        self._thread.join()


def run_experiment(engine: Engine) -> None:
    """It runs, and 40 users of each variant have come: a quarter of the one and three of the other have clicked."""
    variants = [Variant(name="as-it-is"), Variant(name="diverse", settings=VariedSettings(diversity=0.3))]
    document = document_of(Experiment(name="fewer-alike", variants=variants))
    ExperimentStore(engine).start("fewer-alike", document, time.time())
    counts = [
        UserCounts(f"{variant}-{user}", "fewer-alike", variant, lists=1, clicks=int(user < clicked))
        for variant, clicked in (("as-it-is", 10), ("diverse", 30))
        for user in range(40)
    ]
    with transaction(engine) as connection:
        add_counts(connection, addition_of_counts(engine), counts)


@pytest.fixture(scope="module")
def shop() -> Iterator[Staged]:
    """Every role runs, and knows some drawn products."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_stage, "DRAWN_PRODUCTS", PRODUCTS - 1)
        patch.setattr(up, "BACKGROUND_NICE", 0)  # on a busy machine the encoder would have next to nothing
        staged = Staged()
        try:
            for product in staged.products:
                staged.publish(product)
            deadline = time.monotonic() + READY_WITHIN_S
            while not staged.has_all():
                assert time.monotonic() < deadline, "the shop is not ready"
                time.sleep(0.2)
            yield staged
        finally:
            staged.close()


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
def page(shop: Staged, browser: Any) -> Iterator[Any]:
    """A tab of a new visitor in which no script has failed."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(WITHIN_MS)
    page = context.new_page()
    failed: list[str] = []
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(f"http://127.0.0.1:{shop.settings.api_port}/")
    page.wait_for_selector("#found .card")
    yield page
    assert failed == []
    context.close()


def titles(page: Any, where: str) -> list[str]:
    return [text.split("\n")[0] for text in page.locator(f"{where} button span").all_inner_texts()]


def keep(page: Any, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png")


def test_words_find_products_and_a_click_changes_the_list_without_a_reload(shop: Staged, page: Any) -> None:
    page.wait_for_selector("#yours button")
    before = titles(page, "#yours")
    wanted = shop.products[0]
    page.fill("#words", wanted["title"])
    page.press("#words", "Enter")
    page.wait_for_function(
        "title => document.querySelector('#found .card span')?.innerText.startsWith(title)", arg=wanted["title"]
    )
    page.evaluate("() => (window.isTheSamePage = true)")
    page.locator("#found .card").first.click()
    page.wait_for_selector("#product-title")
    assert page.inner_text("#product-title") == wanted["title"]
    page.wait_for_function("() => /s after your click/.test(document.getElementById('you').textContent)")
    after = titles(page, "#yours")
    assert after != before
    assert page.evaluate("() => window.isTheSamePage"), "it was loaded again"
    assert page.inner_text("#problem") == ""
    reasons = page.locator("#yours small").all_inner_texts()
    assert any(wanted["title"] in reason for reason in reasons), reasons
    assert all(re.search(r" · [\d.]+\sm?s$", reason) for reason in reasons if wanted["title"] in reason), reasons
    page.wait_for_function("() => [...document.querySelectorAll('.one img')].every(image => image.naturalWidth > 0)")
    keep(page, "product")


def test_what_is_bought_out_of_a_list_says_so_and_nothing_else_does(page: Any) -> None:
    page.locator("#found .card").first.click()
    page.wait_for_function("() => /s after your click/.test(document.getElementById('you').textContent)")

    def clicked(press: Callable[[], None]) -> dict[str, Any]:
        with page.expect_request("**/v1/events/clicks") as asked:
            press()
        told: dict[str, Any] = asked.value.post_data_json
        return told

    def home() -> None:
        page.locator("h1 a").click()
        page.wait_for_selector("#product", state="hidden")

    home()
    chosen = clicked(lambda: page.locator("#yours button").nth(1).click())
    assert (chosen["event"], chosen["position"]) == ("select_item", 1)
    where = {name: chosen[name] for name in ("product_id", "list_id", "position")}
    for event, label in (("add_to_cart", "Into the cart"), ("purchase", "Buy")):
        bought = clicked(lambda label=label: page.click(f"#product button:text('{label}')"))  # type: ignore[misc]
        assert (bought["event"], {name: bought.get(name) for name in where}) == (event, where)
    home()
    page.locator("#found .card").first.click()
    assert "list_id" not in clicked(lambda: page.click("#product button:text('Buy')"))


def test_a_demo_that_is_still_starting_shows_its_controls_as_soon_as_it_tells(shop: Staged, browser: Any) -> None:
    context = browser.new_context()
    context.set_default_timeout(WITHIN_MS)
    page = context.new_page()
    page.route("**/v1/demo", lambda route: route.fulfill(status=503, json={"detail": "not yet"}), times=1)
    page.goto(f"http://127.0.0.1:{shop.settings.api_port}/")
    page.wait_for_selector("#processes li[data-name=encode]")
    assert page.locator("#publish").is_visible()
    context.close()


def test_a_picture_finds_its_product(shop: Staged, page: Any) -> None:
    wanted = shop.products[5]
    page.set_input_files("#picture", Path(shop.settings.pictures_root) / wanted["image_links"][0])
    page.wait_for_function(
        "title => document.querySelector('#found .card span')?.innerText.startsWith(title)", arg=wanted["title"]
    )
    assert page.is_visible("#looked-for img")
    keep(page, "by-picture")
    asked = page.locator("#looked-for")
    page.fill("#words", "lamp")
    with page.expect_request("**/v1/search") as both:
        page.press("#words", "Enter")
    assert "picture" in both.value.post_data_json, "words narrow what the picture finds"
    with page.expect_request("**/v1/search") as alone:
        asked.locator("button").click()
    assert "picture" not in alone.value.post_data_json
    with page.expect_request("**/v1/search") as again:
        page.press("#words", "Enter")
    assert "picture" not in again.value.post_data_json
    assert asked.is_hidden()


def test_a_shop_that_has_just_opened_fills_and_what_sells_out_leaves_a_list_without_clicks(
    shop: Staged, page: Any
) -> None:
    page.route("**/v1/trending*", lambda route: route.fulfill(json={"items": []}), times=1)
    page.reload()
    page.wait_for_selector("#found .card")
    page.wait_for_selector("#yours button")
    first = titles(page, "#yours")[0]
    product_id = next(one["product_id"] for one in shop.products if one["title"] == first)
    shop.publish({"op": "patch", "product_id": product_id, "availability": "out_of_stock"})
    page.wait_for_function("title => !document.getElementById('yours').innerText.includes(title)", arg=first)
    shop.publish({"op": "patch", "product_id": product_id, "availability": "in_stock"})
    page.wait_for_selector("#happened li:has-text('is back')")


def test_what_sells_out_disappears_from_the_list(shop: Staged, page: Any) -> None:
    page.locator("#found .card").first.click()  # from now on she is somebody with a list
    page.wait_for_function("() => /s after your click/.test(document.getElementById('you').textContent)")
    gone = titles(page, "#yours")[0]
    product_id = next(product["product_id"] for product in shop.products if product["title"] == gone)
    shop.publish({"op": "patch", "product_id": product_id, "availability": "out_of_stock"})
    page.wait_for_function(
        "gone => ![...document.querySelectorAll('#yours span')].some(line => line.innerText.startsWith(gone + '\\n'))",
        arg=gone,
    )
    page.wait_for_selector("#happened li:text('something sold out')")  # the page may have asked before it was told


def test_it_can_be_used_by_keyboard_and_on_a_narrow_screen(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("() => document.documentElement.scrollWidth <= 360"), "nothing stands beyond the edge"
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.matches('#found li:first-child button')")
    page.locator("#words").focus()
    page.keyboard.type("lamp")
    page.keyboard.press("Enter")
    page.wait_for_selector("#happened li:text('found in')")  # what is shown is what was asked for
    page.locator("#found .card").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#product-title")
    keep(page, "narrow")


def test_the_operator_sees_every_role_at_work_and_what_an_experiment_has_shown(shop: Staged, page: Any) -> None:
    run_experiment(database_of(shop.settings, "users"))
    clicked = {
        "product_id": shop.products[0]["product_id"],
        "event": "view_item",
        "occurred_at": datetime.now(UTC).isoformat(),
    }
    shop.ask("/v1/events/clicks", {"event_id": "one", "user_id": "somebody", **clicked})
    page.goto(f"http://127.0.0.1:{shop.settings.api_port}/operator")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#roles tbody tr')]"
        ".filter(row => row.cells[1].innerText === 'running').length === 6"
    )
    page.wait_for_selector("#new .card")
    page.wait_for_selector("#letters caption")
    page.wait_for_function(
        "() => /\\d\\s(ms|s)/.test(document.querySelector('#freshness tbody tr td:nth-child(2)').textContent)"
    )
    assert page.inner_text("#new-count").startswith(f"{PRODUCTS} came, ")
    page.wait_for_selector("#new .first:text('no click yet')")
    page.wait_for_selector("#experiment td:text('clicked in a list')")
    assert "as-it-is: 40 users, 40 lists, 10 clicks · diverse: 40 users" in page.inner_text("#experiment caption")
    rows = page.locator("#experiment tbody tr").all_inner_texts()
    assert rows[0].split("\t")[1:3] == ["as-it-is", "25%"]
    assert rows[1].split("\t")[1:3] == ["diverse", "75%"]
    assert rows[1].split("\t")[4].startswith("+50%")
    assert page.locator("#experiment .interval b").first.evaluate("dot => dot.style.left") != ""
    assert "few users so far" in page.inner_text("#experiment-warnings")
    assert not page.is_visible("#problem"), page.inner_text("#problem")
    keep(page, "operator")


def test_an_own_product_waits_while_the_encoder_is_stopped_and_is_found_by_its_picture_once_it_runs(
    shop: Staged, page: Any, tmp_path: Path
) -> None:
    picture = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(picture).ellipse((40, 20, 160, 180), fill="purple")
    picture.save(tmp_path / "mug.png")
    encoder = "#processes li[data-name=encode]"
    page.click(f"{encoder} button")
    page.wait_for_selector(f"{encoder} output:text('stopped')")
    page.set_input_files("#own-picture", tmp_path / "mug.png")
    page.fill("#own-title", "My purple mug")
    page.fill("#own-price", "9.5")
    page.dblclick("#publish button.main")
    page.wait_for_selector("#published:has-text('it waits for the encoder')")
    page.wait_for_selector(f"{encoder} output:text('stopped, 1 waiting')")
    page.wait_for_selector("#happened li:has-text('the encoder stopped')")
    keep(page, "encoder-stopped")
    by_picture = {"picture": b64encode((tmp_path / "mug.png").read_bytes()).decode()}
    assert "My purple mug" not in [item["title"] for item in shop.ask("/v1/search", by_picture)["items"]]
    assert page.get_attribute(f"{encoder} button", "aria-checked") == "false"
    page.click(f"{encoder} button")
    page.wait_for_selector("#published:has-text('Shoppers can find it')", timeout=4 * WITHIN_MS)  # it loads its models
    page.wait_for_selector("#happened li:has-text('My purple mug can be found')")
    keep(page, "own-product")
    page.click("#published button:text('Search with its photo')")
    page.wait_for_function("() => document.querySelector('#found .card span')?.innerText.startsWith('My purple mug')")
    assert page.locator("#found .card:has-text('My purple mug')").count() == 1, "pressed twice, published once"
    keep(page, "found-by-own-picture")


def test_a_product_is_sold_out_and_restored_by_a_button(shop: Staged, page: Any) -> None:
    page.locator("#found .card").nth(2).click()
    page.wait_for_selector("#product-title")
    title = page.inner_text("#product-title")

    def is_found() -> bool:
        found = shop.ask("/v1/search", {"q": title, "limit": PRODUCTS})["items"]
        return title in [item["title"] for item in found]

    assert is_found()
    page.click("#product button:text('Sell it out')")
    page.wait_for_selector("#product p.wrong:text('sold out')")
    page.wait_for_selector(f"#happened li:has-text('{title} sold out')")
    assert page.is_disabled("#product button:text('Into the cart')")
    assert page.locator("#found .gone").inner_text().startswith(title)
    assert not is_found()
    page.click("#product button:text('Restore it')")
    page.wait_for_selector("#product p:text('in stock')")
    assert page.evaluate("() => document.activeElement.textContent") == "Sell it out", "the keyboard stays there"
    page.wait_for_selector(f"#happened li:has-text('{title} is back')")
    assert page.locator(".gone").count() == 0
    assert is_found()


def test_a_product_can_be_opened_again_after_a_search(shop: Staged, page: Any) -> None:
    for _ in range(2):
        page.fill("#words", shop.products[1]["title"])
        page.press("#words", "Enter")
        page.wait_for_function(
            "title => document.querySelector('#found .card span')?.innerText.startsWith(title)",
            arg=shop.products[1]["title"],
        )
        page.locator("#found .card").first.click()
        page.wait_for_selector("#product:not([hidden]) #product-title")
    page.locator("h1 a").click()
    page.wait_for_function("() => document.getElementById('found-title').textContent === 'Rising now'")
    assert not page.is_visible("#product")


def test_a_search_has_an_address_that_back_and_reload_know(page: Any) -> None:
    def is_found(title: str) -> None:
        page.wait_for_function("title => document.getElementById('found-title').textContent === title", arg=title)
        page.wait_for_selector("#found:not([aria-busy=true]) .card")

    page.fill("#words", "lamp")
    page.press("#words", "Enter")
    is_found("“lamp”")
    page.locator("#found .card").first.click()
    page.wait_for_selector("#product-title")
    assert page.title().startswith(page.inner_text("#product-title"))
    page.go_back()
    page.wait_for_selector("#product", state="hidden")
    page.reload()
    is_found("“lamp”")
    assert page.input_value("#words") == "lamp"
    page.go_back()
    is_found("Rising now")
    assert page.input_value("#words") == ""
    page.locator("#found .card").first.click()
    page.wait_for_selector("#product-title")
    page.evaluate("() => (location.hash = '#/p/nothing%E0')")
    page.wait_for_selector("#problem:not([hidden])")
    assert not page.is_visible("#product"), "not the product of before"


def test_what_is_found_is_by_the_words_and_by_taste_where_that_is_wanted(shop: Staged, page: Any) -> None:
    with page.expect_request("**/v1/search") as plain:
        page.fill("#words", f"zzyzx {shop.products[0]['title']}")
        page.press("#words", "Enter")
    assert "user" not in plain.value.post_data_json
    page.wait_for_selector("#found-note:has-text('no product says zzyzx')")
    with page.expect_request("**/v1/search") as by_taste:
        page.check("#by-taste")
    assert by_taste.value.post_data_json["user"].startswith("guest-")


def test_the_operator_replays_and_drops_dead_letters(shop: Staged, page: Any) -> None:
    shop.ask("/v1/events/catalog", {"op": "patch", "product_id": "nobodys", "title": "Cup"})
    page.goto(f"http://127.0.0.1:{shop.settings.api_port}/operator")
    page.click("#letters button:text-is('Replay')")
    page.wait_for_selector("#letters .wrong:has-text('1 not replayed: product')")
    assert "nobodys" in page.inner_text("#letters li")
    assert page.evaluate("() => document.activeElement.textContent") == "Replay", "the keyboard stays there"
    assert page.is_visible("#letters button:text('Replay anyway')")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#figures div')].some(one => one.innerText === 'open dead letters\\n1')"
    )
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#letters button:text('Drop')")
    page.wait_for_selector("#letters caption:has-text('none')")


def test_where_keys_are_needed_the_page_asks_for_one_that_suffices(shop: Staged, browser: Any) -> None:
    keys = KeyStore(open_database(None, shop.settings.home, "products", shop.settings.namespace))
    reads, both = keys.make("reads", ["read"]), keys.make("shop", ["read", "write"])
    time.sleep(KNOWN_FOR_S + 0.2)
    context = browser.new_context()
    context.set_default_timeout(WITHIN_MS)
    page = context.new_page()
    try:
        page.goto(f"http://127.0.0.1:{shop.settings.api_port}/")
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
        page.wait_for_function("() => /s after your click/.test(document.getElementById('you').textContent)")
    finally:
        context.close()
        for key, _ in (reads, both):
            keys.remove(key.key_id)


def tell_key(page: Any, key: str) -> None:
    page.wait_for_selector("#key-needed[open]")
    page.fill("#key-needed input", key)
    page.locator("#key-needed button").click()
