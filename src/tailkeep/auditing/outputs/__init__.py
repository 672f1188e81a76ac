"""What an audit is written as for people and CI systems: text, JSON, SARIF, JUnit. Pure functions of the analysis."""

from tailkeep.auditing.outputs.as_json import as_json
from tailkeep.auditing.outputs.junit import as_junit
from tailkeep.auditing.outputs.sarif import as_sarif
from tailkeep.auditing.outputs.sentences import exit_code
from tailkeep.auditing.outputs.text import as_text

__all__ = ["as_json", "as_junit", "as_sarif", "as_text", "exit_code"]
