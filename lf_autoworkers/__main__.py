"""``python -m lf_autoworkers``: the command without its script."""

import sys

from lf_autoworkers.cli import main

sys.exit(main())
