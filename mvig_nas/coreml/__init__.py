"""Core ML: export a network as an `.mlpackage`, read the saved package back, execute its program in torch, check it."""

from mvig_nas.coreml._compare import Comparison
from mvig_nas.coreml._execute import execute
from mvig_nas.coreml._export import export, read_labels, untrained
from mvig_nas.coreml._package import Operation, operations
from mvig_nas.coreml._verify import Verification, verify

__all__ = [
    "Comparison",
    "Operation",
    "Verification",
    "execute",
    "export",
    "operations",
    "read_labels",
    "untrained",
    "verify",
]
