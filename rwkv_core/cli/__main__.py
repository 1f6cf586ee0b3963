"""`python -m rwkv_core.cli` is `rwkv-unet`."""

import sys

from rwkv_core.cli import main

sys.exit(main())
