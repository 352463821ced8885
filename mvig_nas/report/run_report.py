"""The page of a whole run: what was asked for, what came of it, and how sure each number is."""

from collections.abc import Mapping
from html import escape
from typing import Any

from mvig_nas.architecture import Architecture
from mvig_nas.latency import ArchitectureLatency
from mvig_nas.report.html import document, facts, image, stage_costs
from mvig_nas.report.search_report import latency_note, outside_note


def run_page(
    asked: Mapping[str, str],
    result: Mapping[str, Any],
    architecture: Architecture,
    latency: ArchitectureLatency,
    plots: Mapping[str, bytes],
    *,
    command: str,
) -> str:
    """The report of a run.

    Args:
        asked: what was asked for and planned, by words that people read.
        result: `top1`, `top1_standard_error` (fractions), `val_images`, `latency_ms`, `interval_ms`, `package`.
        architecture: of the trained network.
        latency: that predicted its milliseconds.
        plots: PNG bytes by title.
        command: the command line that made it.
    """
    low, high = result["interval_ms"]
    device = latency.predictor.device
    outcome = {
        "Top-1": f"{result['top1']:.1%} \u00b1 {result['top1_standard_error']:.1%}, the standard error over "
        f"{result['val_images']:,} validation images, which no step chose by",
        "Latency": f"{result['latency_ms']:.3f} ms predicted on {device}, between {low:.2f} and {high:.2f} ms in four "
        "cases out of five; it was not measured",
        "Package": str(result["package"]),
    }
    parts = [
        f"<h1>A network for {escape(device)}</h1>",
        "<h2>What was asked for</h2>",
        facts(asked),
        "<h2>What came of it</h2>",
        facts(outcome),
        "<h2>Where the milliseconds go</h2>",
        stage_costs(architecture, latency),
        f"<p class=note>{escape(latency_note(latency))}</p>",
    ]
    outside = latency.outside([architecture])[0]
    if outside:
        parts.append(f"<p class=note>The network is {escape(outside_note(device, outside))}</p>")
    parts += [image(title, png) for title, png in plots.items()]
    parts.append(f"<h2>How it was made</h2><p><code>{escape(command)}</code></p>")
    return document(f"mvig-nas: a network for {device}", parts)
