"""Commands and groups of commands: typer's, with help of our own and no option that is lost."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from robustbench_dyn.cli.help import help_of


class Command(TyperCommand):
    """A command that refuses an option which is given twice and takes one value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments; raises a usage error for what is wrong with them."""
        _refuse_repeated(self, ctx, args)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        formatter.write(help_of(self, ctx))


class Group(TyperGroup):
    """A group of commands."""

    command_class = Command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        formatter.write(help_of(self, ctx))


def _refuse_repeated(command: TyperCommand, context: Any, args: list[str]) -> None:
    """Raise a usage error where the last value of an option would win over others in silence."""
    # A shell completes what is not whole yet.
    if context.resilient_parsing:
        return
    _, _, order = command.make_parser(context).parse_args(args=[*args])
    param: Any
    for param in dict.fromkeys(order):
        # A flag that is given twice says the same twice; one that has an opposite may not.
        idempotent = getattr(param, "is_flag", False) and not param.secondary_opts
        if param.param_type_name == "argument" or param.multiple or idempotent:
            continue
        if order.count(param) > 1:
            raise typer.BadParameter(
                "it is given more than once, and takes one value; give it once",
                ctx=context,
                param=param,
            )
