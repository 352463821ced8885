"""Names of a package that are imported when they are first asked for: what they need takes seconds to import."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def attributes_of(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package.

    Args:
        package: its name, `__name__`.
        modules: for each name, the module inside the package that has it.
    """

    def attribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return attribute
