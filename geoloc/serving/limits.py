"""What the service takes at most."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from geoloc.client.schema import PhotoFields
from geoloc.core.images import DEFAULT_LIMITS, ImageLimits
from geoloc.serving.decoder import DecoderLimits

# TIFF, which is a container of anything, is for files of people who run geoloc themselves. Four million pixels are
# several times what a model sees; JPEG is decoded at that size at once.
_IMAGE = replace(DEFAULT_LIMITS, formats=("JPEG", "PNG", "WEBP", "AVIF", "HEIF"), kept_pixels=4_000_000)


@dataclass(frozen=True)
class ServingLimits:
    """Bounds of one request and of how many are worked on at once, in each process that takes requests.

    A request first sends its body, within `body_s` seconds: `max_bodies` may do so at once, `max_bodies_per_client` of
    one client, and all bodies held together have `max_held_bytes` at most. Then it is one of `max_in_flight`, for
    `deadline_s` seconds. `decoders` processes decode images. `requests_per_s` and `burst` are a client's, 0 for no
    limit; a key may have others. How long a field may be is said by the form's model.
    """

    max_fields: int = 24
    max_images: int = 32
    max_bodies: int = 256
    max_bodies_per_client: int = 64
    max_held_bytes: int = 512 * 2**20
    body_s: float = 10.0
    max_in_flight: int = 64
    deadline_s: float = 15.0
    retry_after_s: int = 1
    decoders: int = 2
    requests_per_s: float = 0.0
    burst: int = 20
    image: ImageLimits = _IMAGE
    decoder: DecoderLimits = field(default_factory=DecoderLimits)

    @property
    def max_body_bytes(self) -> int:
        """Bytes of a whole body: an image, which base64 makes a third longer, and room for the fields around it."""
        return self.image.max_bytes * 4 // 3 + self.max_fields * PhotoFields.max_field_bytes
