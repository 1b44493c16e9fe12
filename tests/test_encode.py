"""The encode role on the real packaged encoders: what goes wrong with one product leaves the others as they are."""

import asyncio
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from messages import NAMES, Json, Source, delivered, values
from messages import run as run_role
from PIL import Image

from encoders.next_click import FACTORS
from encoders.picture_hash import sign_picture
from encoders.product import ProductEncoder, product_content
from store.database import open_database
from store.products import ProductStore
from store.records import ProductRow
from store.vectors_server import ServerVectors
from streams.catalog import CatalogRole
from streams.encode import NO_LINKS, NO_WORDS, EncodeRole
from streams.events import BadEvent, ProductVectors, unpack_vector
from streams.index import IndexRole
from streams.parsing import parse
from streams.pictures import PictureLoader
from streams.role import Message, Outcome
from streams.settings import Settings

COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good and bad pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, colour in COLOURS.items():
        striped = Image.new("RGB", (64, 64), colour)
        striped.paste((250, 250, 250), (0, 20, 64, 30))
        striped.save(folder / f"{name}.png")
        striped.convert("CMYK").save(folder / f"{name}-cmyk.jpg")
    frames = [Image.new("RGB", (64, 64), colour) for colour in COLOURS.values()]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("1", (3_000, 3_000)).save(folder / "bomb.png")  # 9 million pixels in 1 KB
    (folder / "text.png").write_text("I am not a picture")
    return folder


@pytest.fixture(scope="module")
def started(pictures: Path) -> Iterator[tuple[asyncio.Runner, EncodeRole]]:
    settings = Settings(home=pictures, pictures_root=pictures, picture_max_pixels=4_000_000, device="cpu")
    role = EncodeRole(settings, NAMES)
    with asyncio.Runner() as runner:
        runner.run(role.start())
        yield runner, role
        runner.run(role.stop())


@pytest.fixture
def requests() -> Source:
    return Source(NAMES.encode_requests)


def request(key: str, *links: str, content_revision: int = 1, **changes: Any) -> Json:
    return {
        "product_id": key,
        "content_revision": content_revision,
        "title": f"{key.title()} striped cotton shirt",
        "description": "",
        "brand": "Tidewear",
        "category": ["Clothing", "Shirts"],
        "attributes": {},
        "image_links": list(links),
        **changes,
    }


def run(started: tuple[asyncio.Runner, EncodeRole], *messages: Message) -> Outcome:
    runner, role = started
    batch = delivered(role, messages)
    return role.compute(batch, runner.run(role.prepare(batch)))


def vectors(outcome: Outcome) -> dict[str, ProductVectors | None]:
    """What was published, by product, which must be there once each."""
    assert {message.topic for message in outcome.publish} <= {NAMES.product_vectors}
    found = {}
    for message in outcome.publish:
        key = (message.key or b"").decode()
        assert key not in found
        found[key] = None if message.value is None else parse(ProductVectors, message.value)
    return found


def test_a_product_becomes_its_encoder_s_vectors(
    started: tuple[asyncio.Runner, EncodeRole], requests: Source, pictures: Path
) -> None:
    outcome = run(started, requests.message("red", request("red", "red.png", content_revision=7)))
    [message] = outcome.publish
    assert dict(message.headers) == {"content-revision": b"7"}
    record = vectors(outcome)["red"]
    assert record is not None
    encoder: ProductEncoder = started[1]._encoder  # type: ignore[assignment]
    assert (record.content_revision, record.encoder, record.missing) == (7, encoder.fingerprint, [])
    array = np.asarray(Image.open(pictures / "red.png"))
    words = {"title": "Red striped cotton shirt", "category": ["Clothing", "Shirts"], "brand": "Tidewear"}
    [expected] = encoder.encode([product_content(**words, pictures=[array])])
    for name in ("image", "text", "fused"):
        np.testing.assert_allclose(unpack_vector(getattr(record, name)), getattr(expected, name), atol=1e-6)
    assert b64decode(str(record.picture_signature)) == sign_picture(array)


def test_bad_pictures_are_named_with_a_remedy_and_the_good_ones_go_through_untouched(
    started: tuple[asyncio.Runner, EncodeRole], requests: Source
) -> None:
    links = {
        "good": "red.png",
        "cmyk": "red-cmyk.jpg",
        "animated": "animated.gif",
        "text": "text.png",
        "bomb": "bomb.png",
        "dot": "dot.png",
        "absent": "nowhere.png",
        "outside": "../secret.png",
        "ftp": "ftp://pictures.example/red.png",
    }
    found = vectors(run(started, *[requests.message(key, request(key, link)) for key, link in links.items()]))
    assert found.keys() == links.keys()
    missing = {key: record.missing for key, record in found.items() if record and record.missing}
    reasons = {key: (part.modality, part.retry) for key, [part] in missing.items()}
    assert reasons == {
        "text": ("image", False),
        "bomb": ("image", True),
        "dot": ("image", False),
        "absent": ("image", True),
        "outside": ("image", True),
        "ftp": ("image", False),
    }
    for key, words in {
        "text": "no picture",
        "bomb": "more than 4000000 pixels",
        "dot": "1 x 1",
        "absent": "put it there",
        "outside": "outside of pictures_root",
        "ftp": "neither http",
    }.items():
        assert words in missing[key][0].reason
        record = found[key]
        assert record is not None
        assert record.image is None
        assert record.fused is not None, "words alone are fused as well"
    [alone] = vectors(run(started, requests.message("good", request("good", "red.png")))).values()
    good = found["good"]
    assert alone is not None
    assert good is not None
    for name in ("image", "text", "fused"):
        np.testing.assert_allclose(
            unpack_vector(getattr(good, name)), unpack_vector(getattr(alone, name)), atol=1e-4, err_msg=name
        )
    assert started[1].details()["pictures_missing"] == 6


def test_the_first_link_that_works_is_used(started: tuple[asyncio.Runner, EncodeRole], requests: Source) -> None:
    first = vectors(run(started, requests.message("red", request("red", "text.png", "nowhere.png", "red.png"))))["red"]
    plain = vectors(run(started, requests.message("red", request("red", "red.png"))))["red"]
    assert first is not None
    assert first == plain


def test_a_product_without_words_or_picture_has_a_record_that_says_so(
    started: tuple[asyncio.Runner, EncodeRole], requests: Source
) -> None:
    nothing = request("none", title=" ", brand=None, category=[])
    record = vectors(run(started, requests.message("none", nothing)))["none"]
    assert record is not None
    assert (record.image, record.text, record.fused) == (None, None, None)
    assert [(part.modality, part.reason, part.retry) for part in record.missing] == [
        ("image", NO_LINKS, False),
        ("text", NO_WORDS, False),
    ]


def test_a_picture_that_was_put_right_under_its_link_is_had_when_the_product_is_sent_again(
    started: tuple[asyncio.Runner, EncodeRole], pictures: Path, tmp_path: Path
) -> None:
    engine = open_database(None, tmp_path, "products")
    products, points = ProductStore(engine), ServerVectors(":memory:", None, "")
    encoder: ProductEncoder = started[1]._encoder  # type: ignore[assignment]
    catalog = CatalogRole(Settings(home=tmp_path), NAMES, products)
    index = IndexRole(Settings(home=tmp_path), NAMES, points, encoder.fingerprint, encoder.widths, FACTORS)
    started[0].run(index.start())
    topics = (NAMES.catalog_updates, NAMES.encode_requests, NAMES.product_vectors)
    updates, requests, answers = (Source(topic, f"id-of-{topic}") for topic in topics)

    def send_again() -> ProductRow:
        """The product's row, after everything that the update led to."""
        fields = {"title": "Scarf", "price": {"amount": 3, "currency": "EUR"}, "image_links": ["scarf.png"]}
        update = updates.message("scarf", {"op": "upsert", "product_id": "scarf", **fields})
        [asked] = values(run_role(catalog, update), NAMES.encode_requests).values()
        [answered] = values(run(started, requests.message("scarf", asked)), NAMES.product_vectors).values()
        answer = answers.message("scarf", answered)
        run_role(catalog, answer)
        run_role(index, answer)
        return products.read(["scarf"])["scarf"]

    (pictures / "scarf.png").write_text("an error page")
    refused = send_again()
    assert (refused.image_state, refused.retry_at) == ("missing", None)
    assert "is no picture in JPEG" in str(refused.image_reason)
    assert "image" not in found_vectors(points)
    (pictures / "scarf.png").write_bytes((pictures / "red.png").read_bytes())
    had = send_again()
    assert (had.image_state, had.image_reason, had.content_revision) == ("encoded", None, refused.content_revision)
    assert "image" in found_vectors(points)
    points.close()
    engine.dispose()


def found_vectors(points: ServerVectors) -> set[str]:
    point = points.fetch("scarf")
    assert point is not None
    return set(point.vectors)


def test_only_the_newest_request_of_a_product_is_answered(
    started: tuple[asyncio.Runner, EncodeRole], requests: Source
) -> None:
    gone = {"headers": [("revision", b"5")]}
    outcome = run(
        started,
        requests.message("late", request("late", content_revision=4)),
        requests.message("late", request("late", content_revision=2)),
        requests.message("deleted", request("deleted", content_revision=3)),
        requests.message("deleted", None, **gone),  # type: ignore[arg-type]
        requests.message("back", None, **gone),  # type: ignore[arg-type]
        requests.message("back", request("back", content_revision=6)),
    )
    revisions = {key: record and record.content_revision for key, record in vectors(outcome).items()}
    assert revisions == {"late": 4, "deleted": None, "back": 6}
    assert [m.headers for m in outcome.publish if m.value is None] == [(("revision", b"5"),)]


def test_a_null_without_its_revision_is_refused(started: tuple[asyncio.Runner, EncodeRole], requests: Source) -> None:
    with pytest.raises(BadEvent, match="a null record needs its revision as header, got b'': let Freshet publish it"):
        started[1].parse(requests.message("cup", None))


def test_what_the_encoder_cannot_take_is_a_bad_event(
    started: tuple[asyncio.Runner, EncodeRole], requests: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_finite(*_: Any) -> None:
        raise FloatingPointError("a value is not finite")

    monkeypatch.setattr(ProductEncoder, "collect", not_finite)
    with pytest.raises(BadEvent, match=r"cannot take this product \(a value is not finite\): change its words or"):
        run(started, requests.message("red", request("red")))


def test_a_gpu_has_the_next_batch_before_it_is_done_with_this_one(
    started: tuple[asyncio.Runner, EncodeRole], requests: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, role = started
    batches = [delivered(role, [requests.message(key, request(key, f"{key}.png"))]) for key in ("red", "blue")]
    expected = [role.compute(batch, runner.run(role.prepare(batch))) for batch in batches]
    order = []
    launch, collect = ProductEncoder.launch, ProductEncoder.collect
    monkeypatch.setattr(ProductEncoder, "launch", lambda *given: (order.append("launch"), launch(*given))[1])
    monkeypatch.setattr(ProductEncoder, "collect", lambda *given: (order.append("collect"), collect(*given))[1])
    monkeypatch.setattr(EncodeRole, "_has_gpu", lambda _: True)
    prepared = [runner.run(role.prepare(batch)) for batch in batches]
    assert order == ["launch", "launch"]
    made = [role.compute(*both) for both in zip(batches, prepared, strict=True)]
    assert order[2:] == ["collect", "collect"]
    assert [outcome.publish for outcome in made] == [outcome.publish for outcome in expected]


def test_what_fails_while_it_is_prepared_fails_when_its_turn_comes(
    started: tuple[asyncio.Runner, EncodeRole], requests: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_finite(*_: Any) -> None:
        raise FloatingPointError("a value is not finite")

    runner, role = started
    batch = delivered(role, [requests.message("red", request("red"))])
    monkeypatch.setattr(ProductEncoder, "launch", not_finite)
    monkeypatch.setattr(EncodeRole, "_has_gpu", lambda _: True)
    prepared = runner.run(role.prepare(batch))
    with pytest.raises(BadEvent, match=r"cannot take this product \(a value is not finite\)"):
        role.compute(batch, prepared)


def test_a_version_that_is_filled_takes_a_quarter_of_a_batch_until_it_serves(tmp_path: Path) -> None:
    serving = False
    role = EncodeRole(Settings(home=tmp_path, encode_batch=32), NAMES, serves=lambda: serving)
    assert role.batch_max == 8
    role._loader = PictureLoader()
    asyncio.run(role.prepare([]))
    assert role.batch_max == 8
    serving = True
    asyncio.run(role.prepare([]))
    assert role.batch_max == 32


def test_nothing_imports_torch_before_the_role_starts() -> None:
    code = "import sys, streams.encode; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
