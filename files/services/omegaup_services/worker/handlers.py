"""Which handler a queue's messages get."""

from __future__ import annotations

from ..config import WorkerConfig
from ..schema import ConfigError
from .analytics import MysqlAnalytics, analytics
from .certificates import MysqlCertificates, certificates
from .consumer import Handle
from .mail import MysqlMails, Relay, mails


def handler_for(config: WorkerConfig) -> Handle:
    """Raises ConfigError when the database's TLS files are unusable, or what a queue needs is not configured."""
    match config.queue:
        case "ContestQueue":
            try:
                from .pdf import render
            except (ImportError, ValueError) as error:
                raise ConfigError(f"certificates need python3-gi-cairo and gir1.2-pango-1.0: {error}") from None
            return certificates(MysqlCertificates(config.mysql, render))
        case "NotificationQueue" if config.mail is not None:
            return mails(MysqlMails(config.mysql), Relay(config.mail))
        case "AnalyticsQueue":
            return analytics(MysqlAnalytics(config.mysql))
        case _:
            raise ConfigError(f"queue: nothing is known of what to do with {config.queue}")
