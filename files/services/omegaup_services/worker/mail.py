"""NotificationQueue: mail about events, handed to a relay.

The row of the event is inserted first and committed once the relay has taken the mail, so that a second delivery of
the event finds it, and one that comes at the same time waits for the first.

What is promised: at least one mail for each event whose message was not dead-lettered, all of them with one Message-ID;
and one only, however often the message comes, unless the relay had the mail and this was not recorded. That is so when
the process or its host dies between the relay's 250 and the commit; when the 250 itself is lost on its way; when the
commit fails and another worker gets the message before this one has tried again; when a failover of the database loses
the commit. SMTP has nothing that would close this gap.
"""

from __future__ import annotations

import contextlib
import logging
import smtplib
import ssl
from collections import OrderedDict
from collections.abc import Callable
from email.message import EmailMessage
from email.utils import formatdate
from typing import Protocol

import pymysql

from ..config import Mail, Mysql
from ..database import BadValue, Connection, DatabaseDown, Session
from ..logs import fields
from .consumer import Handle, Invalid, NotNow
from .messages import MailRequest, mail_request

log = logging.getLogger(__name__)

REMEMBERED = 1000
"""Events whose mail is sent and whose row is not committed yet; there is one at a time, unless the database is away."""
DUPLICATE_KEY = 1062


class MailStore(Protocol):
    def once(self, request: MailRequest, send: Callable[[], None]) -> bool:
        """Call `send` unless this event's mail is known to have been sent; whether it is new. Raises DatabaseDown."""


class MysqlMails:
    """Store over table Mails_Sent (sql/)."""

    def __init__(self, config: Mysql) -> None:
        self._session = Session(config)
        self._sent: OrderedDict[str, None] = OrderedDict()

    def once(self, request: MailRequest, send: Callable[[], None]) -> bool:
        def work(connection: Connection) -> bool:
            with connection.cursor() as cursor:
                try:
                    cursor.execute(
                        "INSERT INTO Mails_Sent (event_id, recipient) VALUES (%s, %s)",
                        (request.event_id, request.to),
                    )
                except pymysql.err.IntegrityError as error:
                    if error.args[0] != DUPLICATE_KEY:
                        raise
                    return False
            # The transaction may be run again after a commit that failed: the mail may not.
            if request.event_id not in self._sent:
                send()
                self._sent[request.event_id] = None
                if len(self._sent) > REMEMBERED:
                    self._sent.popitem(last=False)
            return True

        return self._session.run(work)


class Relay:
    """The mail server that takes what we send."""

    def __init__(self, config: Mail) -> None:
        self._config = config

    def send(self, request: MailRequest) -> None:
        """Raises NotNow, or Invalid when the relay will never take it."""
        message = self._message(request)
        try:
            smtp = self._connect()
            try:
                smtp.send_message(message)
            except BaseException:
                smtp.close()
                raise
        except smtplib.SMTPRecipientsRefused as error:
            [(code, text)] = error.recipients.values()
            raise _refusal("recipient", code, text) from None
        except smtplib.SMTPSenderRefused as error:
            # Ours to mend, whatever the code.
            raise NotNow(f"mail relay: sender refused: {error.smtp_code} {_text(error.smtp_error)}") from None
        except smtplib.SMTPDataError as error:
            raise _refusal("message", error.smtp_code, error.smtp_error) from None
        except smtplib.SMTPNotSupportedError as error:
            raise Invalid(f"mail relay: {error}") from None
        except (smtplib.SMTPException, OSError) as error:
            raise NotNow(f"mail relay: {str(error) or type(error).__name__}") from None
        # It has the mail: what goes wrong with the farewell must not make it be sent again.
        with contextlib.suppress(smtplib.SMTPException, OSError):
            smtp.quit()

    def _connect(self) -> smtplib.SMTP:
        config = self._config
        if config.tls == "tls":
            return smtplib.SMTP_SSL(
                config.host, config.port, timeout=config.timeout_seconds, context=ssl.create_default_context()
            )
        smtp = smtplib.SMTP(config.host, config.port, timeout=config.timeout_seconds)
        if config.tls == "starttls":
            smtp.starttls(context=ssl.create_default_context())
        return smtp

    def _message(self, request: MailRequest) -> EmailMessage:
        message = EmailMessage()
        message["From"] = self._config.sender
        message["To"] = request.to
        message["Subject"] = request.subject
        message["Date"] = formatdate(request.timestamp)
        message["Message-ID"] = f"<{request.event_id}@{self._config.sender.rpartition('@')[2]}>"
        # Nobody's holiday notice is to answer a machine.
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(request.body)
        return message


def _refusal(what: str, code: int, text: bytes | str) -> Exception:
    words = f"mail relay: {what} refused: {code} {_text(text)}"
    return Invalid(words) if code >= 500 else NotNow(words)


def _text(text: bytes | str) -> str:
    return text.decode(errors="replace") if isinstance(text, bytes) else text


def mails(store: MailStore, relay: Relay) -> Handle:
    """Handler of NotificationQueue."""

    def handle(body: bytes, breathe: Callable[[], None]) -> None:
        request = mail_request(body)
        try:
            sent = store.once(request, lambda: relay.send(request))
        except DatabaseDown as error:
            raise NotNow(f"mysql: {error}") from None
        except BadValue as error:
            raise Invalid(f"mysql refuses a value: {error}") from None
        log.info("mail" if sent else "mail was sent before", extra=fields(event=request.event_id))

    return handle
