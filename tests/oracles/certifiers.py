"""Certifiers that prove what a test says."""

from robustbench_dyn.certification.base import Certifier, Phase, PreparedCertifier


def proving(name, prove, *, phase=Phase.BEFORE_ATTACKS):
    """Return a certifier whose proofs are those of prove(state, x, logits, y, threat_model)."""
    body = {
        "name": name,
        "description": "",
        "phase": phase,
        "prepare": lambda self, model, input_shape, *, strict_rounding=False: None,
        "prove": lambda self, *query: prove(*query),
    }
    return PreparedCertifier(type("Proving", (Certifier,), body)(), None)


def amended(prepared, prove):
    """Return the same certifier, with proofs of prove(prepared, x, logits, y, threat_model)."""
    body = {"prove": lambda self, state, *query: prove(prepared, *query)}
    kind = type("Amended", (type(prepared.certifier),), body)
    return PreparedCertifier(kind(**prepared.certifier.settings()), prepared.state)
