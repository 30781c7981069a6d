"""Repositories of the Hugging Face Hub as bases and adapters, and exports that become one: OWNER/NAME, or OWNER/NAME@REVISION.

What is on this disk wins: only a name without a file behind it is looked for on the Hub. Fetched are the settings and the weights of
one commit, into the Hub's own cache. HF_ENDPOINT names a mirror, with HF_HUB_OFFLINE=1 the cache has to do, HF_TOKEN opens what is
private.
"""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from lora_nlg.errors import UserError

OWNER = "openai-community"
NAMES = {"gpt2.sm": "gpt2", "gpt2.md": "gpt2-medium", "gpt2.lg": "gpt2-large", "gpt2.xl": "gpt2-xl"}  # by card
LEGACY = {name: f"{OWNER}/{name}" for name in NAMES.values()}  # from when a name needed no owner

INDEX = ".index.json"  # the end of the name of a list of files that hold one model together
# In a Hub folder, in order of preference
COMPACT_FILE = "compact.safetensors"  # this project's small bases
BASE_FILES = (
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
    COMPACT_FILE,
)
PEFT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
OWN_FILE = "adapter.safetensors"  # this project's adapters
SETTINGS = ("config.json", "adapter_config.json")

DEFAULT_ENDPOINT = "https://huggingface.co"
ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*)(?:@(\w[\w./-]*))?", re.ASCII)
OF_A_FILE = (".safetensors", ".bin", ".pt", ".pth", ".json")  # how no repository's name ends


def name_of(card: str | None) -> str | None:
    """Return the Hub's name of a published base's card, or a Hub id as it is; None for any other card."""
    if card in NAMES:
        return f"{OWNER}/{NAMES[card]}"
    return card if card and ID.fullmatch(card) and not card.endswith(OF_A_FILE) else None


def parsed(path: str | Path) -> tuple[str, str | None] | None:
    """Return (repository, revision or None) of a Hub id; None for a path, there or not.

    What exists is a path, and so is what is meant to be in a folder that exists, such as pretrained_checkpoints/gpt2-medium.
    """
    text = str(path)
    name, _, revision = text.partition("@")
    if os.path.lexists(text) or ".." in text or text.endswith(OF_A_FILE):
        return None
    if name in LEGACY:
        text = f"{LEGACY[name]}@{revision}" if revision else LEGACY[name]
    elif os.path.lexists(text.partition("/")[0]):
        return None
    found = ID.fullmatch(text)
    return (found[1], found[2]) if found else None


def local(path: str | Path) -> Path:
    """Return `path` or, for a Hub id, the folder on this disk that its files are fetched into. Raises UserError."""
    said = parsed(path)
    if said is None:
        return Path(path)
    import httpx2

    try:
        folder = _fetched(*said)
    except (httpx2.HTTPError, OSError, ValueError) as error:
        raise UserError(
            f"{path} is no file or folder here, and cannot be had from {endpoint()}: {reason(error)}; check the name, or download "
            "it elsewhere and pass its folder"
        ) from error
    if folder is None:
        wanted = ", ".join((*BASE_FILES, *PEFT_FILES, OWN_FILE))
        raise UserError(f"{path} on {endpoint()} has none of {wanted}; expected GPT-2's weights or adapters")
    return folder


def called(base: str | Path | None, card: str) -> str:
    """Return what adapters call the base that they were trained on: its name on the Hub, without one its card."""
    said = parsed(base) if base else None
    return said[0] if said else card


def published(base: str | Path | None, card: str | None = None) -> str:
    """Return the name on the Hub of a base: its id, or that of a folder or file as step 1 downloads it; "" of any other.

    A folder that is called so, but whose model has the shape of another card, is none.
    """
    if not base:
        return ""
    said = parsed(base)
    if said:
        return said[0]
    path = Path(base).absolute()
    name = LEGACY.get(path.parent.name if path.name in BASE_FILES else path.name, "")
    return "" if card in NAMES and name != name_of(card) else name


def config_beside(base: str | Path) -> Path | None:
    """Return the config.json of a base: in its folder, or beside a file with a name of the Hub's; None if it has none."""
    path = local(base)
    folder = path.parent if path.name in BASE_FILES else path
    return folder / SETTINGS[0] if (folder / SETTINGS[0]).is_file() else None


def recorded(**given: str | None) -> dict[str, dict[str, str]]:
    """Return the section of a record that says which commit each flag's Hub id was, as far as the cache tells; none for paths."""
    import httpx2

    commits = {}
    for flag, path in given.items():
        said = parsed(path) if path else None
        if said is None:
            continue
        try:
            folder = _fetched(*said, offline=True)
        except (httpx2.HTTPError, OSError, ValueError):
            folder = None
        commits[flag] = f"{said[0]}@{folder.name}" if folder else str(path)
    return {"hub": commits} if commits else {}


def push(output: Path, repository: str, names: list[str]) -> str:
    """Upload `output`, a file, or the files `names` of the folder `output`, to a repository, new or not; return its address.

    A file in this project's own form gets the name under which a Hub id is read. Raises UserError.
    """
    import httpx2
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint())
    try:
        api.create_repo(repository, exist_ok=True)
        if output.is_dir():
            api.upload_folder(repo_id=repository, folder_path=output, allow_patterns=names)
        else:
            name = OWN_FILE if output.suffix == ".safetensors" else output.name
            api.upload_file(repo_id=repository, path_or_fileobj=output, path_in_repo=name)
    except (httpx2.HTTPError, OSError, ValueError) as error:
        raise UserError(
            f"{output} is written, but cannot be pushed to {repository} at {endpoint()}: {reason(error)}; run it again with a "
            "network and, in HF_TOKEN, a token that may write there"
        ) from error
    return f"{endpoint()}/{repository}"


def endpoint() -> str:
    """Return the Hub's address, or its mirror's."""
    return os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT


class _Commit:
    """The files of one commit, in the Hub's cache: that of the first file that is got."""

    def __init__(self, repository: str, revision: str | None, offline: bool):
        self.repository, self.revision, self.offline = repository, revision, offline
        self.lost: Exception | None = None  # why the Hub was not reached: from then on the cache has to do

    def look(self) -> None:
        """Find out whether there is a network: the client would try for half a minute, and say so each time."""
        import httpx2
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.errors import OfflineModeIsEnabled

        try:
            get_hf_file_metadata(hf_hub_url(self.repository, SETTINGS[0], revision=self.revision, endpoint=endpoint()))
        except (httpx2.TransportError, OfflineModeIsEnabled) as error:
            self.lost = error
        except (httpx2.HTTPError, OSError):  # an answer, which is not this file
            pass

    def get(self, name: str) -> Path | None:
        """Return a file, None if there is no such one."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

        try:
            path = hf_hub_download(
                self.repository,
                name,
                revision=self.revision,
                endpoint=endpoint(),
                local_files_only=self.offline or self.lost is not None,
            )
        except RemoteEntryNotFoundError:
            return None
        except LocalEntryNotFoundError as error:
            self.lost = self.lost or error
            return None
        self.revision = Path(path).parent.name
        return Path(path)


def _fetched(repository: str, revision: str | None, offline: bool = False) -> Path | None:
    """Return the cache's folder with a repository's settings and weights; None where it has no weights that are known here."""
    commit = _Commit(repository, revision, offline)
    if not offline:
        commit.look()
    for name in SETTINGS:
        commit.get(name)
    weights = next(filter(None, map(commit.get, (*BASE_FILES, *PEFT_FILES, OWN_FILE))), None)
    if weights is not None and weights.name.endswith(INDEX):
        whole = [commit.get(name) is not None for name in _listed(weights)]
        weights = weights if all(whole) or not commit.lost else None
    if weights is None and commit.lost:
        raise commit.lost
    return weights.parent if weights else None


def _listed(index: Path) -> Iterable[str]:
    """Return the names of the files beside `index` that it lists; what else it says is refused when it is read."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return sorted(name for name in names if Path(name).name == name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ()


def reason(error: Exception) -> str:
    """Return in a few words why the Hub gave or took nothing. No header is shown: a token may be in one."""
    import httpx2
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set, so that nothing but the cache is asked"
    cause = error if isinstance(error, httpx2.HTTPError) else error.__cause__ or error
    code = getattr(getattr(cause, "response", None), "status_code", None)
    if code in (401, 403):
        return f"the server answered {code}, so there is no such repository or HF_TOKEN does not open it"
    if code is not None:
        return f"the server answered {code}"
    if isinstance(cause, ValueError):
        return str(cause).splitlines()[0]
    return f"the connection failed ({type(cause).__name__})"
