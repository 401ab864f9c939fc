"""
Writes the repository that later releases must be able to read: ``python tests/compat/make_repository.py``.

Run it again only while the format has not been released: what it wrote stays for ever, and a new format gets a
directory of its own.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))

from compat_repository import write_repository

if __name__ == "__main__":
    write_repository()
