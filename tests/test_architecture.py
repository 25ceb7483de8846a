"""The shape of the code: which file may import which, who owns a library, and what no file may hold.

Reads the sources with ``ast``, so nothing is imported here. A new file under saber/ needs one line in ``LAYERS``.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent

#: Lowest first; a file imports only from layers below its own. A folder is named by its path and covers what is in it.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("saber/__init__", "saber/schema"),
    ("saber/sections", "saber/prompts", "saber/recipe"),
    ("saber/media",),
    ("saber/model", "saber/studio"),
    ("saber/runner",),
    ("saber/judge",),
    ("saber/data", "saber/sft", "saber/preference", "saber/dpo", "saber/eval"),
    ("saber/hub",),
    ("saber/__main__", "saber/page", "train", "app"),
)

#: The page is app.py until it outgrows one file: then app.py builds it from saber/page/.
PAGE = ("saber/page",)


def source_files() -> list[str]:
    """Paths, relative to the root, of the Python files that the layers speak of."""
    found = [path for folder in ("saber", "train") for path in (ROOT / folder).rglob("*.py")]
    return sorted(path.relative_to(ROOT).as_posix() for path in [*found, *ROOT.glob("app.py")])


def tracked_files() -> list[str]:
    """What git tracks or would track; outside a checkout, the sources and the files beside them."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    answer = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    if answer.returncode == 0:
        return [name for name in answer.stdout.split("\0") if name and (ROOT / name).is_file()]
    return [*source_files(), *(path.name for path in ROOT.iterdir() if path.is_file())]


def room(path: str) -> tuple[str, int]:
    """The entry of ``LAYERS`` that a file belongs to, and its height. KeyError where there is none."""
    name = path.removesuffix(".py")
    for height, layer in enumerate(LAYERS):
        for entry in layer:
            if name == entry or name.startswith(entry + "/"):
                return entry, height
    raise KeyError(path)


def file_of(module: str) -> str | None:
    """The file of a dotted module name of ours ("saber.studio.world"), or None where it names no file."""
    stem = module.replace(".", "/")
    for candidate in (f"{stem}.py", f"{stem}/__init__.py"):
        if (ROOT / candidate).is_file():
            return candidate
    return f"{stem}/" if (ROOT / stem).is_dir() else None


def imported_modules(path: str) -> list[tuple[str, int]]:
    """Every module that a file imports, anywhere in it, as (absolute dotted name, line).

    ``from saber import schema`` counts as saber.schema; relative imports are made absolute.
    """
    package = path.split("/")[:-1]
    found = []
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                member = f"{module}.{alias.name}"
                found.append((member if file_of(member) else module, node.lineno))
    return found


def forbidden_import(path: str, module: str) -> str | None:
    """Why ``path`` may not import ``module``, or None if it may."""
    top = module.split(".")[0]
    sibling = path.startswith("train/") and module.removeprefix("train.").split(".")[0]
    if top in ("train", "app") or (sibling and (ROOT / "train" / f"{sibling}.py").is_file()):
        return None if path.startswith("train/") and top != "app" else "nothing imports train or app"
    if top != "saber" or module == "saber":
        return None
    target = file_of(module)
    if target is None:
        return "there is no such module"
    (here, height), (there, depth) = room(path), room(target.rstrip("/"))
    if here == there:
        return None
    if depth > height:
        return f"{there} is in a higher layer"
    if depth == height and (here, there) != ("app", "saber/page"):
        return f"{there} is in the same layer"
    return None


def test_every_file_has_a_place_in_the_layers():
    homeless = []
    for path in source_files():
        try:
            room(path)
        except KeyError:
            homeless.append(path)
    assert not homeless, f"give each a line in LAYERS of {Path(__file__).name}: {homeless}"


def test_imports_go_one_way():
    wrong = [
        f"{path}:{line} imports {module}: {reason}"
        for path in source_files()
        for module, line in imported_modules(path)
        if (reason := forbidden_import(path, module))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("path", "module", "allowed"),
    [
        ("saber/media/survey.py", "saber.schema", True),
        ("saber/studio/render.py", "saber.studio.world", True),
        ("saber/schema.py", "saber.media", False),
        ("saber/model/engine.py", "saber.studio", False),
        ("saber/model/engine.py", "train", False),
        ("saber/__main__.py", "app", False),
        ("train/sft.py", "saber.schema", True),
        ("train/sft.py", "app", False),
        ("saber/model/engine.py", "torch", True),
        ("app.py", "saber.nowhere", False),
    ],
)
def test_the_rule_itself_allows_and_forbids(path, module, allowed):
    assert (forbidden_import(path, module) is None) == allowed


def test_importing_the_package_loads_none_of_its_rooms():
    assert not [module for module, _ in imported_modules("saber/__init__.py") if module.startswith("saber")]


def test_only_the_page_imports_gradio():
    wrong = [
        f"{path}:{line}"
        for path in source_files()
        for module, line in imported_modules(path)
        if module.split(".")[0] == "gradio" and path != "app.py" and not path.startswith(PAGE)
    ]
    assert not wrong, f"gradio is imported by the page alone: {wrong}"


def qwen_names(path: str) -> list[str]:
    """Identifiers of Qwen classes in a file; strings, such as model ids, are no concern."""
    found = []
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        names = {
            ast.Name: lambda n: [n.id],
            ast.Attribute: lambda n: [n.attr],
            ast.alias: lambda n: [n.name.split(".")[-1]],
        }.get(type(node), lambda n: [])(node)
        found += [f"{path}:{node.lineno} {name}" for name in names if name.startswith("Qwen")]
    return found


def test_only_the_model_names_qwen_classes():
    wrong = [name for path in source_files() if not path.startswith("saber/model/") for name in qwen_names(path)]
    assert not wrong, f"import these from saber.model under the field's names: {wrong}"


def test_no_file_has_a_name_that_says_nothing():
    vague = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc"}
    wrong = [path for path in source_files() if vague & set(path.removesuffix(".py").split("/"))]
    assert not wrong, f"a helper lives beside its caller, or in the lower layer under its subject: {wrong}"


def silent_handlers(source: str) -> list[int]:
    """Lines of handlers that catch everything and do nothing, and of every bare ``except:``."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        broad = any(isinstance(name, ast.Name) and name.id in ("Exception", "BaseException") for name in caught)
        idle = all(
            isinstance(statement, ast.Pass | ast.Continue)
            or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
            for statement in node.body
        )
        if node.type is None or (broad and idle):
            lines.append(node.lineno)
    return lines


def test_no_error_is_swallowed_in_silence():
    files = [name for name in tracked_files() if name.endswith(".py")]
    wrong = [f"{name}:{line}" for name in files for line in silent_handlers((ROOT / name).read_text("utf-8"))]
    assert not wrong, f"name the exception and say what is done about it: {wrong}"


def test_silent_handlers_are_recognised():
    assert silent_handlers("try:\n    f()\nexcept Exception:\n    pass") == [3]
    assert silent_handlers("try:\n    f()\nexcept (ValueError, Exception):\n    ...") == [3]
    assert silent_handlers("try:\n    f()\nexcept:\n    raise") == [3]
    assert silent_handlers("try:\n    f()\nexcept ValueError:\n    pass") == []
    assert silent_handlers("try:\n    f()\nexcept Exception as error:\n    log(error)") == []


#: Folders that only one machine has. A web address with such a part is no path: hence what may not stand before it.
MACHINE_PATH = re.compile(r"(?<![\w.~/:$}-])(?:/(?:home|Users|root|work|workspace|mnt)/[\w.]|[A-Z]:\\Users\\)")


def test_no_file_holds_the_path_of_a_machine():
    wrong = []
    for name in tracked_files():
        content = (ROOT / name).read_bytes()
        if b"\0" in content or name == Path(__file__).relative_to(ROOT).as_posix():
            continue
        for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), start=1):
            if MACHINE_PATH.search(line):
                wrong.append(f"{name}:{number}: {line.strip()[:100]}")
    assert not wrong, "\n".join(wrong)


def test_paths_of_machines_are_recognised():
    for text in ('"/home/someone/clips"', "cd /root/.cache", "at /Users/a", "C:\\Users\\a"):
        assert MACHINE_PATH.search(text), text
    for text in ("https://example.org/home/a", "~/work/x", "$HOME/root/x", "data/work/x", "/usr/bin/chromium"):
        assert not MACHINE_PATH.search(text), text


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter in the root, as a Space has it: nothing of ours on PYTHONPATH."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_schema_loads_without_torch_or_any_package():
    # -S leaves out site-packages: only the standard library and the root are there to import from.
    answer = run_python("-S", "-c", "import saber.schema, sys; print('torch' in sys.modules, saber.__file__)")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == ["False", str(ROOT / "saber" / "__init__.py")]


def declared_requirements() -> dict[str, Requirement]:
    """Every requirement of pyproject.toml, of the package and of its extras, by its normal name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def listed_requirements(name: str) -> list[Requirement]:
    """The requirements of a file in pip's format, without its comments."""
    lines = (ROOT / name).read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def test_every_import_is_a_declared_dependency():
    declared = declared_requirements()
    owners = {**metadata.packages_distributions()}
    for distribution in metadata.distributions():  # modules that are one compiled file are missing there
        for file in distribution.files or ():
            if len(file.parts) == 1 and file.suffix in (".so", ".pyd"):
                owners.setdefault(file.name.split(".")[0], [distribution.metadata["Name"]])
    wrong = set()
    tests = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")]
    ours = {"saber", "app", "train", "tests", *(Path(path).stem for path in [*source_files(), *tests])}
    for path in [*source_files(), *tests]:
        for module, line in imported_modules(path):
            top = module.split(".")[0]
            if top in sys.stdlib_module_names or top in ours:
                continue
            if not any(canonicalize_name(owner) in declared for owner in owners.get(top, [top])):
                wrong.add(f"{path}:{line} imports {top}")
    assert not wrong, f"declare these in pyproject.toml: {sorted(wrong)}"


def test_the_tested_versions_lie_in_the_declared_ranges():
    pinned = {canonicalize_name(pin.name): [] for pin in listed_requirements("constraints.txt")}
    for pin in listed_requirements("constraints.txt"):
        pinned[canonicalize_name(pin.name)].append(str(pin.specifier).removeprefix("=="))
    declared = declared_requirements()
    assert not set(declared) - set(pinned), "every declared dependency has a pin in constraints.txt"
    for requirement in [*declared.values(), *listed_requirements("requirements.txt")]:
        for version in pinned[canonicalize_name(requirement.name)]:
            assert version in requirement.specifier, f"{requirement} excludes the tested {version}"


def test_a_space_installs_what_the_page_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["page"]]
    space = {canonicalize_name(requirement.name) for requirement in listed_requirements("requirements.txt")}
    assert space == {canonicalize_name(Requirement(line).name) for line in needed}
    torch = next(line for line in listed_requirements("requirements.txt") if line.name == "torch")
    # What ZeroGPU listed in August 2026.
    assert all(version in torch.specifier for version in ("2.8.0", "2.9.1", "2.10.0", "2.11.0"))
