"""Names of every kind: built-in ones and those of plugins, looked up in one way."""

from robustbench_dyn.plugins.card import Card, Kind, Weights
from robustbench_dyn.plugins.discovery import (
    Plugin,
    code_of,
    find_plugins,
    folders_in_use,
    hash_code,
    import_plugin,
    is_trusted,
    limit_plugins,
    limits_in_use,
    load_plugins,
    read_plugin,
    trust_plugins,
)
from robustbench_dyn.plugins.entries import from_plugins, subclass_of
from robustbench_dyn.plugins.foreign import (
    FactsOfStage,
    FactsOfThing,
    StandIn,
    process_of,
    stand_ins,
    start_process,
)
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
    "FactsOfStage",
    "FactsOfThing",
    "Kind",
    "Lazy",
    "Plugin",
    "Registry",
    "StandIn",
    "Weights",
    "code_of",
    "find_plugins",
    "folders_in_use",
    "from_plugins",
    "hash_code",
    "import_plugin",
    "is_trusted",
    "limit_plugins",
    "limits_in_use",
    "load_plugins",
    "parse_names",
    "process_of",
    "read_plugin",
    "stand_ins",
    "start_process",
    "subclass_of",
    "trust_plugins",
    "unknown",
]
