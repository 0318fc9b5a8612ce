"""An uploaded form, checked from the outside in: size, fields, type of the file, header, pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from geoloc.core.errors import InputError, QueryError
from geoloc.core.images import ImageLimits, decode_image, image_format
from geoloc.serving.errors import UNSUPPORTED
from geoloc.serving.limits import ServingLimits
from geoloc.serving.schema import LocalizeParameters

_MEDIA_TYPES = {"image/jpeg": "JPEG", "image/jpg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}
_UNDECLARED = ("", "application/octet-stream")


async def read_form(request: Request, limits: ServingLimits) -> tuple[bytes, str, LocalizeParameters]:
    """(image bytes, declared media type, parameters) of a multipart request.

    Raises `QueryError` for anything but one file named `image` and known fields in range.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
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
        return await upload.read(), (upload.content_type or "").split(";")[0].strip(), _parameters(form)
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


def decode_upload(data: bytes, declared: str, limits: ImageLimits) -> npt.NDArray[np.uint8]:
    """Pixels uint8[H, W, 3] of an uploaded image. Of its metadata only the EXIF orientation is used.

    Raises `InputError`: `unsupported_media_type` when its first bytes are not of an accepted format or not of
    the declared one, else the reasons of `decode_image`.
    """
    kind = image_format(data)
    if data and kind not in limits.formats:
        raise InputError(
            f"The file starts like {kind or 'no image we know'}; send one of {', '.join(limits.formats)}.",
            reason=UNSUPPORTED,
        )
    if data and declared not in _UNDECLARED and _MEDIA_TYPES.get(declared) != kind:
        raise InputError(
            f"The file is declared as {declared[:60]!r} but its bytes are {kind}; declare what it is.",
            reason=UNSUPPORTED,
        )
    return decode_image(data, limits=limits)
