"""`python -m geoloc` is the command line."""

from __future__ import annotations

import sys

from geoloc.cli import main

sys.exit(main())
