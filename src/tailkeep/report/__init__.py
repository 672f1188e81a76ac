"""Draws an analysis: a self-contained page, its figures and its tables."""

from tailkeep.report.audit_page import write_audit_report
from tailkeep.report.page import write_report
from tailkeep.report.verdicts import HEADS, verdict_rows, verdict_table, verdict_text

__all__ = ["HEADS", "verdict_rows", "verdict_table", "verdict_text", "write_audit_report", "write_report"]
