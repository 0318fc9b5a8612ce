"""Parts of a recipe that are chosen by `kind`: each is one module, which registers it where it is defined.

A family (views, backbones, aggregations, losses) is a base class below `Part`. A kind is a frozen section of that class
that builds its network itself. The modules are imported when a recipe first names a part of the family.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, TypeVar, Union, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, TypeAdapter

from geoloc.core.errors import ConfigError
from geoloc.core.extensions import import_modules

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A frozen part of a recipe that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Part(Section):
    """A section that a module registers; subclasses are families, their subclasses the kinds.

    A kind has the field `kind: Literal["x"] = "x"`. Without that field it belongs to one key of a recipe, which
    names it (`key`).
    """

    package: ClassVar[str]
    """Package of geoloc whose modules register the built-in kinds of the family."""
    key: ClassVar[str | None] = None
    network: ClassVar[Any]
    """Class of what the section builds; its first argument is the section."""
    words: ClassVar[str] = "{kind}"
    """What `describe` fills with the section's values; empty where it goes without saying."""

    def describe(self) -> str:
        """The part in a few words, for tables."""
        return self.words.format(**dict(self))


N = TypeVar("N")
P = TypeVar("P", bound=Part)
_REGISTERED: dict[str, dict[str, type[Part]]] = {}
_ADAPTERS: dict[str, TypeAdapter[Any]] = {}  # by package, until another kind comes


def register(part: type[Part]) -> Callable[[type[N]], type[N]]:
    """Decorator of a network's class: makes the kind known to its family, with the network that it builds.

    Raises `ConfigError` where the kind is taken by another class.
    """
    family = _REGISTERED.setdefault(part.package, {})
    kind = part.key or str(part.model_fields["kind"].default)
    known = family.get(kind)
    if known is not None and (known.__module__, known.__qualname__) != (part.__module__, part.__qualname__):
        raise ConfigError(
            f"{part.__module__} registers the kind {kind!r}, which {known.__module__} has already."
        )
    family[kind] = part
    _ADAPTERS.clear()

    def bind(network: type[N]) -> type[N]:
        part.network = network
        return network

    return bind


def registered(family: type[P]) -> dict[str, type[P]]:
    """The kinds of a family and their sections, the built-in ones and those of extensions."""
    import_modules(family.package)
    return cast(dict[str, type[P]], _REGISTERED.get(family.package, {}))


def named(family: type[P], key: str) -> BeforeValidator:
    """For a recipe's key that takes one kind alone, which is not repeated in the section."""

    def parse(value: Any) -> Any:
        return value if isinstance(value, family) else registered(family)[key].model_validate(value)

    return BeforeValidator(parse)


def chosen(family: type[P], default: str | None = None) -> BeforeValidator:
    """For a recipe's key that takes every kind of a family; without `kind` it is the `default` one."""

    def parse(value: Any) -> Any:
        return value if isinstance(value, family) else _adapter(family, default).validate_python(value)

    return BeforeValidator(parse)


def _adapter(family: type[P], default: str | None) -> TypeAdapter[Any]:
    """Pydantic's own union of the kinds, which gives the same errors as a union written out."""
    kinds = {kind: part for kind, part in registered(family).items() if part.key is None}
    if family.package not in _ADAPTERS:

        def kind(value: Any) -> str:
            return str(
                value.get("kind", default) if isinstance(value, dict) else getattr(value, "kind", default)
            )

        tagged = tuple(Annotated[part, Tag(name)] for name, part in kinds.items())
        by_kind: Any = Field(discriminator="kind") if default is None else Discriminator(kind)
        union: Any = Annotated[Union[tagged], by_kind]  # noqa: UP007
        _ADAPTERS[family.package] = TypeAdapter(union)
    return _ADAPTERS[family.package]
