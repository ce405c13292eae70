"""Names of every kind: built-in ones and those of plugins, looked up in one way."""

from robustbench_dyn.plugins.card import Card, Kind, Weights
from robustbench_dyn.plugins.discovery import (
    Plugin,
    code_of,
    find_plugins,
    hash_code,
    import_plugin,
    is_trusted,
    load_plugins,
    read_plugin,
    trust_plugins,
)
from robustbench_dyn.plugins.entries import from_plugins, subclass_of
from robustbench_dyn.plugins.registry import (
    BUILT_IN,
    Entry,
    Lazy,
    Registry,
    parse_names,
    unknown,
)

__all__ = [
    "BUILT_IN",
    "Card",
    "Entry",
    "Kind",
    "Lazy",
    "Plugin",
    "Registry",
    "Weights",
    "code_of",
    "find_plugins",
    "from_plugins",
    "hash_code",
    "import_plugin",
    "is_trusted",
    "load_plugins",
    "parse_names",
    "read_plugin",
    "subclass_of",
    "trust_plugins",
    "unknown",
]
