"""``python -m fedpriv.cli``."""

import sys

from fedpriv.cli import main

sys.exit(main())
