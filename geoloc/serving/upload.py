"""An uploaded form, checked from the outside in: size, fields, type of the file, header, pixels."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from geoloc.core.errors import InputError, QueryError
from geoloc.core.images import ImageLimits, Picture, decode_picture, image_format
from geoloc.serving.errors import UNSUPPORTED
from geoloc.serving.limits import ServingLimits
from geoloc.serving.schema import LocalizeParameters


async def read_form(request: Request, limits: ServingLimits) -> tuple[bytes, LocalizeParameters]:
    """(image bytes, parameters) of a multipart request. Which type is declared for the image plays no part.

    Raises `QueryError` for anything but one file named `image` and known fields in range.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise QueryError(
            "The request is no form; send multipart/form-data with a file field `image`.", reason=UNSUPPORTED
        )
    form = await request.form(max_files=1, max_fields=limits.max_fields, max_part_size=limits.max_field_bytes)
    try:
        upload = form.get("image")
        if not isinstance(upload, UploadFile):
            raise QueryError(
                "The form has no file field `image`; send the photo there.", reason="missing_image"
            )
        return await upload.read(), _parameters(form)
    finally:
        await form.close()


def _parameters(form: FormData) -> LocalizeParameters:
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name == "image":
            continue
        if name in fields:
            raise QueryError(f"The field {name!r} was sent twice; send it once.", reason="bad_field")
        if value != "":  # what a browser sends for a field left empty
            fields[name] = value
    try:
        return LocalizeParameters.model_validate(fields)
    except ValidationError as error:
        raise QueryError(_sentence(error), reason="bad_field") from error


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])[:100] if first["loc"] else "form"
    value = "" if not first["loc"] else f" (it is {str(first['input'])[:60]!r})"
    return f"Field {name}: {first['msg']}{value}."


def decode_upload(data: bytes, limits: ImageLimits) -> Picture:
    """The picture uint8[H, W, 3] of an uploaded image. Its first bytes say which format it is.

    Raises `InputError`: `unsupported_media_type` when they are of no accepted format, else the reasons of
    `decode_picture`.
    """
    kind = image_format(data)
    if data and kind not in limits.formats:
        raise InputError(
            f"The file starts like {kind or 'no image we know'}; send one of {', '.join(limits.formats)}.",
            reason=UNSUPPORTED,
        )
    try:
        return decode_picture(data, limits=limits)
    except InputError as error:
        if error.reason != "unsupported_format":
            raise
        raise InputError(str(error), reason=UNSUPPORTED) from error
