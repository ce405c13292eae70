"""The leaderboards as a static site: tables, a page for each model, curves and comparisons."""

from robustbench_dyn.reporting.page.site import check_site, write_page

__all__ = ["check_site", "write_page"]
