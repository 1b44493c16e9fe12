"""Benchmarks: `python -m tests.bench [NAME ...] [--quick]`, from the repository's root."""

import sys
from pathlib import Path

# Where pytest finds the brokers of the tests, and what those import.
sys.path.insert(0, str(Path(__file__).parent.parent))
