"""The release gate: rules on a run's scores -> pass, fail or inconclusive; exit code, JUnit XML, Markdown."""

from evalkit.gate.judge import judge
from evalkit.gate.outputs import announce, remove, write
from evalkit.gate.rules import Gate, make_gates
from evalkit.gate.verdict import Result, Verdict

__all__ = ["Gate", "Result", "Verdict", "announce", "judge", "make_gates", "remove", "write"]
