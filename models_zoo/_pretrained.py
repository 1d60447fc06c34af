"""Where ImageNet weights come from: the local Hugging Face cache first, then the network, and a clear word when neither has
them. Weights that were asked for are never replaced by random ones.
"""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from typing import Any

PROBE_SECONDS = 8.0  # huggingface_hub alone retries for 25 to 50 s before it admits that there is no network


class PretrainedUnavailable(RuntimeError):
    """Pretrained weights were asked for and cannot be had; the message says why and what to do."""


def find_pretrained(enc_name: str) -> dict[str, str]:
    """Locate the pretrained weights of the timm model `enc_name` ("arch" or "arch.tag").

    Returns the overlay of timm's pretrained configuration: the cached file, so that a cached model needs no network, or
    nothing, which lets timm download. Raises PretrainedUnavailable when timm has no weights of that name, or they are not
    cached and their server does not answer within `PROBE_SECONDS`.
    """
    import timm
    from huggingface_hub import constants

    source = timm.get_pretrained_cfg(enc_name)
    if source is None or not source.has_weights:
        names = timm.list_pretrained(f"{enc_name.partition('.')[0]}*")[:8]
        raise PretrainedUnavailable(
            f"timm has no pretrained weights for {enc_name!r}. Models of that name with weights: "
            f"{', '.join(names) or 'none'}. Choose one of them as enc_name, or set pretrained: false."
        )
    cached = cached_file(source)
    if cached is not None:
        return {"file": cached}
    if not source.hf_hub_id:
        _require_server(enc_name, source, source.url)
    elif constants.HF_HUB_OFFLINE:
        raise unavailable(enc_name, source, "they are not in the cache, and HF_HUB_OFFLINE=1 forbids the network")
    else:
        _require_server(enc_name, source, constants.ENDPOINT)
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


def unavailable(enc_name: str, source: Any, reason: str) -> PretrainedUnavailable:
    """Say what was wanted (timm name and hub id), why it failed and the four ways on."""
    from huggingface_hub import constants

    wanted = f"{source.architecture}.{source.tag}" if source.tag else str(source.architecture)
    place = f"huggingface.co/{source.hf_hub_id}" if source.hf_hub_id else source.url
    fetch = f"python -c \"import timm; timm.create_model('{wanted}', pretrained=True)\""
    return PretrainedUnavailable(
        f"The pretrained weights of the encoder {enc_name!r} ({wanted}, {place}) cannot be loaded: {reason}.\n"
        "What you can do, one of:\n"
        f"  - on a machine with internet run:  {fetch}\n"
        f"    and copy its Hugging Face cache to {constants.HF_HUB_CACHE} here (or set HF_HOME to the folder above the copy;\n"
        "    HF_HUB_OFFLINE=1 then keeps the run off the network)\n"
        "  - set net.<network>.pretrained: false to train from scratch (expect worse depth)\n"
        "  - set trainer.load_ckpt to a checkpoint that holds the weights, with pretrained: false"
    )


def one_line(error: BaseException) -> str:
    """The first line of an error with its type, for a reason inside a longer message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _require_server(enc_name: str, source: Any, url: str) -> None:
    """Raise PretrainedUnavailable unless the server of `url` answers within `PROBE_SECONDS`."""
    verdict: list[str | None] = []
    probe = threading.Thread(target=lambda: verdict.append(_silence(url)), daemon=True)
    probe.start()  # in a thread because no time limit covers a name server that hangs
    probe.join(PROBE_SECONDS)
    reason = verdict[0] if verdict else f"no answer within {PROBE_SECONDS:.0f} s"
    if reason is not None:
        raise unavailable(enc_name, source, f"they are not in the cache, and {url} cannot be reached ({reason})")


def _silence(url: str) -> str | None:
    """Why the server of `url` does not answer, or None when it does, be it with a refusal."""
    import ssl

    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS / 2).close()
    except urllib.error.HTTPError:
        return None
    except OSError as error:
        cause = getattr(error, "reason", error)
        return None if isinstance(cause, ssl.SSLError) else str(cause)  # the download has its own certificates
    return None
