"""Core ML: export a network as an `.mlpackage`, read the saved package back, execute its program in torch, check it."""

from mvig_nas.coreml._bulk import MANIFEST, Bulk, BulkOptions, BulkProgress, export_all, read_manifest
from mvig_nas.coreml._compare import Comparison
from mvig_nas.coreml._execute import execute
from mvig_nas.coreml._export import export, read_labels, untrained
from mvig_nas.coreml._package import Operation, operations
from mvig_nas.coreml._verify import Verification, verify

__all__ = [
    "MANIFEST",
    "Bulk",
    "BulkOptions",
    "BulkProgress",
    "Comparison",
    "Operation",
    "Verification",
    "execute",
    "export",
    "export_all",
    "operations",
    "read_labels",
    "read_manifest",
    "untrained",
    "verify",
]
