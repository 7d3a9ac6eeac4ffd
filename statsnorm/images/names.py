"""Identity of an image: the path below its source as text that any table can hold."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from statsnorm.errors import StatsnormError

# Control characters (C0, DEL, C1), line separators, lone surrogates, and the escape itself.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\\\]")
_ESCAPED = re.compile(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4})")


def safe_name(text: str) -> str:
    r"""Return `text` as valid UTF-8 on one line; ordinary names are left as they are.

    A backslash is doubled, a byte that is not UTF-8 becomes ``\udcNN`` (its
    surrogateescape form), a control character ``\xNN``. :func:`original_name` undoes it, so
    two files never share a name.

    >>> print(safe_name("birds/a.1.jpg"), safe_name("two\nlines.jpg"), safe_name("caf\udce9.jpg"))
    birds/a.1.jpg two\x0alines.jpg caf\udce9.jpg
    """
    return _UNSAFE.sub(_escape, text)


def original_name(name: str) -> str:
    r"""Return the text from which :func:`safe_name` made `name`.

    >>> original_name(r"two\x0alines.jpg")
    'two\nlines.jpg'
    """
    return _ESCAPED.sub(lambda m: "\\" if m[1] == "\\" else chr(int(m[1][1:], 16)), name)


def relative_path(image: str) -> PurePosixPath:
    """Return an image's path below its source.

    Raises
    ------
    StatsnormError
        If the name is absolute or climbs out of the source with `..`.
    """
    path = PurePosixPath(original_name(image))
    if path.is_absolute() or ".." in path.parts or "\0" in str(path):
        raise StatsnormError(f"image name {image!r} leads out of its folder; it must lie below it")
    return path


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if match[0] == "\\":
        return "\\\\"
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
