"""`python -m rwkv_core.worker`: see `server`."""

import sys

from rwkv_core.worker.server import main

sys.exit(main())
