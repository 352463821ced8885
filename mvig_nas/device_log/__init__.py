"""Device log: measured latencies, one JSON object a line. `docs/device_log.md` holds the schema."""

from mvig_nas.device_log.csv_import import Constants, read_csv
from mvig_nas.device_log.log_file import DeviceLog, Problem, append, inspect, merge, read, write
from mvig_nas.device_log.measurement import STATISTICS, Measurement, Network, Summary, summarise
from mvig_nas.device_log.subject import COMPUTE_UNITS, SCHEMA, Device, Package, TimmNetwork

__all__ = [
    "COMPUTE_UNITS",
    "SCHEMA",
    "STATISTICS",
    "Constants",
    "Device",
    "DeviceLog",
    "Measurement",
    "Network",
    "Package",
    "Problem",
    "Summary",
    "TimmNetwork",
    "append",
    "inspect",
    "merge",
    "read",
    "read_csv",
    "summarise",
    "write",
]
