"""Style sheets and other files of the pages."""

from __future__ import annotations

from mimetypes import guess_type

from fastapi import APIRouter
from starlette.responses import Response

from upshot.web.pages.rendering import static_content
from upshot.web.problems import Problem

router = APIRouter(include_in_schema=False)


@router.get("/static/{name}")
async def get_static_file(name: str) -> Response:
    """Return a file. Its address has a version, so a browser may keep it."""
    content = static_content(name)
    if content is None:
        raise Problem(404, "not-found", f"path: there is no file {name[:100]!r}")
    media_type = guess_type(name)[0] or "application/octet-stream"
    return Response(content, media_type=media_type, headers={"Cache-Control": "public, max-age=31536000, immutable"})
