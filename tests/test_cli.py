"""The command line: its flags, its sentences, its exit statuses."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from geoloc import cli
from geoloc.core.errors import ConfigError, GeolocError, QueryError
from geoloc.stages import submit

ROOT = Path(__file__).resolve().parents[1]
FLAGS = Path(__file__).with_name("cli_flags.txt")


def _help(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main([*name.split(), "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def _flags(text: str) -> list[str]:
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*", text.partition("options")[2])) - {"--help"})


def test_flags_are_those_that_were_agreed(capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts of users rest on flags: who changes one changes cli_flags.txt knowingly."""
    names = [*cli.COMMANDS, "index build --imagery x", "index build --osm x"]
    found = {name: _flags(_help(name, capsys)) for name in names}
    lines = "".join(f"{name}: {' '.join(flags)}\n" for name, flags in found.items())
    assert lines == FLAGS.read_text(), f"write this into {FLAGS.name}:\n{lines}"


def _options(text: str) -> dict[str, str]:
    """The explanation of each flag in a help, without its lines and frames; required flags are `--x VALUE`."""
    lines = (line.strip(" │") for line in text.partition("options")[2].splitlines())
    rows = re.split(r"\n(?=--[a-z])", "\n".join(lines).replace(",\n", ","))[1:]
    return {
        re.split(r"\n|  ", row)[0]: re.sub(r"\s+", " ", re.split(r"\n|  ", row, maxsplit=1)[1])
        for row in rows
    }


@pytest.mark.parametrize("name", [*cli.COMMANDS, "index build --imagery x", "index build --osm x"])
def test_help_names_required_flags_first_and_explains_every_flag(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = _help(name, capsys)
    assert "{None}" not in text
    assert "None|" not in text
    assert "(default: True)" not in text
    options = _options(text)
    assert {flag.split()[0] for flag in options} == set(_flags(text))
    required = ["(required)" in explanation for explanation in options.values()]
    assert required == sorted(required, reverse=True), list(options)
    for flag, explanation in options.items():
        sentence = re.sub(r"\((default|required).*", "", explanation).strip()
        assert re.fullmatch(r"[A-Z'][^\n]{5,}[.)]", sentence), f"{flag} needs a sentence, not {explanation!r}"
        if "(required)" in explanation:
            assert flag in text.splitlines()[0], "the usage line names what is required"
        if flag.startswith("--no-"):
            assert re.search(r"\b(not|no|without|instead of)\b", explanation, re.IGNORECASE), flag


def test_every_command_stands_in_one_group() -> None:
    assert list(cli.GROUPS) == ["make data", "train", "index", "ask", "operate"]
    names = [name for group in cli.GROUPS.values() for name in group]
    assert sorted(names) == sorted(set(names)) == sorted(cli.COMMANDS)


def test_the_index_is_named_by_its_flag_or_by_the_uri_alone(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["--index", "/nowhere"],
        ["/nowhere"],
        ["--json", "/nowhere"],
        ["--index=/nowhere", "--json"],
    ):
        assert cli.main(["index", "list", *words]) == 2
        assert "There is no finished index at '/nowhere'" in capsys.readouterr().err
    for words in (["--to", "20260101", "/nowhere"], ["/nowhere", "--to", "20260101"]):
        assert cli.main(["index", "rollback", *words]) == 2
        assert "There is no finished index at '/nowhere'" in capsys.readouterr().err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_explains_every_sub_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = _help(name, capsys)
    assert f"usage: geoloc {name}" in text
    assert len(text.split("\n\n")[1]) > 20


def test_without_words_the_sub_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    listed = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert name in listed
        assert command.summary in listed


def test_start_up_loads_no_heavy_package() -> None:
    heavy = {"torch", "ray", "pyarrow", "faiss", "rasterio", "fastapi", "matplotlib"}
    code = "import sys; from geoloc.cli import main; main(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(r"geoloc \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], "There is no sub-command 'trian'; did you mean `geoloc train`?"),
        (["index", "verfy"], "There is no sub-command 'index verfy'; did you mean `geoloc index verify`?"),
        (["zzz"], "There is no sub-command 'zzz'; `geoloc --help` lists them."),
        (
            ["train", "--train", "x", "--output", "y", "--batch-size", "1"],
            "--batch-size Input should be greater than or equal to 2 (got 1).",
        ),
        (
            ["index", "inspect", "/nowhere"],
            "There is no finished index at '/nowhere' (no CURRENT); check the path or build one.",
        ),
        (
            ["encode", "--tiles", "/nowhere", "--model", "/nowhere", "--output", "/tmp/never"],
            "There is no table at '/nowhere'; check the path or run the stage that makes it.",
        ),
        (
            ["ingest", "--photos", "/nowhere.csv", "--output", "/tmp/never"],
            "'/nowhere.csv' does not exist; give a CSV or GeoJSON of positions or a folder with photos.csv.",
        ),
        (
            ["ingest", "--output", "/tmp/never"],
            "There is nothing to ingest; give imagery, photos or both.",
        ),
        (
            ["train", "--train", "/nowhere", "--recipe", "geolok", "--output", "/tmp/never"],
            "There is no recipe 'geolok'",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {sentence}")
    assert err.count("\n") == 1


def test_a_recipe_with_an_unknown_key_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("name: mine\ntraining: {stepz: 3}\n")
    assert cli.main(["train", "--train", "x", "--recipe", str(recipe), "--output", str(tmp_path / "m")]) == 2
    err = capsys.readouterr().err
    assert "stepz" in err
    assert "steps" in err
    assert err.count("\n") == 1


def test_unknown_flags_and_missing_ones_end_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["train", "--trian", "x"], ["train", "--train", "x"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 2
        assert "--output" in capsys.readouterr().err


class _Config(BaseModel):
    """How."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(3, ge=1, description="How large.")


class _Result(BaseModel):
    size: int
    places: list[str]


class _Report(_Result):
    @property
    def sound(self) -> bool:
        return False

    def text(self) -> str:
        return "two\nlines"


def _stage(config: _Config, output: str, *, overwrite: bool = False) -> _Result:
    """Do it."""
    print("a worker says hello")  # noqa: T201
    return _Result(size=config.size, places=[output, str(overwrite)])


def _broken_report(index_uri: str) -> _Report:
    """Look at it."""
    return _Report(size=1, places=[index_uri])


def _interrupted() -> None:
    raise KeyboardInterrupt


def _wrapped() -> None:
    # What Ray raises for an error in a task: the kind of the error, but a whole stack trace as text.
    error = type("RayTaskErrorOfQuery", (QueryError,), {})("Traceback (most recent call last): ...")
    error.cause = QueryError("k is 0;\n give 1 or more.")
    raise error


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, function in {
        "stage": "_stage",
        "report": "_broken_report",
        "interrupted": "_interrupted",
        "wrapped": "_wrapped",
    }.items():
        monkeypatch.setitem(cli.COMMANDS, name, cli.Command(__name__, "for tests", function))


@pytest.mark.usefixtures("commands")
def test_a_result_is_lines_or_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stage", "--output", "o", "--size", "7", "--overwrite"]) == 0
    assert capsys.readouterr().out == 'size    7\nplaces  ["o", "True"]\n'
    assert cli.main(["stage", "--output", "o", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"size": 3, "places": ["o", "False"]}
    assert err == "a worker says hello\n"


@pytest.mark.usefixtures("commands")
def test_a_report_that_is_not_sound_is_printed_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "somewhere"]) == 2
    assert capsys.readouterr().out == "two\nlines\n"


@pytest.mark.usefixtures("commands")
def test_an_interruption_is_one_line_and_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["interrupted"]) == 130
    assert capsys.readouterr().err == (
        "error: interrupted; run the same command again and it goes on where it was.\n"
    )


@pytest.mark.usefixtures("commands")
def test_an_error_from_a_ray_task_shows_its_own_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["wrapped"]) == 2
    assert capsys.readouterr().err == "error: k is 0; give 1 or more.\n"


def test_bugs_keep_their_stack_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "bug", cli.Command("json", "for tests", "no_such_function"))
    with pytest.raises(AttributeError):
        cli.main(["bug"])


def test_imagery_turns_index_build_into_the_whole_way() -> None:
    module = "geoloc.stages.index_imagery"
    for words in (["index", "--imagery", "x"], ["index", "build", "--imagery=x"]):
        assert cli.find_command(words)[1].module == module
    assert cli.find_command(["index", "build", "--osm", "x"])[1].module == "geoloc.stages.index_osm"
    assert cli.find_command(["index", "--codes", "x"])[1].module == "geoloc.stages.index_build"


def test_every_sub_command_leads_to_a_function_with_a_docstring() -> None:
    for command in cli.COMMANDS.values():
        assert getattr(importlib.import_module(command.module), command.function).__doc__


def test_submit_asks_for_a_stage_and_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="Name the stage to submit after the options, one of city, ingest"):
        submit.submit(["--address", "http://127.0.0.1:8265"])
    with pytest.raises(ConfigError, match="Say which cluster: pass --address"):
        submit.submit(["encode", "--tiles", "t"])


def test_every_stage_can_be_submitted_and_is_in_the_readme() -> None:
    groups = {name.partition(" ")[0] for name in cli.COMMANDS}
    assert set(submit.JOBS) == groups - {"submit", "doctor"}


def test_the_help_of_index_build_names_imagery(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--imagery" in _help("index build", capsys)


def test_submit_hands_the_words_to_ray_unchanged() -> None:
    config = submit.SubmitConfig(address="http://127.0.0.1:8265", working_dir=".", wait=False)
    words = submit.command(config, ["encode", "--tiles", "a b", "--json"], "geoloc-encode-1")
    assert Path(words[0]).name == "ray"
    assert words[1:] == [
        *("job", "submit", "--address", "http://127.0.0.1:8265", "--submission-id", "geoloc-encode-1"),
        *("--no-wait", "--working-dir", "."),
        *("--", "python", "-m", "geoloc", "encode", "--tiles", "a b", "--json"),
    ]


def test_ctrl_c_stops_the_job_that_was_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def call(words: list[str]) -> int:
        calls.append(words[1:])
        if words[2] == "submit":
            raise KeyboardInterrupt
        return 0

    monkeypatch.setattr(submit, "_call", call)
    with pytest.raises(KeyboardInterrupt):
        submit.submit(["--address", "http://127.0.0.1:8265", "encode", "--tiles", "t"])
    job_id = calls[0][calls[0].index("--submission-id") + 1]
    assert job_id.startswith("geoloc-encode-")
    assert calls[1] == ["job", "stop", "--address", "http://127.0.0.1:8265", job_id]


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "jobs").glob("*.py")))
def test_a_job_script_is_thin_and_begins_with_its_command(script: str) -> None:
    text = (ROOT / "jobs" / script).read_text()
    words = text.splitlines()[0].removeprefix('"""').split()
    assert words[:7] == ["ray", "job", "submit", "--working-dir", ".", "--", "python"]
    assert words[7] == f"jobs/{script}"
    assert len(text.splitlines()) <= 30


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "jobs").glob("*.py")))
def test_the_command_of_a_job_script_parses(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documented call reaches its stage with every flag understood; the stage itself is not run."""
    seen: dict[str, object] = {}

    def note(name: str, command: cli.Command, words: list[str]) -> int:
        function = getattr(importlib.import_module(command.module), command.function)
        parsed = cli.parse(name, function, words)
        seen.update(parsed)
        return 0

    monkeypatch.setattr(cli, "run_command", note)
    words = (ROOT / "jobs" / script).read_text().splitlines()[0].split()[8:]
    monkeypatch.setattr(sys, "argv", [script, *words])
    with pytest.raises(SystemExit) as ended:
        exec(compile((ROOT / "jobs" / script).read_text(), script, "exec"), {"__name__": "__main__"})
    assert ended.value.code == 0
    assert seen


def test_every_stage_has_a_job_script() -> None:
    scripts = {path.stem for path in (ROOT / "jobs").glob("*.py")}
    assert scripts == {name.partition(" ")[0] for name in cli.COMMANDS} - {"submit", "doctor"}


def test_doctor_finds_this_machine_fit(ray_local: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "BAD" not in text
    assert re.search(r"^ok +s3 +http://127\.0\.0\.1:\d+ answers, 1 buckets$", text, re.MULTILINE)


def test_doctor_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from geoloc.runtime import doctor

    monkeypatch.setattr(doctor, "_PACKAGES", ("ray", "no-such-package"))
    check = doctor._check("packages", doctor._packages)
    assert not check.ok
    assert check.found == "Not installed: no-such-package; run make, or pip install geoloc again."
    assert not doctor.DoctorReport(checks=[check]).sound
    assert issubclass(ConfigError, GeolocError)
