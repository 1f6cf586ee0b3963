"""`python -m rwkv_core.cli` is `rwkv-unet`."""

from rwkv_core.cli import run_process

run_process()
