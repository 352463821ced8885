"""Imports point one way, and light modules stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mvig_nas

PACKAGE = Path(mvig_nas.__file__).parent

# A module may import those above it, and what it is made of.
ORDER = (
    "errors",
    "lazy",
    "files",
    "shipped",
    "futures",
    "plots",
    "standard_error",
    "map_fit",
    "values",
    "run_folder",
    "recipes",
    "graph_operators",
    "architecture",
    "constraints",
    "search_space",
    "budget",
    "kernels",
    "device_log",
    "latency",
    "network",
    "supernet",
    "image_data",
    "training",
    "scores",
    "search",
    "study",
    "finalists",
    "coreml",
    "measure",
    "ranking",
    "report",
    "experiments",
    "pipeline",
    "cli",
    "__main__",
)
HEAVY = ("torch", "timm", "optuna", "coremltools", "ray", "sklearn", "scipy", "matplotlib", "numpy", "rich")


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "__init__.py")


def top(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mvig_nas":
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("mvig_nas.")}
    return names - {"__version__"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    own = ORDER.index(top(path))
    wrong = {name for name in imported(path) if ORDER.index(name) > own}
    assert not wrong, f"{path.relative_to(PACKAGE)} imports {wrong}, which stand below it"


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import mvig_nas.cli", ()),
        ("import mvig_nas.search_space", ()),
        ("import mvig_nas.recipes", ()),
        ("import mvig_nas.kernels; mvig_nas.kernels.of", ()),
        ("import mvig_nas.latency", ("numpy", "scipy", "sklearn")),
        ("import mvig_nas.search", ("numpy",)),
        ("import mvig_nas.scores", ()),
        ("import mvig_nas.coreml", ("numpy", "scipy", "torch", "timm")),
    ],
)
def test_light_modules_load_nothing_heavy(statement: str, allowed: tuple[str, ...]) -> None:
    program = f"{statement}\nimport sys; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert set(printed.split()) <= set(allowed)


def test_no_module_is_long() -> None:
    long = {
        str(path.relative_to(PACKAGE)): lines
        for path in modules()
        if (lines := len(path.read_text().splitlines())) > 450
    }
    assert not long


def test_no_files_import_each_other_in_a_circle() -> None:
    imports = {module_name(path): files_imported(path) for path in modules()}
    # a file that imports nothing that is left is put aside, until only circles are left
    while free := {name for name, needed in imports.items() if not needed & imports.keys()}:
        imports = {name: needed for name, needed in imports.items() if name not in free}
    assert not imports, f"these files import each other: {sorted(imports)}"


def test_no_two_files_have_one_name() -> None:
    names = [path.name for path in modules() if path.name != "__init__.py"]
    assert {name for name in names if names.count(name) > 1} == set()


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def files_imported(path: Path) -> set[str]:
    """The package's modules that a file imports anywhere, also inside functions and for type checking only."""
    known = {module_name(each) for each in modules()}
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & known) or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & known) - {module_name(path)}
