"""The durable course of one box: one file, replaced atomically, with a checksum. The course that is found again is the last one
that was stored, or none."""

import hashlib
from pathlib import Path

import msgspec
from msgspec import Struct

from device_agent.appliances.course import Course
from device_agent.ports import Effects
from firmware.errors import UnavailableError
from firmware.protocol.codec import canonical

COURSE_FILE = "course.json"
MAX_BYTES = 32 << 20


class _Sealed(Struct, frozen=True, kw_only=True):
    checksum: str
    course: msgspec.Raw


class CourseFile:
    """Loads and stores the course. A damaged file counts as none: what the box says is looked at anyway before anything is
    done."""

    def __init__(self, effects: Effects, directory: Path) -> None:
        self._effects, self._path = effects, directory / COURSE_FILE

    def load(self) -> Course:
        """Raises `UnavailableError` (`storage-fault`)."""
        try:
            data = self._effects.read(self._path)
        except OSError as error:
            raise UnavailableError(
                "storage-fault", f"{self._path} can't be read: {error.strerror or error}."
            ) from error
        if data is None:
            return Course()
        try:
            sealed = msgspec.json.decode(data[:MAX_BYTES], type=_Sealed)
            if _sha256(bytes(sealed.course)) != sealed.checksum:
                return Course()
            return msgspec.json.decode(sealed.course, type=Course)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Course()

    def store(self, course: Course) -> None:
        """Raises `UnavailableError` (`storage-fault`), after which the old one still counts."""
        body = canonical(course)
        try:
            self._effects.replace(self._path, canonical(_Sealed(checksum=_sha256(body), course=msgspec.Raw(body))))
        except OSError as error:
            text = f"{self._path} can't be written: {error.strerror or error}; check the storage's space and health."
            raise UnavailableError("storage-fault", text) from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
