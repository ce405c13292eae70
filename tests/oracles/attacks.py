"""Attacks made of functions."""

from robustbench_dyn.attacks import Attack


def attack_of(perturb, *, name="made-up", **facts):
    """Return an attack whose candidates are perturb(problem); facts: its class variables."""
    body = {"name": name, "perturb": lambda _self, problem: perturb(problem), **facts}
    return type("MadeUp", (Attack,), body)()
