"""Operators with several backends. Each has one public function; its reference backend is the definition."""

from rwkv_core.ops.biwkv import bi_wkv, bi_wkv_backends

__all__ = ["bi_wkv", "bi_wkv_backends"]
