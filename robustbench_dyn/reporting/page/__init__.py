"""The leaderboards as a static site: tables, a page for each model, curves and comparisons."""

from robustbench_dyn.reporting.page.site import write_page

__all__ = ["write_page"]
