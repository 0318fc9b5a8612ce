"""An uploaded photo, checked from the outside in: size, fields, type of the file, header, pixels."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from geoloc.client.schema import JsonRequest, LocalizeParameters, PhotoAndArea, PhotoFields
from geoloc.core.errors import InputError, QueryError
from geoloc.core.images import ImageLimits, Picture, image_format
from geoloc.index.search.region import Region, box, circle, polygon
from geoloc.localization.query_photos import photo
from geoloc.models.preprocessing import prepare_picture
from geoloc.recipe.model import ModelInputs
from geoloc.serving.answer import Pin, PreparedPhoto
from geoloc.serving.decoder import DecoderPool
from geoloc.serving.errors import UNSUPPORTED
from geoloc.serving.limits import ServingLimits

Fields = TypeVar("Fields", bound=PhotoFields)


async def read_request(
    request: Request, limits: ServingLimits, *, most: int = 1
) -> tuple[list[bytes], LocalizeParameters]:
    """(bytes of one or more images, parameters) of a form or a JSON document.

    Which type is declared for an image plays no part. Raises `QueryError` for anything but files named `image`
    and known fields in range.
    """
    kind = request.headers.get("content-type", "").lower().partition(";")[0].strip()
    if kind == "multipart/form-data":
        return await read_form(request, limits, LocalizeParameters, most)
    if kind == "application/json" and most == 1:
        return _read_json(await request.body())
    allowed = "multipart/form-data with a file field `image`" + ("" if most > 1 else ", or application/json")
    raise QueryError(f"The request is of another type; send {allowed}.", reason=UNSUPPORTED)


async def read_form(
    request: Request, limits: ServingLimits, model: type[Fields], most: int
) -> tuple[list[bytes], Fields]:
    """(bytes of up to `most` images, the other fields as `model`) of a form; see `read_request`."""
    form = await request.form(
        max_files=most, max_fields=limits.max_fields, max_part_size=model.max_field_bytes
    )
    try:
        uploads = [upload for upload in form.getlist("image") if isinstance(upload, UploadFile)]
        if not uploads:
            raise QueryError(
                "The form has no file field `image`; send the photo there.", reason="missing_image"
            )
        return [await upload.read() for upload in uploads], _parameters(form, model)
    finally:
        await form.close()


def _parameters(form: FormData, model: type[Fields]) -> Fields:
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name == "image":
            continue
        if name in fields:
            raise QueryError(f"The field {name[:100]!r} was sent twice; send it once.", reason="bad_field")
        if value != "":  # what a browser sends for a field left empty
            fields[name] = value
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise QueryError(_sentence(error), reason="bad_field") from error


def _read_json(body: bytes) -> tuple[list[bytes], LocalizeParameters]:
    try:
        asked = JsonRequest.model_validate_json(body)
    except ValidationError as error:
        raise QueryError(_sentence(error), reason="bad_field") from error
    try:
        data = base64.b64decode(asked.image, validate=True)
    except (binascii.Error, ValueError) as error:
        raise QueryError(
            "Field image: it is not base64; encode the file's bytes.", reason="bad_field"
        ) from error
    fields = asked.model_dump(exclude={"image"}, exclude_unset=True)
    if isinstance(fields.get("polygon"), dict):
        fields["polygon"] = json.dumps(fields["polygon"])
    return [data], LocalizeParameters(**fields)


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])[:100] if first["loc"] else "form"
    value = "" if not first["loc"] or name == "image" else f" (it is {str(first['input'])[:60]!r})"
    return f"Field {name}: {first['msg']}{value}."


def region_of(parameters: PhotoAndArea) -> Region | None:
    """The area to search; `QueryError` (`bad_region`) where it is none."""
    if parameters.lat is not None and parameters.lon is not None and parameters.radius_m is not None:
        return circle(parameters.lat, parameters.lon, parameters.radius_m)
    if parameters.bbox is not None:
        try:
            west, south, east, north = (float(part) for part in parameters.bbox.split(","))
        except ValueError as error:
            raise QueryError(
                f"bbox is {parameters.bbox!r}; give west,south,east,north in degrees.", reason="bad_region"
            ) from error
        return box(south, west, north, east)
    return None if parameters.polygon is None else _polygon(parameters.polygon)


def _polygon(text: str) -> Region:
    try:
        shape = json.loads(text)
        if shape["type"] != "Polygon":
            raise ValueError("type")
        rings = [[(float(lat), float(lon)) for lon, lat, *_ in ring] for ring in shape["coordinates"]]
        corners, *holes = [ring[:-1] if ring[0] == ring[-1] else ring for ring in rings]
    except (ValueError, TypeError, LookupError, RecursionError, OverflowError) as error:
        raise QueryError(
            "polygon is no GeoJSON Polygon; give {'type': 'Polygon', 'coordinates': [[[lon, lat], ...]]}.",
            reason="bad_region",
        ) from error
    return polygon(corners, holes)


async def prepare_upload(
    data: bytes, parameters: PhotoFields, pin: Pin, pool: DecoderPool, limits: ImageLimits
) -> PreparedPhoto:
    """An uploaded image as the model of the pin takes it. Its first bytes say which format it is.

    Raises `InputError`: `unsupported_media_type` when they are of no accepted format, else the reasons of
    `decode_picture`, `photo` and the decoder.
    """
    kind = image_format(data)
    if data and kind not in limits.formats:
        raise InputError(
            f"The file starts like {kind or 'no image we know'}; send one of {', '.join(limits.formats)}.",
            reason=UNSUPPORTED,
        )

    def prepared(picture: Picture) -> PreparedPhoto:
        return _prepared(picture, parameters, pin.inputs)

    try:
        return await pool.decode(data, limits, prepared)
    except InputError as error:
        if error.reason != "unsupported_format":
            raise
        raise InputError(str(error), reason=UNSUPPORTED) from error


def _prepared(picture: Picture, parameters: PhotoFields, inputs: ModelInputs) -> PreparedPhoto:
    one = photo(
        picture.pixels,
        view=parameters.view,
        heading_deg=parameters.heading_deg,
        heading_error_deg=parameters.heading_error_deg,
        fov_deg=parameters.fov_deg,
        extent_m=parameters.extent_m,
        pitch_deg=parameters.pitch_deg,
        roll_deg=parameters.roll_deg,
        file_fov=parameters.file_fov,
        facts=picture.facts,
    )
    image = prepare_picture(
        one.image,
        inputs,
        one.view,
        extent_m=one.extent_m,
        fov_deg=one.fov_deg,
        heading_deg=one.exact_heading_deg,
        pitch_deg=one.pitch_deg,
        roll_deg=one.roll_deg,
    )
    heading_deg = one.exact_heading_deg
    return PreparedPhoto(image, one.view, heading_deg, one.fov_deg, one.assumed, one.featureless, one.compass)
