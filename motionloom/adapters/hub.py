"""Adapters to and from the Hugging Face hub. Nothing else of the package talks to the network on its own."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from motionloom.adapters.adapter_file import load_adapter
from motionloom.errors import InputError, MotionLoomError, ResourceError

FILE_NAME = "adapter.safetensors"
CARD_NAME = "README.md"


def push_adapter(path: str | os.PathLike[str], repository: str, private: bool = True, api: Any = None) -> str:
    """Upload an adapter and its card; return the address of the commit. The file is checked first.

    Args:
        path: an adapter file.
        repository: "user/name"; made when it is not there.
        private: for a new repository.
        api: a `huggingface_hub.HfApi`; None makes one, with the token of `hf auth login`.

    Raises:
        WeightsError: the file is no sound adapter.
        ResourceError: the hub cannot be reached, or refuses.
    """
    from motionloom.adapters.adapter_file import card

    adapter = load_adapter(path)
    api = api or _api()
    with _explained(f'cannot push to "{repository}"'):
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_file(
            path_or_fileobj=card(adapter, FILE_NAME).encode(), path_in_repo=CARD_NAME, repo_id=repository
        )
        done = api.upload_file(path_or_fileobj=str(path), path_in_repo=FILE_NAME, repo_id=repository)
    return str(getattr(done, "commit_url", done))


def pull_adapter(
    repository: str, revision: str | None = None, file_name: str = FILE_NAME, api: Any = None
) -> Path:
    """Fetch an adapter into the hub's cache; return its path. The file is checked.

    Raises:
        ResourceError: the hub cannot be reached, or has no such file.
        WeightsError: what came is no sound adapter.
    """
    api = api or _api()
    with _explained(f'cannot pull "{file_name}" from "{repository}"'):
        path = Path(api.hf_hub_download(repository, file_name, revision=revision))
    load_adapter(path)
    return path


def _api() -> Any:
    os.environ["HF_HUB_OFFLINE"] = "0"  # pushing and pulling are asked for
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity(logging.ERROR)  # its retries; what fails in the end is said

    if constants.HF_HUB_OFFLINE:
        raise InputError(
            "the hub library was started offline in this process",
            fix="set HF_HUB_OFFLINE=0 before starting, or pass an HfApi",
        )
    return HfApi()


class _explained:
    """Whatever the hub raises becomes one sentence."""

    def __init__(self, action: str) -> None:
        self.action = action

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, problem: BaseException | None, trace: Any) -> None:
        if isinstance(problem, Exception) and not isinstance(problem, MotionLoomError):
            reason = " ".join(str(problem).split())[:160] or type(problem).__name__
            raise ResourceError(
                f"{self.action}: {reason}", fix="check the name, the network and `hf auth login`"
            ) from problem
