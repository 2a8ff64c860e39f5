"""The pre-trained network that a run starts from."""

import logging
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

from tascnet import data
from tascnet.models import HeadSpec, replace_head
from tascnet.models.head import head_start
from tascnet.models.text import SPECIAL, TextPreprocessing
from tascnet.models.transfer import with_vocabulary
from tascnet.models.weights import read_metadata
from tascnet.options import Config, DatasetConfig, RecipeConfig, TrainerConfig
from tascnet.run.files import digest_json
from tascnet.run.folder import cache_folder

from .pretraining import (
    ORIGIN,
    build,
    held_out_digest,
    known_vectors,
    pretrain_network,
    random_network,
    write_source,
)
from .session import Session, backbone_preprocessing, open_session

log = logging.getLogger("tascnet")

# How the embedded digits network learns its source task: seconds on one core.
_SOURCE_TASK = RecipeConfig(epochs=15, batch_size=32, lr=3e-3, weight_decay=1e-2, schedule="cosine")
_SOURCE_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Source:
    """A pre-trained chain and where it comes from.

    Args:
        chain: in eval mode, on the CPU.
        weights: where its weights come from.
        licence: their licence.
        digest: of structure and weights.
        vocabulary: of a network of texts.
    """

    chain: nn.Sequential
    weights: str
    licence: str
    digest: str
    vocabulary: tuple[str, ...] = SPECIAL


def load_source(config: Config) -> Source:
    """The backbone with the weights that the config names.

    Raises:
        WeightsError: the weights are missing, unreadable or of another architecture.
        ConfigError: the backbone is unknown or the user's factory does not give a chain.
    """
    weights: str | Path = config.backbone.weights
    if config.backbone.name == "digits_cnn" and weights == "pretrained":
        weights = _pretrained_digits(config)
    backbone, vocabulary = build(config, weights)
    return Source(
        chain=backbone.chain,
        weights=backbone.source["weights"],
        licence=backbone.source["licence"],
        digest=data.module_digest(backbone.chain),
        vocabulary=vocabulary,
    )


def open_run(config: Config) -> tuple[Source, Session]:
    """The pre-trained network and the data that it moves to; a network of texts learns their words' numbers.

    Raises:
        TascnetError: what `load_source` and `open_session` raise.
    """
    source = load_source(config)
    session = open_session(config, vocabulary=source.vocabulary)
    words = session.preprocessing
    _check_held_out(session)
    if isinstance(words, TextPreprocessing):
        source = _with_words(source, config, words.vocabulary)
    return source, session


def _check_held_out(session: Session) -> None:
    """Say where weights of stage pretrain may have seen samples that this run is judged by."""
    weights, name = Path(session.config.backbone.weights).expanduser(), session.config.dataset.name
    known = read_metadata(weights).get(ORIGIN) if weights.is_file() else None
    if known is None:
        return
    is_same = known.get("fingerprint") == session.dataset.fingerprint
    if known["exclude"] != name and not is_same:
        log.info(
            "nothing says whether %s shares samples with %s, on which %s were trained; exclude=%s at "
            "stage=pretrain leaves them out",
            *(name, known["dataset"], weights, name),
        )
        return
    resize = getattr(session.preprocessing, "resize", None)
    if known.get("resize", resize) != resize:
        log.info(
            "whether %s have seen validation or test samples of %s cannot be told, as they learnt from "
            "images of another size: the same backbone.resize would tell",
            *(weights, name),
        )
        return
    digest = held_out_digest(data.sample_digests(session.dataset, (*session.val.rows, *session.test.rows)))
    if known["exclude"] == name and known["held_out"] != digest:
        log.warning(
            "%s have left out the validation and test samples of another split of %s than this one: test "
            "accuracy may flatter; pre-train with this seed and exclude=%s, and give its split as "
            "exclude_options where it is not that of conf/dataset/",
            *(weights, name, name),
        )
    if known["exclude"] != name and known["own_held_out"] != digest:
        log.warning(
            "%s were trained on another split of %s than this one: they may have seen samples that this run "
            "is tested on, and test accuracy may flatter; pre-train with this seed and split",
            *(weights, name),
        )


def _with_words(source: Source, config: Config, words: tuple[str, ...]) -> Source:
    """A network of texts with a vector for each of `words`."""
    vectors = known_vectors(config, words)
    chain = with_vocabulary(source.chain, source.vocabulary, words, vectors=vectors, seed=config.seed)
    log.info("vocabularies: %s", _origins(source.vocabulary, words, vectors))
    return replace(source, chain=chain, vocabulary=words, digest=data.module_digest(chain))


def _origins(known: Collection[str], words: Collection[str], vectors: Collection[str]) -> str:
    """How many words have which vectors: the file of `backbone.vectors` wins over the weights."""
    own = set(words) - set(SPECIAL)
    given = own & set(vectors)
    kept = own & set(known) - given
    from_file = f"{len(given)} words take their vectors from the file, " if vectors else ""
    who = "keep theirs" if vectors else "words keep their vectors"
    return f"{from_file}{len(kept)} {who}, {len(own - given - kept)} start anew"


def softmax_network(source: Source, session: Session) -> nn.Sequential:
    """The pre-trained network with a new softmax layer for the session's classes, on its device.

    A network of texts keeps its dropout: without it the few filters learn their training texts by heart.
    """
    is_text = isinstance(session.preprocessing, TextPreprocessing)
    head = HeadSpec(hidden=(), dropout=_own_dropout(source.chain) if is_text else 0.0)
    return session.place(replace_head(source.chain, head, session.num_classes, seed=session.config.seed))


def _own_dropout(chain: nn.Sequential) -> float:
    """Of the head, before its classifier."""
    dropped = [block.p for block in chain[head_start(chain) :] if isinstance(block, nn.Dropout)]
    return float(dropped[-1]) if dropped else 0.0


def _pretrained_digits(config: Config) -> Path:
    """Weights of `digits_cnn` trained on the source digits; made once and kept in the cache."""
    task = _source_task(config)
    preprocessing = backbone_preprocessing(config.backbone)
    made_of = {
        "digits": task.dataset.digits,
        "recipe": asdict(task.trainer.pretrain),
        "input": preprocessing.to_dict(),
    }
    path = cache_folder(config) / "weights" / f"digits_cnn-{digest_json(made_of)[:12]}.safetensors"
    if path.exists():
        return path
    log.info(
        "pre-training digits_cnn on its source task, the digits %s",
        ", ".join(map(str, config.dataset.source_digits)),
    )
    session = open_session(task)
    network = random_network(session)
    result = pretrain_network(session, network, description="source task")
    log.info("source task: validation accuracy %.1f %%", 100 * (result.best_val_accuracy or 0.0))
    write_source(path, network, session)
    return path


def _source_task(config: Config) -> Config:
    """The config of stage `pretrain` on the source digits, the same for every seed and target."""
    digits = DatasetConfig(
        name="digits",
        digits=config.dataset.source_digits,
        train_fraction=0.8,
        val_fraction=0.1,
        flip=False,
    )
    trainer = TrainerConfig(pretrain=_SOURCE_TASK)
    return replace(config, dataset=digits, trainer=trainer, seed=_SOURCE_SEED)
