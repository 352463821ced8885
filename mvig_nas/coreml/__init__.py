"""Core ML: export a network as an `.mlpackage`, read the saved package back, execute its program in torch, check it."""

from typing import TYPE_CHECKING

from mvig_nas.coreml.bulk_export import (
    MANIFEST,
    Bulk,
    BulkOptions,
    BulkProgress,
    Manifest,
    export_all,
    read_manifest,
)
from mvig_nas.coreml.compression import Compressed, Compression, compress
from mvig_nas.coreml.details import PackageDetails
from mvig_nas.coreml.export_options import ExportOptions, read_labels
from mvig_nas.coreml.exporting import Exported, ExportRequest, export_target
from mvig_nas.coreml.package import PREPROCESSING, Operation, operations
from mvig_nas.lazy import attributes_of

if TYPE_CHECKING:
    from mvig_nas.coreml.conversion import export, untrained
    from mvig_nas.coreml.evaluation import package_accuracy
    from mvig_nas.coreml.inspection import Finding, Inspection, inspect_package
    from mvig_nas.coreml.interpreter import execute
    from mvig_nas.coreml.verification import Comparison, Verification, verify

__all__ = [
    "MANIFEST",
    "PREPROCESSING",
    "Bulk",
    "BulkOptions",
    "BulkProgress",
    "Comparison",
    "Compressed",
    "Compression",
    "ExportOptions",
    "ExportRequest",
    "Exported",
    "Finding",
    "Inspection",
    "Manifest",
    "Operation",
    "PackageDetails",
    "Verification",
    "compress",
    "execute",
    "export",
    "export_all",
    "export_target",
    "inspect_package",
    "operations",
    "package_accuracy",
    "read_labels",
    "read_manifest",
    "untrained",
    "verify",
]

# Importing torch takes seconds, and what an export can be asked for is known without it.
__getattr__ = attributes_of(
    __name__,
    {
        "export": "conversion",
        "untrained": "conversion",
        "Finding": "inspection",
        "Inspection": "inspection",
        "inspect_package": "inspection",
        "execute": "interpreter",
        "Comparison": "verification",
        "Verification": "verification",
        "package_accuracy": "evaluation",
        "verify": "verification",
    },
)
