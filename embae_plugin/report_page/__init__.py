"""One HTML page that shows a target before and after adaptation; opens from the disk, alone."""

from __future__ import annotations

from embae_plugin.report_page.content import Settings, gather
from embae_plugin.report_page.html_page import render, write_page
from embae_plugin.report_page.pairing import Pair, read_pair

__all__ = ["Pair", "Settings", "gather", "read_pair", "render", "write_page"]
