"""Print the constraints of the oldest versions that pyproject.toml allows: `python -m tests.oldest_versions`."""

import tomllib
from pathlib import Path


def constraints(pyproject: Path) -> list[str]:
    """Each lower bound as the one version that is allowed."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    bounds = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    # a constraint has no extras
    return [f"{name.partition('[')[0]}=={least}" for name, least in (bound.split(">=") for bound in bounds)]


if __name__ == "__main__":
    print("\n".join(constraints(Path(__file__).parents[1] / "pyproject.toml")))
