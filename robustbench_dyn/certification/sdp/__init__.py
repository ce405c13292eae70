"""Semidefinite bounds of Lipschitz constants (LipSDP)."""
