"""``python -m saga_cli``."""

import sys

from saga_cli.main import main

sys.exit(main())
