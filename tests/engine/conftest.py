"""Lets tests import the helper modules beside them: pytest's import mode leaves ``sys.path`` as it is."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
