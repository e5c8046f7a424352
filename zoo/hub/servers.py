"""Servers: where a file is, what a refusal means, and the Hub's API with its errors made clear."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
"""Answers that may be different the next time."""


@dataclass(frozen=True)
class Source:
    """One file at one place. `label` names it for people; `repo` is set when it is in a Hub repository.

    `immutable` says that the address names a commit, so that what was there once must be there for ever.
    """

    url: str
    label: str
    repo: str | None = None
    immutable: bool = False


def endpoint() -> str:
    """Return the Hub in use: $HF_ENDPOINT or the public one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def hub_source(repo: str, revision: str | None, file: str, *, dataset: bool = False) -> Source:
    """Return the place of one file of a Hub repository; a null revision means main."""
    from urllib.parse import quote

    prefix = "datasets/" if dataset else ""
    url = f"{endpoint()}/{prefix}{repo}/resolve/{revision or 'main'}/{quote(file)}"
    label = f"{prefix}{repo}/{file} at {revision[:12] if revision else 'main'}"
    return Source(url, label, repo=prefix + repo, immutable=revision is not None)


def refusal(source: Source, status: int, code: str) -> str:
    """Say what an error answer means and what to do; `code` is the Hub's X-Error-Code."""
    page = f"{endpoint()}/{source.repo}"
    if code == "GatedRepo" or (status == 403 and source.repo):
        return (
            f"the repository is gated ({status}): accept its terms at {page}, then log in with `hf auth login` or set HF_TOKEN "
            "to a token that may read it"
        )
    if code == "RevisionNotFound":
        return f"the repository has no such revision ({status}): the pin in the registry is wrong or the history was rewritten"
    if code == "EntryNotFound":
        return f"the repository has no such file at this revision ({status}); see {page}/tree/main"
    if source.repo and (status == 401 or code == "RepoNotFound"):
        return (
            f"no such repository, or a private one, or a wrong token ({status}): check the name; for a private one log in with "
            "`hf auth login` or set HF_TOKEN"
        )
    return f"the server answered {status}; nothing to download at {source.url}"


def request_headers(source: Source) -> dict[str, str]:
    """Return the headers of a download, with the user's token where it belongs."""
    headers = {"User-Agent": "qnn-transfer-zoo", "Accept-Encoding": "identity"}
    if source.repo:  # only the Hub sees the user's token
        from huggingface_hub import get_token

        token = get_token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
    return headers


@contextmanager
def asking_hub(name: str, repo: str, *, write: bool = False) -> Iterator[HfApi]:
    """Hand out the Hub's API, to read from or `write` to a repository; what goes wrong becomes one clear error."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    httpx = http_library()
    source = Source(f"{endpoint()}/{repo}", repo, repo=repo)
    try:
        yield HfApi(endpoint=endpoint())
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in TRANSIENT:
            raise UserError(f"{name}: {repo}: the Hub answered {status}; try again later") from None
        if write and status in (401, 403):
            cure = "log in with `hf auth login`, or set HF_TOKEN, with a token that may write there"
            raise UserError(f"{name}: {repo}: not allowed to write ({status}); {cure}") from None
        raise UserError(f"{name}: {repo}: {refusal(source, status, error.response.headers.get('X-Error-Code', ''))}") from None
    except (HFValidationError, OfflineModeIsEnabled) as error:
        raise UserError(f"{name}: {repo}: {' '.join(str(error).split())}") from None
    except httpx.HTTPError as error:
        raise UserError(f"{name}: cannot reach {endpoint()}: {describe(error)}; check the connection and HF_ENDPOINT") from None


def describe(error: Exception) -> str:
    """Return an error's kind and message on one line."""
    return f"{type(error).__name__}{f' ({error})' if str(error) else ''}"


def http_library() -> Any:
    """Return the HTTP library under huggingface_hub: httpx2 since its version 2, httpx before."""
    try:
        import httpx2
    except ImportError:
        import httpx  # type: ignore[import-not-found]

        return httpx
    return httpx2
