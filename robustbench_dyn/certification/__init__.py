"""Proofs of robustness: Lipschitz bounds, relaxations, semidefinite bounds, branch and bound."""
