"""This computer's chip and system, for the log."""

import platform
import subprocess
from pathlib import Path

UNKNOWN = "unknown"
MACOS = "Darwin"
_LONGEST = 200


def chip() -> str:
    """The CPU's name as the system tells it."""
    if platform.system() == MACOS:
        return sysctl("machdep.cpu.brand_string")
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return printable(platform.processor())
    names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return printable(names[0] if names else platform.machine())


def system() -> tuple[str, str]:
    """Operating system and its version: `macOS` with its own, else the kernel's."""
    if platform.system() == MACOS:
        return "macOS", printable(platform.mac_ver()[0])
    return printable(platform.system()), printable(platform.release())


def sysctl(name: str) -> str:
    """One of macOS's system values."""
    done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, check=False)
    return printable(done.stdout)


def printable(text: str) -> str:
    """A text that a log takes."""
    plain = " ".join("".join(each for each in text if each.isprintable() or each.isspace()).split())
    return plain[:_LONGEST].strip() or UNKNOWN
