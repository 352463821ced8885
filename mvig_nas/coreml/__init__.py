"""Core ML: export a network as an `.mlpackage`, read the saved package back, execute its program in torch, check it."""

from mvig_nas.coreml.bulk import MANIFEST, Bulk, BulkOptions, BulkProgress, export_all, read_manifest
from mvig_nas.coreml.compare import PREPROCESSING, Comparison, package_accuracy
from mvig_nas.coreml.conversion import export, read_labels, untrained
from mvig_nas.coreml.interpreter import execute
from mvig_nas.coreml.package import Operation, operations
from mvig_nas.coreml.verification import Verification, verify

__all__ = [
    "MANIFEST",
    "PREPROCESSING",
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
    "package_accuracy",
    "read_labels",
    "read_manifest",
    "untrained",
    "verify",
]
