"""Kernel lists: what a network runs on a phone, in closed form from an Architecture or traced from any `nn.Module`."""

from typing import TYPE_CHECKING

from mvig_nas.kernels.closed_form import FORMS, Form, KernelBuilder, Section, of, sections
from mvig_nas.kernels.kernel import BYTES_PER_ELEMENT, NETWORK_INPUT, Kernel, Totals, peak_activation_bytes, totals
from mvig_nas.lazy import attributes_of

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

# torch takes seconds to import, and only the tracer needs it.
__getattr__ = attributes_of(__name__, {"trace": "tracing"})
