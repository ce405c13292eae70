"""Files that ship with the package: of a checkout, or inside an installed wheel."""

from __future__ import annotations

from pathlib import Path


def shipped(name: str) -> Path:
    """Return the folder `plugins` or `leaderboards`, of a checkout or of an installed wheel."""
    package = Path(__file__).parent
    inside = package / "_shipped" / name
    return inside if inside.is_dir() else package.parent / name
