"""Kernel lists: what a network runs on a phone, in closed form from an Architecture or traced from any `nn.Module`."""

from typing import TYPE_CHECKING, Any

from mvig_nas.kernels.closed_form import FORMS, Form, KernelBuilder, Section, of, sections
from mvig_nas.kernels.kernel import BYTES_PER_ELEMENT, NETWORK_INPUT, Kernel, Totals, peak_activation_bytes, totals

if TYPE_CHECKING:
    from mvig_nas.kernels.tracing import trace

__all__ = [
    "BYTES_PER_ELEMENT",
    "FORMS",
    "NETWORK_INPUT",
    "Form",
    "Kernel",
    "KernelBuilder",
    "Section",
    "Totals",
    "of",
    "peak_activation_bytes",
    "sections",
    "totals",
    "trace",
]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and only the tracer needs it
    if name == "trace":
        from mvig_nas.kernels.tracing import trace

        return trace
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
