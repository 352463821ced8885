"""Finds what ships with the package, installed or in a checkout: search spaces, fitted predictors, pages of docs."""

from importlib import resources
from pathlib import Path

from mvig_nas.errors import MvigNasError, closest

DEFAULT_DEVICE = "iphone-13-mini"


def folder(name: str) -> Path:
    """Folder `search_spaces`, `predictors` or `docs`: package data where installed, the checkout's own where not."""
    installed = Path(str(resources.files("mvig_nas") / "_shipped" / name))
    return installed if installed.is_dir() else Path(__file__).resolve().parent.parent / name


def space_names() -> tuple[str, ...]:
    """Names of the shipped search spaces."""
    return tuple(sorted(path.stem for path in folder("search_spaces").glob("*.toml")))


def space_path(name: str) -> Path:
    """File of a shipped search space, or `name` itself where it is a path to a file of the user's.

    Raises:
        MvigNasError: neither a shipped space nor a file.
    """
    if name in space_names():
        return folder("search_spaces") / f"{name}.toml"
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        return path
    raise MvigNasError(f"no search space is called {name!r}; {closest(name, space_names())} A file must end in .toml.")


def device_names() -> tuple[str, ...]:
    """Names of the devices that have a shipped predictor."""
    return tuple(sorted(path.parent.name for path in folder("predictors").glob("*/predictor.json")))


def predictor_folder(device: str) -> Path:
    """Folder of a device's shipped predictor, or `device` itself where it is a folder that holds one.

    Raises:
        MvigNasError: neither a shipped device nor such a folder.
    """
    if device in device_names():
        return folder("predictors") / device
    if (Path(device) / "predictor.json").is_file():
        return Path(device)
    raise MvigNasError(f"no device is called {device!r}; {closest(device, device_names())}")


def page_names() -> tuple[str, ...]:
    """Names of the pages of documentation."""
    return tuple(sorted(path.stem for path in folder("docs").glob("*.md")))


def page(name: str) -> str:
    """The Markdown text of a page of documentation.

    Raises:
        MvigNasError: there is no page of that name.
    """
    stem = name.removeprefix("docs/").removesuffix(".md")
    if stem not in page_names():
        raise MvigNasError(f"no page is called {name!r}; {closest(stem, page_names())}")
    return (folder("docs") / f"{stem}.md").read_text(encoding="utf-8")
