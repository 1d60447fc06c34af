"""The model card of a checkpoint: what was trained, how, on what, how well it does, and what may be done with it.

Everything is read from the settings in the checkpoint, its result files, and the classes that the settings name. What
is not known is said to be unknown. The text is that of `card.md.jinja`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from models_zoo.decoders import DECODERS
from models_zoo.pretrained import licence_of
from trainer.checkpoint import Saved
from trainer.checkpoint.hub import LIBRARY, as_hub_name
from trainer.config import Config
from trainer.data import DATASETS
from trainer.data.base import DepthDataset
from trainer.losses import LOSSES
from trainer.predict import scores
from trainer.predict.scale import Scale
from trainer.predict.scores import Scores
from trainer.runtime.optional import require
from trainer.tracking.health import learned

TEMPLATE = Path(__file__).with_name("card.md.jinja")
PHOTOMETRIC = ("img_recon", "feat_recon")  # losses that learn from views instead of from depth
RESTRICTED = re.compile(r"non-commercial|\bnc\b|dinov3", re.IGNORECASE)  # licences that forbid some uses
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
UNKNOWN = "unknown"


class Licence(NamedTuple):
    """The licence of one thing that went into a model; "" = not known."""

    what: str
    text: str


@dataclass(frozen=True)
class Card:
    """What a model card says; see `Card.text`."""

    saved: Saved
    config: Config
    scale: Scale
    size: tuple[int, int]  # (width, height) of the network's input
    _: KW_ONLY
    name: str  # of the model
    place: str  # the folder or Hub name that it will be loaded from
    licence: str | None = None  # of the weights, an identifier of the Hub
    date: str | None = None  # of the end of the training
    scores: Sequence[Scores] = field(default=())
    sheet: str | None = None  # file of a sheet of pictures, beside the card
    has_pipeline: bool = False  # whether transformers can load the folder

    def text(self) -> str:
        """Lay the card out: Markdown with a YAML head that `huggingface_hub.ModelCard` reads."""
        hub = require("huggingface_hub", "hub", "a model card")
        template = TEMPLATE.read_text(encoding="utf-8")
        return str(hub.ModelCard.from_template(self._head(hub), template_str=template, card=self)) + "\n"

    def _head(self, hub: Any) -> Any:
        """The YAML head, for search on the Hub."""
        numbers = [
            hub.EvalResult(
                task_type="depth-estimation",
                dataset_type=str((one.protocol.get("dataset") or {}).get("type", UNKNOWN)),
                dataset_name=one.data,
                dataset_config=one.words,  # numbers are comparable under the same protocol only
                metric_type=column.key,
                metric_name=column.title,
                metric_value=round(value, 6),
            )
            for one in self.scores
            for column, value in one.result.values.items()
        ]
        tags = ["depth-estimation", "monocular-depth", f"{'metric' if self.scale.unit == 'm' else 'relative'}-depth"]
        start = as_hub_name(self.config.trainer.load_ckpt or "")
        return hub.ModelCardData(
            base_model=start.repo if start else None,
            license=self.licence or UNKNOWN,
            library_name=LIBRARY,
            pipeline_tag="depth-estimation",
            tags=[
                *tags,
                *(["self-supervised"] if self.is_self_supervised else []),
                *(["transformers"] * self.has_pipeline),
            ],
            datasets=list(dict.fromkeys(kind for kind, _ in self.datasets if _dataset(kind).licence)) or None,
            model_name=self.name,
            eval_results=numbers or None,
        )

    @property
    def hparams(self) -> Mapping[str, Any]:
        return self.saved.hparams

    @property
    def imported(self) -> Mapping[str, Any]:
        """Where weights of other code come from; empty for those of this trainer."""
        found: Mapping[str, Any] = self.hparams.get("imported") or {}
        return found

    @property
    def depth(self) -> Mapping[str, Any]:
        """Options of the depth network."""
        return self.config.net["depth"]

    @property
    def is_self_supervised(self) -> bool:
        return any(name in self.losses for name in PHOTOMETRIC)

    @property
    def is_from_video(self) -> bool:
        return any(self.config.supp_idxs)

    @property
    def datasets(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Type and arguments of the data sets of the training; those of imported weights are not known."""
        if self.imported:
            return []
        kind, arguments = self.config.dataset_kwargs("train")
        return _dataset(kind).members(arguments) or [(kind, arguments)]

    @property
    def data(self) -> str:
        """The data sets in words."""
        named = []
        for kind, arguments in self.datasets:
            split = _dataset(kind).split_name(arguments)
            named.append(f"`{kind}`" + (f", split `{split}`" if split else ""))
        return "; ".join(named) or UNKNOWN

    @property
    def views(self) -> str:
        """What an image is compared with in training."""
        frames = ", ".join(f"{offset:+d}" for offset in self.config.supp_idxs if offset)
        views = [f"frames {frames} of the video"] if frames else []
        return (
            " and ".join([*views, *(["the other camera of the pair"] if 0 in self.config.supp_idxs else [])]) or "none"
        )

    @property
    def losses(self) -> dict[str, str]:
        """Weights of the losses, by name; those of imported weights are not known."""
        given = {} if self.imported else {name: kw.get("weight", 1.0) for name, kw in self.config.loss.items()}
        return {name: _weight(weight) for name, weight in given.items()}

    @property
    def networks(self) -> Iterator[tuple[str, str, str]]:
        """Name, encoder and decoder ("" for none) of each network."""
        for name, options in self.config.net.items():
            if name in self.saved.networks:
                yield name, str(options.get("enc_name", "")), str(options.get("dec_name", ""))

    @property
    def pretrained(self) -> list[tuple[str, str, str]]:
        """Networks whose encoder started from other weights: name, model of timm or file, and " of timm" or ""."""
        given = [(net, enc, self.config.net[net].get("pretrained")) for net, enc, _ in self.networks]
        return [(net, w, "") if isinstance(w, str) else (net, enc, " of timm") for net, enc, w in given if w]

    @property
    def start(self) -> str:
        """Which weights the training started from."""
        if self.imported:
            return f"imported: {self.imported.get('format', UNKNOWN)}, from `{self.imported.get('source', '?')}`"
        parts = [f"`{name}`{whose} (encoder of `{net}`)" for net, name, whose in self.pretrained]
        parts += [f"`{self.config.trainer.load_ckpt}`"] if self.config.trainer.load_ckpt else []
        return ", ".join(parts) or "random weights"

    @property
    def teachers(self) -> list[Mapping[str, Any]]:
        """What is known of the networks that labelled the training pictures; see `teachers_of`."""
        return teachers_of(self.hparams)

    @property
    def length(self) -> str:
        """Epochs, steps and images of the training."""
        at, trainer = self.saved.position, self.config.trainer
        if not at.step:
            return UNKNOWN
        batch = self.config.loader_kwargs("train")["batch_size"] * trainer.accumulate_grad_batches
        return (
            f"{at.epoch} of {trainer.max_epochs} epochs, {at.step:,} steps of {batch} images:"
            f" {at.step * batch:,} images seen"
        )

    @property
    def validated(self) -> str:
        """The number that chose this checkpoint."""
        monitor, ratio = self.saved.metadata.get("monitor", ""), self.learned[1]
        value = self.saved.state.metrics.get(monitor)
        beside = "" if ratio is None else f" (AbsRel {ratio:.2f} times that of a constant depth)"
        return f"{monitor} {value:.4g} in validation{beside}" if isinstance(value, float) else UNKNOWN

    @property
    def learned(self) -> tuple[str | None, float | None]:
        """Why this network has learned nothing, if so, and its error over that of a constant depth; see `learned`."""
        return learned(self.saved.state.metrics, self.saved.position.step)

    @property
    def licences(self) -> list[Licence]:
        """Licences of what went into the weights, each once."""
        rows = [Licence(f"training data `{kind}`", _dataset(kind).licence) for kind, _ in self.datasets]
        rows += [Licence(f"labels of the teacher `{t.get('model')}`", t.get("licence", "")) for t in self.teachers]
        rows += [Licence(f"first weights `{n}`{whose}", licence_of(n)) for _, n, whose in self.pretrained]
        if self.imported:
            source = str(self.imported.get("source"))
            rows += [Licence("training data", ""), Licence(f"imported weights `{source}`", licence_of(source))]
        elif name := self.config.trainer.load_ckpt:
            rows.append(Licence(f"first weights `{name}`", licence_of(name)))
        return list(dict.fromkeys(rows))

    @property
    def restrictions(self) -> list[Licence]:
        """Those of `licences` that forbid some uses."""
        return [row for row in self.licences if RESTRICTED.search(row.text)]

    @property
    def table(self) -> str:
        return "\n".join(scores.table(self.scores))

    @property
    def sources(self) -> list[tuple[str, str]]:
        """What the work stands on, and where it was published."""
        decoder = DECODERS.get(str(self.depth["dec_name"]))
        found = [(f"decoder `{self.depth['dec_name']}`", decoder)]
        found += [(f"loss `{name}`", LOSSES.get(name)) for name in self.losses]
        found += [(f"data `{kind}`", DATASETS.get(kind)) for kind, _ in self.datasets]
        named = [(what, str(getattr(entry, "source", ""))) for what, entry in found]
        linked = [(what, ARXIV.sub(r"[\g<0>](https://arxiv.org/abs/\1)", source)) for what, source in named if source]
        return list(dict.fromkeys(linked))


def teachers_of(hparams: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """List the records of `prepare pseudo` in settings: one, or one for each data set of a mixture; empty without."""
    record = hparams.get("pseudo") or {}
    return [record] if "model" in record else [one for one in record.values() if isinstance(one, Mapping)]


def _dataset(kind: str) -> type[DepthDataset]:
    found: type[DepthDataset] = DATASETS.get(kind)  # type: ignore[assignment]
    return found


def _weight(weight: float | dict[str, float]) -> str:
    """Write the weight of a loss: "0.9", "0.9 (0.95 from epoch 15)"."""
    if not isinstance(weight, dict):
        return f"{weight:g}"
    first, *later = weight.items()
    return f"{first[1]:g}" + "".join(f" ({value:g} from epoch {epoch})" for epoch, value in later)
