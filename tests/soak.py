"""`make soak`: the reliability tests at their full size. Hours, not minutes.

python tests/soak.py            everything that reads IP2P_SOAK
python tests/soak.py -k kill    as pytest selects
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    os.environ["IP2P_SOAK"] = "1"
    here = Path(__file__).parent
    files = sorted(path for path in here.rglob("test_*.py") if re.search(r"\bmany\(", path.read_text("utf-8")))
    raise SystemExit(pytest.main(["-v", "--timeout=21600", *map(str, files), *sys.argv[1:]]))
