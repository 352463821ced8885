"""Start-up: `mvig-nas --help` against a bare interpreter, and an unreachable budget after start-up, in pairs.

Run: python -m benchmarks.startup
Budgets: `--help` 0.3 s; the answer to a budget below the space's minimum 1 s after start-up.
"""

import statistics
import subprocess
import sys
import time

CLI = [sys.executable, "-c", "from mvig_nas.cli import main; main()"]
CASES = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "mvig-nas --help": [*CLI, "--help"],
    "start-up (imports of search, predictor loaded)": [
        sys.executable,
        "-c",
        "from mvig_nas import scores, shipped; from mvig_nas.latency import LatencyPredictor; import mvig_nas.study,"
        "mvig_nas.report; LatencyPredictor.load(shipped.predictor_folder('iphone-13-mini'))",
    ],
    "search --latency-budget 0.1ms": [*CLI, "search", "--latency-budget", "0.1ms"],
}


def main() -> None:
    """Print medians of interleaved runs, and their ratio to a bare interpreter."""
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(7):
        for name, command in CASES.items():
            began = time.perf_counter()
            subprocess.run(command, capture_output=True, check=False)
            times[name].append(time.perf_counter() - began)
    bare = statistics.median(times["python -c pass"])
    for name, values in times.items():
        seconds = statistics.median(values)
        print(f"{name:<50} {seconds:6.3f} s  {seconds / bare:6.1f} x a bare interpreter")


if __name__ == "__main__":
    main()
