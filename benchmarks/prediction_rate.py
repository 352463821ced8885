"""Batch latency prediction: architectures a second on one core, against predicting from whole kernel lists.

Run: OMP_NUM_THREADS=1 python -m benchmarks.prediction_rate
Budget: 10,000 architectures/s. `first` includes computing the features of blocks never seen before, `again` finds them
remembered, as a search does after its first seconds.
"""

import argparse
import random
import statistics
import time

import numpy as np

from mvig_nas import kernels, shipped
from mvig_nas.latency import ArchitectureLatency, LatencyPredictor
from mvig_nas.search_space import SearchSpace


def main() -> None:
    """Print the rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    predictor = LatencyPredictor.load(shipped.predictor_folder("iphone-13-mini"))
    print(
        f"{'space':<14} {'first /s':>10} {'again /s':>10} {'lists /s':>10} {'again/lists':>12} {'max difference':>15}"
    )
    for name in shipped.space_names():
        space = SearchSpace.from_toml(shipped.space_path(name))
        rng = random.Random(arguments.seed)
        latency = ArchitectureLatency(predictor)
        rates = []
        for _ in range(4):
            # Drawn anew each time, so that only blocks can be remembered, not networks.
            drawn = [space.sample(rng) for _ in range(arguments.number)]
            began = time.perf_counter()
            predicted_ms = latency.predict_ms(drawn)
            rates.append(arguments.number / (time.perf_counter() - began))
        few = drawn[:200]
        began = time.perf_counter()
        whole_ms = predictor.predict_ms([kernels.of(architecture, "exported") for architecture in few])
        lists = len(few) / (time.perf_counter() - began)
        again = statistics.median(rates[1:])
        difference = float(np.max(np.abs(predicted_ms[:200] - whole_ms)))
        print(f"{name:<14} {rates[0]:>10.0f} {again:>10.0f} {lists:>10.0f} {again / lists:>12.1f} {difference:>15.1e}")


if __name__ == "__main__":
    main()
