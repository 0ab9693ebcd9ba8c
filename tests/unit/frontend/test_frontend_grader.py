"""POST /submit and GET /submission/ID: the client certificate, both sides' refusals, and what a client is told."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.unit.frontend.fakes import Authority
from tests.unit.frontend.support import Shared, World

SUBMISSION = {"problem": "sumas", "language": "py3", "source": "print(sum(map(int, input().split())))  # ñ"}


def test_submit_presents_our_certificate(world: World) -> None:
    grader = world.grader()
    grader.answers["/submission/new"] = (200, {"status": "ok", "id": "abc"})
    answer = world.site().post("/submit", SUBMISSION)
    assert (answer.status, answer.json) == (202, {"status": "ok", "id": "abc"})
    [seen] = grader.seen
    assert (seen.method, seen.peer, seen.content_type) == ("POST", "frontend", "application/json")
    assert len(seen.body.pop("submission_id")) == 32
    assert seen.body == SUBMISSION


def test_form_and_own_id(world: World) -> None:
    grader = world.grader()
    grader.answers["/submission/new"] = (200, {"id": "mine"})
    site = world.site()
    assert site.post("/submit", form="problem=sumas&language=cpp17-gcc&source=int%20main(){}").status == 202
    assert site.post("/submit", {**SUBMISSION, "submission_id": "mine"}).status == 202
    assert grader.seen[0].body["source"] == "int main(){}"
    assert grader.seen[1].body["submission_id"] == "mine"


def test_grader_of_another_authority_is_refused(world: World, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "other CA")
    grader = world.grader(pair=other.server())
    answer = world.site().post("/submit", SUBMISSION)
    assert answer.status == 502
    assert answer.json["error"] == "grader: TLS failure"
    assert grader.seen == []


def test_grader_with_another_name_is_refused(world: World) -> None:
    grader = world.grader(pair=world.authority.server("elsewhere", "127.0.0.2"))
    assert world.site().post("/submit", SUBMISSION).json["error"] == "grader: TLS failure"
    assert grader.seen == []


def test_grader_whose_certificate_was_revoked_is_refused(world: World) -> None:
    pair = world.authority.server()
    grader = world.grader(pair=pair)
    grader.answers["/submission/status/a"] = (200, {"state": "new"})
    site = world.site()
    assert site.get("/submission/a").status == 200
    seen = len(grader.seen)
    serial = x509.load_pem_x509_certificate(pair[0].read_bytes()).serial_number
    world.authority.revoke(serial)
    assert site.get("/submission/a").status == 502
    assert len(grader.seen) == seen
    world.authority.revoke()
    assert site.get("/submission/a").status == 200
    # A list that is gone is no leave to trust everybody.
    (world.authority.directory / "ca.crl").unlink()
    try:
        assert site.get("/submission/a").status == 502
    finally:
        world.authority.revoke()


def test_a_renewal_between_key_and_certificate_fails_no_request(world: World, tmp_path: Path) -> None:
    grader = world.grader()
    grader.answers["/submission/status/a"] = (200, {"state": "new"})
    mine = tmp_path / "mine"
    shutil.copytree(world.authority.directory, mine)
    pairs = [tuple(path.read_bytes() for path in world.authority.client(name)) for name in ("first", "second")]
    site = world.site(OMEGAUP_SSL_DIR=str(mine))
    for certificate, key in (*pairs, *pairs):
        (mine / "frontend.key").write_bytes(key)
        late = threading.Timer(0.02, (mine / "frontend.crt").write_bytes, (certificate,))
        late.start()
        assert site.get("/submission/a").status == 200
        late.join()


def test_grader_that_does_not_trust_us(world: World, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "other CA")
    grader = world.grader(trusted=other.directory / "ca.crt")
    answer = world.site().post("/submit", SUBMISSION)
    # The peer's reset can overtake its alert (TLS 1.3), and then nobody can say why the connection ended.
    assert answer.status == 502
    assert answer.json["error"] in ("grader: TLS failure", "grader: connection lost")
    assert grader.seen == []


def test_rotated_certificate_is_used_without_restart(world: World, tmp_path: Path) -> None:
    grader = world.grader()
    grader.answers["/submission/status/a"] = (200, {"state": "new"})
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("ca.crt", "ca.crl"):
        (mine / name).write_bytes((world.authority.directory / name).read_bytes())
    site = world.site(OMEGAUP_SSL_DIR=str(mine))
    for name in ("first", "second"):
        certificate, key = world.authority.client(name)
        (mine / "frontend.crt").write_bytes(certificate.read_bytes())
        (mine / "frontend.key").write_bytes(key.read_bytes())
        assert site.get("/submission/a").status == 200
    assert [seen.peer for seen in grader.seen] == ["first", "second"]


def test_no_grader(world: World) -> None:
    answer = world.site().post("/submit", {**SUBMISSION, "submission_id": "again"})
    assert answer.status == 503
    assert answer.json == {"status": "error", "error": "grader: connection refused", "submission_id": "again"}


@pytest.mark.parametrize(
    ("theirs", "body", "ours", "error"),
    [
        (404, {"error": "no such submission"}, 404, "no such submission"),
        (409, {"error": "submission_id: exists with other contents"}, 409, "submission_id: exists with other contents"),
        (403, {"error": "role none may not call this"}, 502, "grader: HTTP 403"),
        (503, {"error": "mysql: gone away at 10.0.0.7"}, 503, "grader: not ready"),
        (500, b"Traceback", 502, "grader: HTTP 500"),
        (200, b"<html>", 502, "grader: the answer is not JSON"),
        (302, b"", 502, "grader: HTTP 302"),
    ],
)
def test_answers_of_the_grader(shared: Shared, theirs: int, body: Any, ours: int, error: str) -> None:
    shared.grader.answers["/submission/status/x"] = (theirs, body)
    answer = shared.site.get("/submission/x")
    assert (answer.status, answer.json["error"]) == (ours, error)


def test_status(world: World) -> None:
    grader = world.grader()
    grader.answers["/submission/status/a.b-1"] = (
        200,
        {"status": "ok", "id": "a.b-1", "state": "ready", "verdict": "AC"},
    )
    answer = world.site().get("/submission/a.b-1")
    assert (answer.status, answer.json["verdict"]) == (200, "AC")
    assert grader.seen[0].method == "GET"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({**SUBMISSION, "problem": "../etc"}, 422),
        ({**SUBMISSION, "language": ["py3"]}, 422),
        ({**SUBMISSION, "source": ""}, 422),
        ({**SUBMISSION, "source": "a" * 131073}, 413),
        ([SUBMISSION], 400),
        (b"{", 400),
        (b'{"problem": "a", "language": "b", "source": "\xff"}', 400),
        (b'"' + b"a" * 900_000 + b'"', 413),
    ],
)
def test_bad_submissions_do_not_reach_the_grader(shared: Shared, body: Any, status: int) -> None:
    answer = shared.site.post("/submit", body)
    assert (answer.status, answer.json["status"]) == (status, "error")
    assert shared.grader.seen == []


def test_type_of_the_body(shared: Shared) -> None:
    assert shared.site.post("/submit", b"x", headers={"Content-Type": "text/plain"}).status == 415


class Recovering(dict[str, tuple[int, Any]]):
    """Answers 503 a few times, then what it has."""

    away = 4

    def get(self, path: str, default: Any = None) -> Any:
        self.away -= 1
        return (503, {"error": "not ready"}) if self.away > 0 else super().get(path, default)


def test_a_request_waits_for_a_part_that_is_away_for_a_moment(world: World) -> None:
    """As in a failover: the first tries fail, and the client is not told; what is sent again is the same submission."""
    grader = world.grader()
    grader.answers = Recovering({"/submission/new": (202, {"status": "ok", "id": "abc"})})
    answer = world.site(OMEGAUP_PATIENCE_SECONDS=8).post("/submit", SUBMISSION)
    assert (answer.status, answer.json["id"]) == (202, "abc")
    assert len(grader.seen) == 4
    assert len({seen.body["submission_id"] for seen in grader.seen}) == 1


def test_patience_ends_and_a_refusal_is_told_at_once(world: World) -> None:
    grader = world.grader()
    site = world.site(OMEGAUP_PATIENCE_SECONDS=1)
    grader.answers["/submission/new"] = (503, {"error": "not ready"})
    assert site.post("/submit", SUBMISSION).status == 503
    tries = len(grader.seen)
    assert tries > 1
    grader.answers["/submission/new"] = (422, {"error": "unknown language"})
    assert site.post("/submit", SUBMISSION).status == 422
    assert len(grader.seen) == tries + 1


def test_without_a_grader_the_queue_takes_it(world: World) -> None:
    broker = world.broker()
    site = world.site()
    answer = site.post("/submit", {**SUBMISSION, "submission_id": "mine", "contest": "omi"})
    assert (answer.status, answer.json) == (202, {"status": "queued", "id": "mine"})
    [message] = broker.published
    assert (message.exchange, message.routing_key) == ("submissions", "SubmissionQueue")
    assert (message.delivery_mode, message.mandatory, message.confirms) == (2, True, True)
    assert message.body == {**SUBMISSION, "submission_id": "mine", "contest": "omi"}


def test_what_the_grader_refuses_is_not_queued(world: World) -> None:
    broker, grader = world.broker(), world.grader()
    grader.answers["/submission/new"] = (400, {"status": "error", "error": "source: too long"})
    assert world.site().post("/submit", SUBMISSION).status == 400
    assert broker.published == []


@pytest.mark.parametrize("mode", ["nack", "return", "silent"])
def test_neither_grader_nor_queue(world: World, mode: str) -> None:
    world.broker(mode=mode)
    answer = world.site().post("/submit", {**SUBMISSION, "submission_id": "again"})
    assert answer.status == 503
    assert answer.json == {"status": "error", "error": "grader: connection refused", "submission_id": "again"}
