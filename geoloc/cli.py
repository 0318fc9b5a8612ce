"""The command line: one sub-command per stage, its flags taken from the signature of the stage's `run`.

Only the room of the sub-command that was asked for is imported. Results go to standard output (`--json` prints
them as one JSON object), progress to standard error. Exit status: 0 done, 2 a user's mistake in one sentence,
130 interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import inspect
import json
import os
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from pydantic import BaseModel, ValidationError

from geoloc.core.errors import ConfigError, GeolocError

_INTERRUPTED = 130
_HELP_OF = {
    "output": "URI of what is made: a path, file:// or s3://.",
    "overwrite": "Replace an output that was made from other inputs or settings.",
    "index_uri": "URI of the index.",
    "snapshot": "Snapshot to look at; the current one when left out.",
    "a": "URI of an index, or URI@SNAPSHOT.",
    "b": "URI of the other one, or URI@SNAPSHOT.",
    "keep": "Snapshots to keep: the current one and its ancestors.",
    "min_age_s": "Nothing younger than this many seconds is removed.",
    "dry_run": "Say what would be removed, remove nothing.",
}
_POSITIONAL: Any = tyro.conf.Positional
_NOT_FLAGS = {"cache_dir"}  # GEOLOC_CACHE is the command line's way


@dataclass(frozen=True)
class Command:
    """A sub-command: where its function is, and what it does in one line."""

    module: str
    summary: str
    function: str = "run"


COMMANDS: dict[str, Command] = {
    "demo": Command("geoloc.demo.run", "the whole way on a procedural city, from imagery to served fixes"),
    "city": Command(
        "geoloc.synthetic.stages.city", "render a procedural city: imagery sheets and street panoramas"
    ),
    "city tiles": Command(
        "geoloc.synthetic.stages.tiles", "distinct distractor tiles, as many as wanted, to a table"
    ),
    "city codes": Command(
        "geoloc.synthetic.stages.codes", "codes like those of a table, millions, to test indexes"
    ),
    "city ablations": Command(
        "geoloc.synthetic.stages.ablations", "what a model lives on: photos without trees, ..."
    ),
    "city export": Command(
        "geoloc.synthetic.stages.export", "the city as CVUSA, CVACT, VIGOR, University-1652 or 2.5D"
    ),
    "ingest": Command(
        "geoloc.stages.ingest", "imagery and photos, or a published data set, to checked tables"
    ),
    "ingest export": Command(
        "geoloc.stages.export_webdataset", "ingested tables to tar shards for the webdataset package"
    ),
    "train": Command("geoloc.stages.train", "train a recipe on ingested pairs"),
    "compare": Command("geoloc.stages.compare", "recipes trained with one budget, measured side by side"),
    "encode": Command("geoloc.stages.encode", "tiles to hash codes and embeddings"),
    "index build": Command("geoloc.stages.index_build", "codes (or --imagery) to a searchable index"),
    "index estimate": Command(
        "geoloc.stages.index_build",
        "what building an index would take, and whether it fits",
        "estimate_build",
    ),
    "index add": Command("geoloc.stages.index_update", "add or replace tiles, as a new snapshot", "add"),
    "index remove": Command("geoloc.stages.index_update", "remove tiles, as a new snapshot", "remove"),
    "index compact": Command("geoloc.stages.index_update", "merge small and half-dead shards", "compact"),
    "index rollback": Command(
        "geoloc.index.maintenance.history", "make an older snapshot current again", "rollback"
    ),
    "index list": Command(
        "geoloc.index.maintenance.history", "the snapshots of an index, newest first", "history"
    ),
    "index inspect": Command("geoloc.index.maintenance.inspect", "what an index holds", "describe"),
    "index verify": Command("geoloc.index.maintenance.inspect", "check every byte of a snapshot", "verify"),
    "index diff": Command("geoloc.index.maintenance.inspect", "what changed between two snapshots", "diff"),
    "index prune": Command(
        "geoloc.index.format.local_cache",
        "remove unused copies of remote indexes from this host",
        "prune_cache",
    ),
    "index gc": Command(
        "geoloc.index.maintenance.garbage", "remove what no snapshot needs", "collect_garbage"
    ),
    "evaluate": Command("geoloc.stages.evaluate", "recall and metres on held-out photos"),
    "localize": Command("geoloc.stages.localize", "locate a batch of photos"),
    "serve": Command("geoloc.serving.server", "answer POST /v1/localize over HTTP", "serve_blocking"),
    "submit": Command("geoloc.stages.submit", "run a sub-command as a job on a Ray cluster", "submit"),
    "bench search": Command(
        "geoloc.bench.search", "measure search on this machine, beside FAISS and usearch, against its bars"
    ),
    "doctor": Command("geoloc.runtime.doctor", "check this machine and say what is missing"),
}
_FROM_IMAGERY = Command("geoloc.stages.index_imagery", "imagery to a searchable index in one call")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not words or words[0] in ("-h", "--help"):
            _say_help()
            return 0
        if words[0] == "--version":
            sys.stdout.write(f"{_version()}\n")
            return 0
        return run_command(*find_command(words))
    except GeolocError as error:
        return _fail(_sentence(error), error.exit_status)
    except ValidationError as error:
        return _fail(explain(error), ConfigError.exit_status)
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again and it goes on where it was.", _INTERRUPTED)
    except BrokenPipeError:
        # Whoever reads us (`| head`) has seen enough; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def find_command(words: Sequence[str]) -> tuple[str, Command, list[str]]:
    """The sub-command that the words begin with: its name, itself and the remaining words.

    Raises `ConfigError` naming the nearest sub-command for an unknown one.
    """
    name, rest = words[0], list(words[1:])
    if name == "index" and (not rest or rest[0].startswith("-")):
        rest.insert(0, "build")
    if rest and not rest[0].startswith("-") and any(known.startswith(f"{name} ") for known in COMMANDS):
        name, rest = f"{name} {rest[0]}", rest[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean `geoloc {near[0]}`?" if near else "`geoloc --help` lists them."
        raise ConfigError(f"There is no sub-command {name!r}; {hint}")
    from_imagery = name == "index build" and any(word.partition("=")[0] == "--imagery" for word in rest)
    return name, _FROM_IMAGERY if from_imagery else COMMANDS[name], rest


def run_command(name: str, command: Command, words: list[str]) -> int:
    """Call the function of a sub-command with parsed words, print its result and return the exit status."""
    function = getattr(importlib.import_module(command.module), command.function)
    if name == "submit":
        return int(function(words))
    parsed = parse(name, function, words)
    chosen = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(parsed)}
    as_json = chosen.pop("json", False)
    results = sys.stdout
    # Ray prints what its workers print; standard output is for the result alone.
    with contextlib.redirect_stdout(sys.stderr):
        result = function(**chosen)
        if isinstance(result, BaseModel):
            results.write(_as_text(result, as_json=as_json))
    # Reports of checks say whether what they looked at is sound.
    return 0 if getattr(result, "sound", True) else GeolocError.exit_status


def parse(name: str, function: Callable[..., Any], words: Sequence[str]) -> Any:
    """The arguments of a stage's function, as an object with a field for each parameter."""
    return tyro.cli(
        parser_of(function), prog=f"geoloc {name}", args=list(words), config=(tyro.conf.FlagCreatePairsOff,)
    )


def parser_of(function: Callable[..., Any]) -> type[Any]:
    """A dataclass with a field for every parameter of a stage's function; tyro makes the flags from it.

    Fields of a parameter that is a pydantic model become flags of their own, without a prefix.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    fields: list[tuple[str, Any, Any]] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in _NOT_FLAGS:
            continue
        given = parameter.default is not inspect.Parameter.empty
        is_model = isinstance(hints[name], type) and issubclass(hints[name], BaseModel)
        extra: Any = tyro.conf.arg(name="") if is_model else tyro.conf.arg(help=_HELP_OF.get(name))
        if not (is_model or given or name == "output"):
            hints[name] = _POSITIONAL[hints[name]]
        fields.append(
            (
                name,
                Annotated[hints[name], extra],
                dataclasses.field(default=parameter.default) if given else None,
            )
        )
    if isinstance(hints.get("return"), type) and issubclass(hints["return"], BaseModel):
        as_json = tyro.conf.arg(help="Print the result as one JSON object.")
        fields.append(("json", Annotated[bool, as_json], dataclasses.field(default=False)))
    kind = dataclasses.make_dataclass(
        "Arguments", [field if field[2] is not None else field[:2] for field in fields], kw_only=True
    )
    kind.__doc__ = (inspect.getdoc(function) or "").partition("\n\n")[0]
    return kind


def explain(error: ValidationError) -> str:
    """One sentence for settings that a pydantic model refused: which, what is wrong, which value."""
    problems = []
    for detail in error.errors(include_url=False):
        flag = "--" + ".".join(str(part) for part in detail["loc"]).replace("_", "-") if detail["loc"] else ""
        problems.append(f"{flag} {detail['msg']} (got {detail['input']!r})".strip())
    return "; ".join(problems) + "."


def _as_text(result: BaseModel, *, as_json: bool) -> str:
    if as_json:
        return result.model_dump_json() + "\n"
    if callable(text := getattr(result, "text", None)):
        return str(text()).rstrip("\n") + "\n"
    values = result.model_dump(mode="json")
    width = max(map(len, values), default=0)
    shown = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return "".join(f"{key:<{width}}  {value}\n" for key, value in shown.items())


def _sentence(error: GeolocError) -> str:
    # An error that crossed Ray unasked comes as Ray's wrapper, whose text is a whole stack trace.
    cause = getattr(error, "cause", None)
    return " ".join(str(cause if isinstance(cause, GeolocError) else error).split())


def _fail(sentence: str, status: int) -> int:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"error: {sentence}\n")
    return status


def _version() -> str:
    from importlib.metadata import version

    return f"geoloc {version('geoloc')}"


def _say_help() -> None:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    sys.stdout.write(
        "Says where a photo was taken, by matching it with geo-tagged aerial imagery.\n\nusage: geoloc COMMAND "
        "[OPTIONS]\n\n" + "\n".join(lines) + "\n\n`geoloc COMMAND --help` explains a sub-command.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
