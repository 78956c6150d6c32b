"""Uploads: one multipart request, or pieces that can be resumed at any byte."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect

from voco_video.serve.depends import Served
from voco_video.serve.kept_jobs import Again
from voco_video.serve.openai_errors import ApiError
from voco_video.serve.service import Service
from voco_video.serve.uploads import Partial, Upload

_MAX_NAME_BYTES = 1000


class UploadRequest(BaseModel):
    """An upload that comes in pieces."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"name": "a.mp4", "size_bytes": 12345}})
    name: str = Field(default="video", max_length=400)
    size_bytes: int = Field(ge=1, le=2**53)


router = APIRouter(prefix="/api", tags=["Uploads"])


@router.post(
    "/videos",
    status_code=201,
    summary="Upload a video as the file of a form, and compress it.",
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
        "type": "object", "properties": {"file": {"type": "string", "format": "binary"}}, "required": ["file"],
    }}}}},
)  # fmt: skip
async def upload(service: Served, request: Request, compress: Annotated[bool, Query()] = True) -> dict[str, Any]:
    """Take a whole video."""
    form = _FormFile(service, request.headers.get("content-type", ""))
    try:
        async for block in request.stream():
            if block:
                await service.read(partial(form.feed, block))
        whole = await service.read(form.finish)
    except ClientDisconnect:
        raise ApiError(499, "the client has gone", code="client_gone") from None
    finally:
        await service.read(form.drop)
    return await service.read(partial(uploaded, service, whole, compress=compress))


@router.post("/uploads", status_code=201, summary="Begin an upload that comes in pieces.")
async def begin(service: Served, body: UploadRequest) -> dict[str, Any]:
    """Return the token that the next requests name."""
    return _shown(await service.read(partial(service.uploads.begin, body.name, body.size_bytes)))


@router.get("/uploads/{token}", summary="How many bytes of an upload have come.")
async def offset(service: Served, token: str) -> dict[str, Any]:
    """Return where to go on."""
    return _shown(await service.read(partial(service.uploads.partial, token)))


@router.delete("/uploads/{token}", status_code=204, summary="Drop an upload that has begun.")
async def drop(service: Served, token: str) -> Response:
    """Forget it."""
    await service.read(partial(service.uploads.partial, token))
    await service.read(partial(service.uploads.drop, token))
    return Response(status_code=204)


@router.patch(
    "/uploads/{token}",
    summary="Send the next bytes of an upload, from Upload-Offset on; with the last it becomes a video.",
    openapi_extra={"requestBody": {"content": {"application/octet-stream": {"schema": {
        "type": "string", "format": "binary"}}}}},
)  # fmt: skip
async def append(
    service: Served,
    token: str,
    request: Request,
    upload_offset: Annotated[int, Header(ge=0, le=2**53)],
    compress: Annotated[bool, Query()] = True,
) -> dict[str, Any]:
    """Take bytes; what has come stays, also where the connection breaks."""
    with service.uploads.appending(token, upload_offset) as appender:
        try:
            async for block in request.stream():
                if block:
                    await service.read(partial(appender.write, block))
        except ClientDisconnect:
            raise ApiError(499, "the client has gone; what has come stays", code="client_gone") from None
    partly = await service.read(partial(service.uploads.partial, token))
    if partly.offset < partly.size_bytes:
        return _shown(partly)
    whole = await service.read(partial(service.uploads.finish, token))
    return {**_shown(partly), **await service.read(partial(uploaded, service, whole, compress=compress))}


def uploaded(service: Service, upload: Upload, *, compress: bool) -> dict[str, Any]:
    """Return a whole upload as a video, and have it compressed."""
    row = service.videos.row(upload.id)
    job = None
    if compress:
        job = service.compress_again(Again("video", row.id)).facts()
    return {"video": row.facts(), "job": job}


def _shown(partly: Partial) -> dict[str, Any]:
    return {"upload": partly.token, "name": partly.name, "size_bytes": partly.size_bytes, "offset": partly.offset}


class _FormFile:
    """Takes the first file of a multipart form into an upload, as it comes."""

    def __init__(self, service: Service, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise ApiError(400, "send the video as the file of a form (multipart/form-data)", code="no_form")
        self._service = service
        self._header, self._value = b"", b""
        self._disposition: dict[bytes, bytes] = {}
        self._token = ""
        self._file: Any = None
        self._is_here = False
        self._num_bytes = 0
        callbacks: Any = {
            "on_header_field": self._on_field,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header,
            "on_headers_finished": self._on_headers,
            "on_part_data": self._on_data,
            "on_part_end": self._on_end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise ApiError(400, f"the form cannot be read ({error})", code="bad_form") from error

    def feed(self, block: bytes) -> None:
        """Take the next bytes of the form.

        Raises:
            ApiError: they are no form, or the file is too large.
        """
        try:
            self._parser.write(block)
        except FormParserError as error:
            raise ApiError(400, f"the form cannot be read ({error})", code="bad_form") from error

    def finish(self) -> Upload:
        """Return the upload.

        Raises:
            ApiError: the form holds no whole file.
        """
        try:
            self._parser.finalize()
        except FormParserError as error:
            raise ApiError(400, f"the form cannot be read ({error})", code="bad_form") from error
        if not self._is_here:
            raise ApiError(400, "the form has no whole file in it", param="file", code="no_file")
        self._service.uploads.set_size(self._token, self._num_bytes)
        return self._service.uploads.finish(self._token)

    def drop(self) -> None:
        """Let go of what is left; does nothing to a finished upload."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._token:
            self._service.uploads.drop(self._token)

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        if len(self._value) > _MAX_NAME_BYTES:
            raise ApiError(400, "a header of the form is too long", code="bad_form")

    def _on_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = parse_options_header(self._value)[1]
        self._header, self._value = b"", b""

    def _on_headers(self) -> None:
        is_file = b"filename" in self._disposition
        if is_file and (self._token or self._is_here):
            raise ApiError(400, "send one file a form", param="file", code="bad_form")
        if is_file:
            name = self._disposition[b"filename"].decode("utf-8", "replace")
            self._token, self._file = self._service.uploads.open_whole(name)

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._num_bytes += end - start
            if self._num_bytes > self._service.settings.max_upload_bytes:
                raise ApiError(413, "the file is larger than what is taken here", code="too_large")
            self._file.write(data[start:end])

    def _on_end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file, self._is_here = None, True
        self._disposition = {}
