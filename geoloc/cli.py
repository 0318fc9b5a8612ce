"""The command line: one sub-command per stage, its flags taken from the signature of the stage's `run`.

Only the room of the sub-command that was asked for is imported. Results go to standard output (`--json` prints
them as one JSON object), progress to standard error. Exit status: 0 done, 2 a user's mistake in one sentence,
130 interrupted.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import difflib
import functools
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
from geoloc.core.progress import begin_run

_INTERRUPTED = 130
_HELP_OF = {
    "output": "URI of the output: a path, file:// or s3://.",
    "overwrite": "Replace an output that other inputs or settings made.",
    "index": "URI of the index.",
    "snapshot": "Id of the snapshot; default: the current one.",
    "a": "URI of an index, or URI@SNAPSHOT.",
    "b": "URI of the other index, or URI@SNAPSHOT.",
    "keys": "File of API keys; it is made where there is none.",
    "name": "Name of the key, to tell keys apart.",
    "admin": "The key may also change what is served.",
    "requests_per_s": "Requests a second that the key may send; default: those of the service.",
    "burst": "Requests that may come at once before that counts; default: those of the service.",
    "url": "Address of the service, such as http://127.0.0.1:8000.",
    "index_name": "Name of the index within the service.",
    "key_file": "File that holds an API key of the scope admin.",
    "keep": "Snapshots to keep: the current one and its ancestors.",
    "min_age_s": "Files younger than this many seconds are kept.",
    "dry_run": "List what would be removed and remove nothing.",
    "json": "Print the result as one JSON object.",
}
# What the negative flag of a setting that is on by default does; the setting's own text says what it does when on.
_HELP_OF_NO = {
    "asymmetric": "Compare bits with bits, not a photo's real numbers with the tiles' bits.",
    "keep_embeddings": "Store no embeddings; the index then cannot re-rank.",
    "embeddings": "Store hash codes alone, without embeddings.",
    "report": "Do not write report.html.",
    "faiss": "Do not try FAISS's PQ and RaBitQ.",
    "browser": "Do not open the page in a browser.",
    "serve": "Stop after the measurements: start no service.",
}
_POSITIONAL: Any = tyro.conf.Positional
_TYRO_USAGE_WIDTH = 80  # tyro shows every flag in a usage line shorter than this
_WORDS = {int: "INT", float: "FLOAT", str: "TEXT"}
_NOT_FLAGS = {"cache_dir"}  # the environment variable GEOLOC_CACHE sets it


@dataclass(frozen=True)
class Command:
    """A sub-command: where its function is, and what it does in one line."""

    module: str
    summary: str
    function: str = "run"


GROUPS: dict[str, dict[str, Command]] = {
    "make data": {
        "city": Command("geoloc.synthetic.stages.city", "render a procedural city: imagery and panoramas"),
        "city tiles": Command("geoloc.synthetic.stages.tiles", "any number of distractor tiles as a table"),
        "city codes": Command(
            "geoloc.synthetic.stages.codes", "millions of codes like those of a table, to test indexes"
        ),
        "city ablations": Command(
            "geoloc.synthetic.stages.ablations", "locate photos without trees, buildings, ..."
        ),
        "city export": Command(
            "geoloc.synthetic.stages.export", "the city as CVUSA, CVACT, VIGOR, University-1652 or 2.5D"
        ),
        "ingest": Command(
            "geoloc.stages.ingest", "imagery and photos, or a published data set, to checked tables"
        ),
        "ingest osm": Command(
            "geoloc.stages.ingest_osm", "an OpenStreetMap extract to map tiles with points"
        ),
        "ingest export": Command(
            "geoloc.stages.export_webdataset", "tables to tar shards for the webdataset package"
        ),
    },
    "train": {
        "train": Command("geoloc.stages.train", "train a recipe on ingested pairs"),
        "fit-codes": Command(
            "geoloc.stages.fit_codes", "give a trained model another hash encoder, fitted on a sample"
        ),
        "augment-model": Command(
            "geoloc.stages.augment_model", "have a trained model also embed mirrored and resized pictures"
        ),
        "compare": Command("geoloc.stages.compare", "train recipes with one budget and measure them"),
    },
    "index": {
        "encode": Command("geoloc.stages.encode", "tiles to hash codes and embeddings"),
        "index build": Command(
            "geoloc.stages.index_build", "codes (or --imagery, or --osm) to a searchable index"
        ),
        "index estimate": Command(
            "geoloc.stages.index_build", "what a build would take, and whether it fits", "estimate_build"
        ),
        "index export": Command("geoloc.stages.index_export", "an index as files that plain FAISS opens"),
        "index add": Command("geoloc.stages.index_update", "add or replace tiles, as a new snapshot", "add"),
        "index remove": Command("geoloc.stages.index_update", "remove tiles, as a new snapshot", "remove"),
        "index compact": Command("geoloc.stages.index_update", "merge small and half-dead shards", "compact"),
        "index rollback": Command(
            "geoloc.index.maintenance.history", "make an older snapshot current again", "rollback"
        ),
        "index list": Command(
            "geoloc.index.maintenance.history", "the snapshots of an index, newest first", "history"
        ),
        "index inspect": Command(
            "geoloc.localization.judgement", "what an index holds, and its calibration", "describe_index"
        ),
        "index verify": Command(
            "geoloc.index.maintenance.inspect", "check every byte of a snapshot", "verify"
        ),
        "index diff": Command("geoloc.index.maintenance.inspect", "compare two snapshots", "diff"),
        "index prune": Command(
            "geoloc.index.format.local_cache", "remove unused copies of indexes from this host", "prune_cache"
        ),
        "index gc": Command(
            "geoloc.index.maintenance.garbage", "remove files that no snapshot needs", "collect_garbage"
        ),
    },
    "ask": {
        "calibrate": Command(
            "geoloc.stages.calibrate", "photos of known position teach an index what it can promise"
        ),
        "evaluate": Command("geoloc.stages.evaluate", "recall and metres on held-out photos"),
        "codes": Command("geoloc.stages.codes", "which code for your tiles: encoders, lengths, comparisons"),
        "localize": Command("geoloc.stages.localize", "locate a batch of photos"),
        "serve": Command("geoloc.serving.server", "answer POST /v1/localize over HTTP", "serve_blocking"),
        "serve reload": Command(
            "geoloc.serving.server", "have a running service serve the current snapshot", "reload"
        ),
        "serve key": Command("geoloc.serving.access", "make an API key for a service", "add_key"),
    },
    "operate": {
        "pipeline": Command(
            "geoloc.stages.pipeline", "one YAML file from imagery and photos to a measured index"
        ),
        "demo": Command("geoloc.demo.run", "everything on a procedural city, from imagery to a service"),
        "demo model": Command(
            "geoloc.demo.shipped_model", "train and measure the model that ships with geoloc; takes hours"
        ),
        "submit": Command("geoloc.stages.submit", "run a sub-command as a job on a Ray cluster", "submit"),
        "bench search": Command(
            "geoloc.bench.search", "measure search here, beside FAISS and usearch, against its bars"
        ),
        "bench encode": Command(
            "geoloc.bench.encode",
            "measure cutting and encoding here, beside the network alone, against its bars",
        ),
        "bench train": Command(
            "geoloc.bench.train", "measure training here, beside a plain PyTorch loop, against its bars"
        ),
        "bench serve": Command("geoloc.bench.serve", "measure a service under load here, against its bars"),
        "doctor": Command("geoloc.runtime.doctor", "check this machine and say what is missing"),
    },
}
COMMANDS: dict[str, Command] = {name: command for group in GROUPS.values() for name, command in group.items()}
_WHOLE_WAYS = {
    "--imagery": Command("geoloc.stages.index_imagery", "imagery to a searchable index in one call"),
    "--osm": Command("geoloc.stages.index_osm", "an OpenStreetMap extract to a searchable index in one call"),
}


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
    flags = {word.partition("=")[0] for word in rest} if name == "index build" else set()
    whole = next((command for flag, command in _WHOLE_WAYS.items() if flag in flags), None)
    return name, whole or COMMANDS[name], rest


def run_command(name: str, command: Command, words: list[str]) -> int:
    """Call the function of a sub-command with parsed words, print its result and return the exit status."""
    function = getattr(importlib.import_module(command.module), command.function)
    if name == "submit":
        return int(function(words))
    chosen = parse(name, function, words)
    begin_run(name)
    as_json = chosen.pop("json", False)
    results = sys.stdout
    # Ray prints what its workers print; standard output is for the result alone.
    with contextlib.redirect_stdout(sys.stderr):
        result = function(**chosen)
        if isinstance(result, BaseModel):
            results.write(_as_text(result, as_json=as_json))
    # Reports of checks say whether what they looked at is sound.
    return 0 if getattr(result, "sound", True) else GeolocError.exit_status


def parse(name: str, function: Callable[..., Any], words: Sequence[str]) -> dict[str, Any]:
    """The arguments of a stage's function by parameter, and `json` where its result can be printed so.

    Raises pydantic's `ValidationError` for values that a configuration refuses; unknown flags end the process.
    """
    flags, words = _flags_of(function), list(words)
    if any(flag.parameter == "index_uri" for flag in flags):
        words = _with_index_flag(words, {flag.usage_word for flag in flags if isinstance(flag.default, bool)})
    prog = f"geoloc {name}"
    if any(word in ("-h", "--help") for word in words):
        prog += _required_words(flags)
    values = vars(
        tyro.cli(
            _parser_of(function, flags),
            prog=prog,
            args=words,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    )
    arguments: dict[str, Any] = {}
    models: dict[str, dict[str, Any]] = {}
    for flag in flags:
        if flag.model is None:
            arguments[flag.parameter] = values[flag.name]
        else:
            models.setdefault(flag.parameter, {})[flag.name] = values[flag.name]
    classes = {flag.parameter: flag.model for flag in flags if flag.model is not None}
    return arguments | {name: model(**models[name]) for name, model in classes.items()}


def _with_index_flag(words: list[str], switches: set[str]) -> list[str]:
    """The words with `--index` before a URI that stands alone: what the commands took before they had the flag."""
    for place, word in enumerate(words):
        previous = words[place - 1] if place else ""
        takes_word = previous.startswith("--") and "=" not in previous and previous not in switches
        if not (word.startswith("-") or takes_word):
            return [*words[:place], "--index", *words[place:]]
    return words


@dataclass(frozen=True)
class _Flag:
    """One flag: the parameter that it belongs to and, where that is a configuration, the field's own model."""

    name: str
    parameter: str
    model: type[BaseModel] | None
    type: Any
    default: Any
    help: str | None

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def usage(self) -> bool:
        """Whether the usage line names it; arguments by position stand there already."""
        return self.required and self.name not in ("a", "b")

    @property
    def metavar(self) -> str | None:
        """The word for the value in help: URI, INT, {a,b}; None: tyro's own."""
        kinds = [kind for kind in typing.get_args(self.type) if kind is not type(None)]
        kind = kinds[0] if kinds and type(None) in typing.get_args(self.type) else self.type
        items = typing.get_args(kind) if typing.get_origin(kind) in (list, tuple) else (kind,)
        word = "URI" if (self.help or "").startswith("URI") else _word_of(items[0])
        if word is None or items == (kind,):
            return word
        if len(items) == 2 and items[1] is not Ellipsis:
            return f"{word} {word}"
        return f"{word} [{word} ...]"

    @property
    def usage_word(self) -> str:
        """The flag as the usage line shows it."""
        if not self.usage and self.required:
            return str(self.metavar)
        name = self.name.replace("_", "-")
        if isinstance(self.default, bool):
            return f"--no-{name}" if self.default else f"--{name}"
        return f"--{name} {self.metavar}"

    def annotation(self) -> Any:
        """The type with what tyro shows about the flag."""
        hint = "" if self.default in (None, (), [], "") else None
        text = _HELP_OF_NO.get(self.name, self.help) if self.default is True else self.help
        if self.default is True or self.default is False:
            return Annotated[self.type, tyro.conf.arg(help=text, help_behavior_hint="")]
        extra = tyro.conf.arg(help=text, metavar=self.metavar, help_behavior_hint=hint)
        kind = _POSITIONAL[self.type] if self.required and not self.usage else self.type
        return Annotated[kind, extra]


def _word_of(kind: Any) -> str | None:
    if typing.get_origin(kind) is typing.Literal:
        return "{" + ",".join(map(str, typing.get_args(kind))) + "}"
    return _WORDS.get(kind)


def _flags_of(function: Callable[..., Any]) -> list[_Flag]:
    """The flags of a stage's function, required ones first.

    A parameter is a flag; one that is a pydantic model gives a flag for each of its fields.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    flags = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in _NOT_FLAGS:
            continue
        if isinstance(hints[name], type) and issubclass(hints[name], BaseModel):
            flags += _flags_of_model(name, hints[name])
        else:
            flag = "index" if name == "index_uri" else name
            missing = parameter.default is inspect.Parameter.empty
            default = dataclasses.MISSING if missing else parameter.default
            flags.append(_Flag(flag, name, None, hints[name], default, _HELP_OF.get(flag)))
    if isinstance(hints.get("return"), type) and issubclass(hints["return"], BaseModel):
        flags.append(_Flag("json", "json", None, bool, False, _HELP_OF["json"]))
    return sorted(flags, key=lambda flag: not flag.required)


def _flags_of_model(parameter: str, model: type[BaseModel]) -> list[_Flag]:
    flags = []
    for name, field in model.model_fields.items():
        default = dataclasses.MISSING if field.is_required() else field.get_default(call_default_factory=True)
        flags.append(_Flag(name, parameter, model, field.annotation, default, field.description))
    return flags


def _required_words(flags: Sequence[_Flag]) -> str:
    """The required flags for a usage line that is too long for tyro, which then names none."""
    every = " ".join(flag.usage_word if flag.required else f"[{flag.usage_word}]" for flag in flags)
    if len(every) < _TYRO_USAGE_WIDTH:
        return ""
    return "".join(f" {flag.usage_word}" for flag in flags if flag.usage)


def _parser_of(function: Callable[..., Any], flags: Sequence[_Flag]) -> type[Any]:
    """A dataclass with a field for every flag, from which tyro makes its parser."""
    fields: list[Any] = [
        (flag.name, flag.annotation())
        if flag.required
        else (
            flag.name,
            flag.annotation(),
            dataclasses.field(default_factory=functools.partial(copy.copy, flag.default)),
        )
        for flag in flags
    ]
    kind = dataclasses.make_dataclass("Arguments", fields, kw_only=True)
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
    groups = [
        f"{title}\n" + "".join(f"  {name:<{width}}  {command.summary}\n" for name, command in group.items())
        for title, group in GROUPS.items()
    ]
    sys.stdout.write(
        "Says where a photo was taken, by matching it with geo-tagged aerial imagery.\n\nusage: geoloc COMMAND "
        "[OPTIONS]\n\n" + "\n".join(groups) + "\n`geoloc COMMAND --help` explains a sub-command.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
