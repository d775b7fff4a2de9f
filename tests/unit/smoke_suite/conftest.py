"""The suite in `smoke/` is no package: Python puts its folder on the path, as it does here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "smoke"))
