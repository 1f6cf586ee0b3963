"""Operators with several backends; the reference backend is the definition."""

from rwkv_core.ops.biwkv import bi_wkv, bi_wkv_ordered

__all__ = ["bi_wkv", "bi_wkv_ordered"]
