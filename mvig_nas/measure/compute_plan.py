"""Where Core ML places a model's operations, as shares of the work that it estimates for each."""

from collections import Counter
from typing import Any

_UNITS = {
    "MLCPUComputeDevice": "cpu",
    "MLGPUComputeDevice": "gpu",
    "MLNeuralEngineComputeDevice": "neural-engine",
}
_DIGITS = 4


def placement(plan: Any) -> dict[str, float]:
    """Shares of a model's estimated cost on `cpu`, `gpu` and `neural-engine`, largest first; they add up to 1.

    Empty where the plan says nothing: no ML program, no costs, or a compute unit that is unknown here.

    Args:
        plan: coremltools' `MLComputePlan`, of this computer or of a connected phone.
    """
    program = plan.model_structure.program
    if program is None or "main" not in program.functions:
        return {}
    costs: Counter[str] = Counter()
    for operation in program.functions["main"].block.operations:
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
        if usage is None or cost is None:
            continue  # constants run nowhere
        unit = _UNITS.get(type(usage.preferred_compute_device).__name__)
        if unit is None:
            return {}
        costs[unit] += cost.weight
    total = sum(costs.values())
    return {unit: round(cost / total, _DIGITS) for unit, cost in costs.most_common()} if total > 0 else {}
