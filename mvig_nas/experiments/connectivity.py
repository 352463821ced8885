"""Connectivity: how much of a map a pixel hears of through the links of graph blocks alone, counted exactly.

Links at fixed distances are the same for every pixel, circularly, so that one pixel speaks for all. Convolutions other
than the links, which tell a pixel of its neighbours, are left out, as is the positional encoding of MobileViGv2.
"""

from mvig_nas.architecture import Architecture
from mvig_nas.graph_operators import OPERATORS
from mvig_nas.graph_operators.scattered import Scattered


def reached(operator: str, step: int, size: int, blocks: int) -> float | None:
    """Share of the pixels of a map that one pixel hears of, itself included, after some graph blocks; in (0, 1].

    Args:
        operator: of the graph; of one that drops links by what the image holds, all count as kept.
        step: graph step K in pixels.
        size: side of the map in pixels.
        blocks: graph blocks one after the other.

    Returns:
        None for an operator whose links may lead anywhere.
    """
    links = _links(operator, step, size)
    if links is None:
        return None
    one = {(0, 0), *links}
    heard = {(0, 0)}
    for _ in range(blocks):
        heard = {((row + down) % size, (column + right) % size) for row, column in heard for down, right in one}
    return len(heard) / size**2


def connectivity(architecture: Architecture) -> list[dict[str, float | int | str | None]]:
    """What one and two blocks reach in each stage that has graph blocks, as rows.

    A row holds the `stage`, the `size` of its map in pixels, `operator`, `step`, the number of `links` of a pixel, and
    the shares `one_block` and `two_blocks` of `reached`.
    """
    found: list[dict[str, float | int | str | None]] = []
    for number, (stage, size) in enumerate(zip(architecture.stages, architecture.sizes, strict=True), start=1):
        if not stage.graph_depth:
            continue
        name, step = stage.operator.name, stage.graph_step or 0
        links = _links(name, step, size)
        found.append(
            {
                "stage": number,
                "size": size,
                "operator": name,
                "step": stage.graph_step,
                "links": stage.operator.free_links if links is None else len(links),
                "one_block": reached(name, step, size, 1),
                "two_blocks": reached(name, step, size, 2),
            }
        )
    return found


def _links(name: str, step: int, size: int) -> list[tuple[int, int]] | None:
    """Rows and columns to each link of a pixel; None where they follow the image."""
    operator = OPERATORS[name]
    if isinstance(operator, Scattered):
        return list(operator.displacements(step, size, size))
    distances = operator.distances(step, size)
    if distances is None:
        return None
    return [*((each, 0) for each in distances), *((0, each) for each in distances)]
