"""The page: a shop in the browser, how it runs, and the pictures of its products."""

import io
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException
from fastapi import Path as InPath
from fastapi.responses import RedirectResponse, Response
from PIL import Image, UnidentifiedImageError

from store.vectors import UnknownProduct
from streams.api import PREFIX
from streams.api.access import Access
from streams.api.ids import ProductId
from streams.api.problems import no_product
from streams.api.views import Views
from streams.picture_decoding import FORMATS
from streams.pictures import PictureMissing, read_picture
from streams.settings import Settings
from streams.shelf_lists import ShelfLists

FOLDER = Path(__file__).parent.parent / "page"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HEADERS = {
    # Only what Freshet itself serves runs and is asked; pictures may come from where the shop has them.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' https: http: data: blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
PICTURE_HEADERS = {"Cache-Control": "private, max-age=60", "X-Content-Type-Options": "nosniff"}


def page_routes() -> APIRouter:
    """The page itself, which needs no key: it holds nothing of the shop."""
    routes = APIRouter(include_in_schema=False)
    files = {path.name: (path.read_bytes(), KINDS[path.suffix]) for path in FOLDER.iterdir() if path.suffix in KINDS}

    def file(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        content, kind = files[name]
        return Response(content, headers=HEADERS, media_type=kind)

    @routes.get("/")
    async def shop() -> Response:
        return file("index.html")

    @routes.get("/operator")
    async def operator() -> Response:
        return file("operator.html")

    @routes.get("/page/{name}")
    async def part(name: Annotated[str, InPath(max_length=100)]) -> Response:
        return file(name)

    return routes


def picture_routes(lists: ShelfLists, settings: Settings, views: Views, access: Access) -> APIRouter:
    """A product's picture."""
    routes = APIRouter(prefix=PREFIX, tags=["products"], dependencies=[access.needs("read")])
    root = settings.pictures_root.resolve() if settings.pictures_root else None

    @routes.get(
        "/products/{product_id:path}/picture",
        summary="A product's picture",
        response_class=Response,
        responses={200: {"content": {"image/*": {}}}, 307: {"description": "it is on the web"}},
    )
    def picture(product_id: ProductId) -> Response:
        """Its first picture, from below pictures_root, or a redirection to where it is on the web."""
        views.need("offers")
        try:
            link = lists.offer(product_id)["offer"]["image_link"]
        except UnknownProduct as unknown:
            raise HTTPException(404, no_product(product_id)) from unknown
        if link is None:
            raise HTTPException(404, f"{product_id!r} has no image_links: publish it with one")
        if link.lower().startswith(("http:", "https:")):
            return RedirectResponse(link, headers=PICTURE_HEADERS)
        content = read_picture(link, root, settings.picture_max_bytes)
        if isinstance(content, PictureMissing):
            raise HTTPException(404, content.reason)
        return Response(content, headers=PICTURE_HEADERS, media_type=_kind_of(content, link))

    return routes


def _kind_of(content: bytes, link: str) -> str:
    """The media type of a picture. Raises HTTPException for what is none."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return Image.MIME[str(image.format)]
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise HTTPException(404, f"{link!r} is no picture in {', '.join(FORMATS)}: convert it") from error
