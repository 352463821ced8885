"""Many mutations of every reader in one process, with a log that another call goes on from.

    python -m tests.hostile.campaign LOG [--seeds 10000] [--until HH:MM] [--readers READER ...]
    python -m tests.hostile.campaign LOG --table

A line of the log is a JSON object: a reader, the mutations done, and those that failed, by seed. A reader whose code
was mended begins anew where its lines are removed from the log.
"""

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

from mvig_nas.files import append
from tests.hostile.judging import Work
from tests.hostile.readers import READERS, Reader

STEP = 200  # mutations between two lines of the log


def main() -> None:
    """Parse, and try the readers in the order in which they are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--until", default="99:99", help="stop at this time of the day")
    parser.add_argument("--readers", nargs="*", help="in this order; all of them if left out")
    parser.add_argument("--table", action="store_true", help="print what the log holds, and try nothing")
    asked = parser.parse_args()
    if asked.table:
        print(table(asked.log))
        return
    warnings.simplefilter("ignore")
    known = {reader.name: reader for reader in READERS}
    for name in asked.readers or known:
        try_reader(known[name], asked.seeds, asked.log, asked.until)


def table(log: Path) -> str:
    """Mutations tried and failed, reader by reader, as Markdown."""
    tried: dict[str, int] = {}
    failed: dict[str, set[str]] = {}
    for line in map(json.loads, log.read_text().splitlines()):
        tried[line["reader"]] = max(tried.get(line["reader"], 0), line["done"])
        failed.setdefault(line["reader"], set()).update(line["failed"])
    files = {reader.name: Path(reader.file).name for reader in READERS}
    rows = [(name, f"`{files[name]}`", f"{tried[name]:,}", len(failed[name])) for name in files if name in tried]
    rows.append(("all", "", f"{sum(tried.values()):,}", sum(map(len, failed.values()))))
    head = ("reader", "file made wrong", "tried", "failed")
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, ("---",) * len(head), *rows))


def try_reader(reader: Reader, seeds: int, log: Path, until: str = "99:99") -> None:
    """Go on with a reader where the log ends."""
    done = 0
    if log.exists():
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        done = max((line["done"] for line in lines if line["reader"] == reader.name), default=0)
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        if done < seeds:
            work = Work(reader, Path(folder))
        while done < seeds and time.strftime("%H:%M") < until:
            begun = time.process_time()
            failed = {}
            for seed in range(done, min(done + STEP, seeds)):
                failure = work.failure(seed)
                if failure is not None:
                    failed[seed] = failure
            done = min(done + STEP, seeds)
            line = {"reader": reader.name, "done": done, "failed": failed, "cpu_s": time.process_time() - begun}
            append(log, json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
