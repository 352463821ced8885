"""Core ML: export a network as an `.mlpackage`, read the saved package back and check it. Nothing here runs one."""

from mvig_nas.coreml._export import export, read_labels, untrained
from mvig_nas.coreml._package import Operation, operations
from mvig_nas.coreml._verify import Verification, verify

__all__ = ["Operation", "Verification", "export", "operations", "read_labels", "untrained", "verify"]
