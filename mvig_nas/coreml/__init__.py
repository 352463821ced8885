"""Core ML: export a network as an `.mlpackage`, read the saved package back, execute its program in torch, check it."""

from typing import TYPE_CHECKING, Any

from mvig_nas.coreml.exporting import (
    MANIFEST,
    Bulk,
    BulkOptions,
    BulkProgress,
    Exported,
    ExportRequest,
    Manifest,
    export_all,
    export_target,
    read_manifest,
)
from mvig_nas.coreml.package import PREPROCESSING, ExportOptions, Operation, operations, read_labels

if TYPE_CHECKING:
    from mvig_nas.coreml.conversion import export, untrained
    from mvig_nas.coreml.interpreter import execute
    from mvig_nas.coreml.verification import Comparison, Verification, package_accuracy, verify

__all__ = [
    "MANIFEST",
    "PREPROCESSING",
    "Bulk",
    "BulkOptions",
    "BulkProgress",
    "Comparison",
    "ExportOptions",
    "ExportRequest",
    "Exported",
    "Manifest",
    "Operation",
    "Verification",
    "execute",
    "export",
    "export_all",
    "export_target",
    "operations",
    "package_accuracy",
    "read_labels",
    "read_manifest",
    "untrained",
    "verify",
]

_MODULES = {
    "export": "conversion",
    "untrained": "conversion",
    "execute": "interpreter",
    "Comparison": "verification",
    "Verification": "verification",
    "package_accuracy": "verification",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds, and what an export can be asked for is known without it.
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"mvig_nas.coreml.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
