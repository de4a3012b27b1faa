"""A checksum at the end of an archive of tensors: whether a checkpoint is what was written."""

import hashlib
import io
from collections.abc import Mapping
from typing import Any

import torch

END_OF_ARCHIVE, BEFORE_COMMENT = b"PK\x05\x06", 22  # of a ZIP file: the signature and size of its last record
CHECKSUM = b"sha256:"
COMMENT = len(CHECKSUM) + 64


def sealed(state: Mapping[str, Any]) -> bytes:
    """torch's bytes of a state, with their SHA-256 as the comment of the archive."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return with_seal(buffer.getvalue())


def with_seal(archive: bytes) -> bytes:
    """A ZIP archive without a comment, with its SHA-256 as one."""
    assert archive[-BEFORE_COMMENT:].startswith(END_OF_ARCHIVE), "this is no ZIP archive without comment"
    body = archive[:-2] + COMMENT.to_bytes(2, "little")  # the last two bytes are the length of the comment
    return body + CHECKSUM + hashlib.sha256(body).hexdigest().encode()


def problem_of_seal(content: bytes) -> str | None:
    """Why some bytes are not what `sealed` made; None when they are."""
    if not content:
        return "it is empty"
    body, comment = content[:-COMMENT], content[-COMMENT:]
    if not comment.startswith(CHECKSUM):
        return "its end, with the checksum, is missing"
    if comment != CHECKSUM + hashlib.sha256(body).hexdigest().encode():
        return "its checksum is wrong"
    return None
