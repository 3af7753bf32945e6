"""A study on a local port: the page, its clips, and answers that are on the disk before the viewer sees the next screen.

    GET  /                    the page            GET /clips/NAME    a clip, whole or a range
    POST /api/join            {participant?}  ->  {participant, sheet, answers}
    POST /api/answer          an Answer       ->  {}

Only files listed when the server starts can be asked for; nothing of a request ever becomes a path.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from motionloom.errors import InputError, ResourceError
from motionloom.study.files import (
    ANSWERS,
    CLIPS,
    PAGE,
    PARTICIPANT,
    VIEWER,
    Answer,
    Joined,
    Key,
    Sheet,
    append_line,
    problem_of,
    read_key,
    read_sheet,
)

MAX_BODY_BYTES = 4096
MAX_PARTICIPANTS = 10_000
TIMEOUT_SECONDS = 30
LOCAL = ("127.0.0.1", "localhost", "::1")
TYPES = {".mp4": "video/mp4", ".png": "image/png"}
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; media-src 'self'; "
POLICY += "img-src 'self' data:; connect-src 'self'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
}
_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")


class Refused(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class Study:
    """The state behind the server: who has joined, and what each has answered."""

    def __init__(self, folder: Path) -> None:
        self.key: Key = read_key(folder)
        self.answers = folder / ANSWERS
        self.answers.mkdir(exist_ok=True)
        viewer = folder / VIEWER
        self.files: Mapping[str, Path] = {"/": viewer / PAGE} | {
            f"/{CLIPS}/{path.name}": path for path in (viewer / CLIPS).iterdir() if path.suffix in TYPES
        }
        if not (viewer / PAGE).is_file():
            raise InputError(f'the study "{folder}" has no {VIEWER}/{PAGE}', fix="build the study again")
        self.lock = threading.Lock()
        self.sheets: dict[str, Sheet] = {}
        for file in sorted(self.answers.glob("*.jsonl")):
            try:
                sheet = read_sheet(file, self.key)
            except InputError:
                continue  # `analyse` names it
            self.sheets[sheet.joined.participant] = sheet

    def join(self, participant: object) -> dict[str, Any]:
        """A known participant continues; anyone else gets the next sheet."""
        with self.lock:
            if not isinstance(participant, str) or participant not in self.sheets:
                participant = self._new()
            sheet = self.sheets[participant]
            given = [
                {"screen": a.screen, "question": a.question, "choice": a.choice}
                for a in sheet.answers.values()
            ]
            return {"participant": participant, "sheet": sheet.joined.sheet, "answers": given}

    def _new(self) -> str:
        if len(self.sheets) >= MAX_PARTICIPANTS:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "this study is full")
        token = secrets.token_hex(8)
        joined = Joined(
            study=self.key.study,
            participant=token,
            sheet=len(self.sheets) % len(self.key.sheets),
            consent=True,
        )
        append_line(self.answers / f"{token}.jsonl", joined)
        self.sheets[token] = Sheet(joined, [])
        return token

    def answer(self, answer: Answer) -> None:
        with self.lock:
            sheet = self.sheets.get(answer.participant)
            if sheet is None or not PARTICIPANT.fullmatch(answer.participant):
                raise Refused(HTTPStatus.NOT_FOUND, "nobody of this name has joined")
            if problem := problem_of(answer, sheet.joined, self.key):
                raise Refused(HTTPStatus.BAD_REQUEST, problem)
            append_line(self.answers / f"{answer.participant}.jsonl", answer)
            sheet.add(answer)


class _Handler(BaseHTTPRequestHandler):
    server: StudyServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "MotionLoom", ""
    timeout = TIMEOUT_SECONDS

    def do_GET(self) -> None:
        self._answer_with(self._get)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer_with(self._post)

    def _answer_with(self, handle: Any) -> None:
        try:
            self._check_host()
            handle()
        except Refused as problem:
            self.close_connection = True
            self._send(problem.status, problem.sentence.encode(), "text/plain; charset=utf-8")
        except ResourceError as problem:
            self.close_connection = True
            self._send(HTTPStatus.INSUFFICIENT_STORAGE, problem.message.encode(), "text/plain; charset=utf-8")
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True  # the viewer left

    def _check_host(self) -> None:
        """A page elsewhere that names its own host after this machine gets nothing (DNS rebinding)."""
        host = self.headers.get("Host", "").rpartition(":")[0].strip("[]") or self.headers.get("Host", "")
        if self.server.only_local and host not in LOCAL:
            raise Refused(HTTPStatus.FORBIDDEN, "this study is served to this machine only")

    def _get(self) -> None:
        path = self.server.study.files.get(self.path.partition("?")[0])
        if path is None:
            raise Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
        try:
            content = path.read_bytes()
        except OSError:
            raise Refused(HTTPStatus.NOT_FOUND, "this file is gone") from None
        kind = TYPES.get(path.suffix, "text/html; charset=utf-8")
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        if asked is None or asked.groups() == ("", ""):
            self._send(HTTPStatus.OK, content, kind, {"Accept-Ranges": "bytes"})
            return
        start, end = _span(asked[1], asked[2], len(content))
        if start >= end:
            raise Refused(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "beyond the end")
        span = {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}", "Accept-Ranges": "bytes"}
        self._send(HTTPStatus.PARTIAL_CONTENT, content[start:end], kind, span)

    def _post(self) -> None:
        content = self._body()
        if self.path == "/api/join":
            reply = self.server.study.join(content.get("participant"))
        elif self.path == "/api/answer":
            try:
                self.server.study.answer(Answer.model_validate(content))
            except ValidationError as problem:
                first = problem.errors()[0]
                where = ".".join(str(part) for part in first["loc"])
                raise Refused(HTTPStatus.BAD_REQUEST, f"{where}: {first['msg']}") from None
            reply = {}
        else:
            raise Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
        self._send(HTTPStatus.OK, json.dumps(reply).encode(), "application/json")

    def _body(self) -> dict[str, Any]:
        """JSON alone: a form of another site cannot send that without asking first, and we never allow it."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BODY_BYTES} bytes")
        if self.headers.get_content_type() != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        try:
            content = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise Refused(HTTPStatus.BAD_REQUEST, "expected a JSON object")
        return content

    def _send(
        self, status: HTTPStatus, content: bytes, kind: str, more: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        headers = {**HEADERS, "Content-Type": kind, "Content-Length": str(len(content)), **(more or {})}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: addresses of viewers are nobody's business."""


def _span(first: str, last: str, size: int) -> tuple[int, int]:
    """[start, end) of a Range header's two numbers."""
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1 if last else size)


class StudyServer(ThreadingHTTPServer):
    """Use as a context; `serve_forever()` runs it. Port 0 takes any free one; `url` says which."""

    daemon_threads = True

    def __init__(self, folder: Path, host: str = "127.0.0.1", port: int = 8620) -> None:
        self.study = Study(folder)
        self.only_local = host in LOCAL
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as problem:
            raise ResourceError(
                f"cannot serve on {host}:{port}: {getattr(problem, 'strerror', None) or problem}",
                fix="choose another --port, or 0 for any",
            ) from None

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}/"
