"""Stub."""

from collections.abc import Iterable

from deploy.model.fleet import Context
from deploy.model.resources import Resource


def desired(ctx: Context) -> Iterable[Resource]:
    return ()


def leader(ctx, seen):
    return None
