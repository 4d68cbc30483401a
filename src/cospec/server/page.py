"""The page at `/`: the files of `web/`, inlined into one document that loads nothing else."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi.responses import HTMLResponse

_FOLDER = Path(__file__).parent / "web"
_PART = re.compile(r'<link rel="stylesheet" href="([\w.]+)">|<script src="([\w.]+)"></script>')


def page() -> HTMLResponse:
    """The document, under a content security policy: it runs its own scripts and connects to this server alone."""
    document, policy = _assembled()
    return HTMLResponse(document, headers={"Content-Security-Policy": policy, "Cache-Control": "no-cache"})


@cache
def _assembled() -> tuple[str, str]:
    """The document with styles and scripts inlined, and the policy that allows each of them by its digest."""
    digests: dict[str, list[str]] = {"style": [], "script": []}

    def inlined(found: re.Match[str]) -> str:
        kind = "style" if found[1] else "script"
        text = (_FOLDER / (found[1] or found[2])).read_text(encoding="utf-8")
        digests[kind].append(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'")
        return f"<{kind}>{text}</{kind}>"

    document = _PART.sub(inlined, (_FOLDER / "index.html").read_text(encoding="utf-8"))
    return document, "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(digests['script'])}",
            f"style-src {' '.join(digests['style'])}",
            "img-src data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
