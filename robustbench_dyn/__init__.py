"""robustbench-dyn brackets the robustness of networks between attacks and certificates."""

__version__ = "0.1.0"
