"""What a measurement is of: who, on what, which network."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Labels:
    """Who measured what on which phone, a row each."""

    chips: tuple[str, ...]
    devices: tuple[str, ...]
    groups: tuple[str, ...]  # (laboratory, device)
    families: tuple[str, ...]
    networks: tuple[str, ...]
