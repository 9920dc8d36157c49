# SPDX-License-Identifier: Apache-2.0
"""What the Hub answers when something cannot be done, in words that say what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from .text import plain

# Of the HTTP library, whose name changes between versions of huggingface_hub.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
_AGAIN = "Push again: what has arrived is not sent twice."
_REMEDIES = {
    401: "Log in with `hf auth login`, or set HF_TOKEN to a token that may write "
    "(https://huggingface.co/settings/tokens).",
    403: "Take a token that may write there, name a repository of your own, or open a pull request "
    "with `--create_pr`.",
    404: "Check the name and the branch; what is private is hidden from a token that may not see "
    "it.",
    409: "It is there already: choose another name.",
    412: "Somebody has pushed to it in the meantime. Look at what is there, then push again.",
}


@contextmanager
def hub_errors(repository: str, done: str = "Nothing was committed.") -> Iterator[None]:
    """Turn failures of a push into one screen: what was answered, what to do, what is done so far.

    Args:
        repository: `user/name`.
        done: How far it has come.

    Raises:
        OSError: If the Hub refuses, cannot be reached, or is lost in mid-upload.
    """
    try:
        yield
    except (_HTTP_ERROR, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of this machine: a file, a disk
        causes: list[BaseException] = [error]
        while cause := causes[-1].__cause__:
            causes.append(cause)
        refusal = next((c for c in causes if isinstance(c, HfHubHTTPError)), None)
        if refusal is None:  # no answer at all, or a transfer that broke off
            what = plain(causes[-1])[:300]
            raise ConnectionError(
                f"{constants.ENDPOINT} must answer until all is uploaded, got {what!r}. {done} "
                f"{_AGAIN}"
            ) from error
        status = refusal.response.status_code
        answer = plain(refusal.server_message or str(refusal))[:300]
        kind = PermissionError if status in (401, 403) else OSError
        raise kind(
            f"The Hub must accept what is pushed to {repository!r}, got {status}: {answer}. {done} "
            f"{_REMEDIES.get(status, _AGAIN)}"
        ) from error
