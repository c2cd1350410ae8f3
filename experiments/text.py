"""Texts as a task: tokenised, what is too long or stands in another part too refused or counted, encoded as a corpus.

One pair, tokenised by words, by characters and by pieces (BPE)::

    the dogs run  →  the dogs run     t h e   d o g s   r u n     ▁the ▁dog s ▁run
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from experiments import corpus
from experiments.data import UNKNOWN_SYMBOL, DataError, Pair, TaskData, Texts
from experiments.reading import TextTable
from experiments.schema import TEST, VALIDATION

Tokenisation = Literal["characters", "words", "bpe"]
LENGTH_BINS = (4, 8, 16, 32, 64, 128, 256, 512, 1024)  # source symbols, by upper edge; all above are in the last
TRAIN = "train"
IN_WORDS = {TRAIN: "training", VALIDATION: "validation"}


@dataclass(frozen=True)
class Tokeniser:
    """A text as symbols, and the text that symbols spell."""

    split: Callable[[str], tuple[str, ...]]
    join: Callable[[Sequence[str]], str]


def single_spaces(text: str) -> str:
    """The text as words and pieces spell it: one space between words, none around them."""
    return " ".join(text.split())


CHARACTERS = Tokeniser(tuple, "".join)
WORDS = Tokeniser(lambda text: tuple(text.split()), " ".join)
SPACE = "▁"  # begins every word in pieces


def learn_pieces(texts: Sequence[str], size: int) -> Tokeniser:
    """Byte-pair encoding (Sennrich et al. 2016) of words, learnt on `texts`.

    Several spaces count as one. A character that `texts` do not show is unknown.

    Args:
        texts: of the training part, nothing else.
        size: number of pieces, characters included; fewer where no more pairs can be merged.

    Raises:
        DataError: `texts` alone have more different characters than that.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    model = Tokenizer(models.BPE(unk_token=UNKNOWN_SYMBOL))
    model.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE)
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[UNKNOWN_SYMBOL], show_progress=False)
    model.train_from_iterator(map(single_spaces, texts), trainer)
    characters = sum(len(piece) == 1 for piece in model.get_vocab())
    if model.get_vocab_size() > size:
        raise DataError(f"vocabulary_size {size} is too small: the training texts have {characters} characters")
    return Tokeniser(
        lambda text: tuple(model.encode(single_spaces(text)).tokens),
        lambda pieces: "".join(pieces).replace(SPACE, " ").strip(),
    )


def tokenisers(
    source: Tokenisation, target: Tokenisation, train: TextTable, vocabulary_size: int | None
) -> tuple[Tokeniser, Tokeniser]:
    """Those of both sides; where both are pieces, they are learnt on both sides together."""
    plain = {"characters": CHARACTERS, "words": WORDS}
    sides = {"source": source, "target": target}
    in_pieces = [side for side, name in sides.items() if name == "bpe"]
    if in_pieces:
        assert vocabulary_size is not None
        plain["bpe"] = learn_pieces([text for side in in_pieces for text in train.table[side]], vocabulary_size)
    return plain[source], plain[target]


def text_data(
    tables: Mapping[str, TextTable],
    *,
    source_tokens: Tokenisation,
    target_tokens: Tokenisation,
    vocabulary_size: int | None,
    max_length: int | None,
    longer: Literal["error", "exclude"],
    overlap: Literal["error", "exclude", "keep"],
    description: Mapping[str, str],
) -> TaskData:
    """Tables of texts as a task that is ready for a run.

    References have single spaces where answers, of words or pieces, can have no others.

    Args:
        tables: "train", "validation" and "test".
        source_tokens, target_tokens: how each side is made symbols.
        vocabulary_size: number of pieces, where a side is made of them.
        max_length: of source and of target, in symbols; None where there is no limit.
        longer: whether a longer pair is an error or left out, and counted in the description.
        overlap: what becomes of a pair for validation or test whose source, as symbols, stands in the training part,
            and of one for test whose source stands in the validation part: an error, left out and counted, or kept
            because it is meant to be there. What is left out of a part does not stand in it.
        description: of the data. Added are, beside what `corpus_data` adds, the fingerprints of the tables and the
            numbers of pairs left out.

    Raises:
        DataError: with the place of the first pair, where one is refused; or a part has nothing left.
    """
    of_source, of_target = tokenisers(source_tokens, target_tokens, tables[TRAIN], vocabulary_size)
    facts = {"fingerprint": ", ".join(table.table._fingerprint for table in tables.values())}
    as_spelt = str if target_tokens == "characters" else single_spaces
    known: dict[tuple[str, ...], str] = {}  # source → the first part in which it stands
    pairs: dict[str, list[Pair]] = {}
    written: dict[str, list[tuple[str, str]]] = {}
    for split in (TRAIN, VALIDATION, TEST):
        table, earlier = tables[split], list(pairs)
        pairs[split], written[split] = [], []
        too_long: list[int] = []
        repeated: list[tuple[int, str]] = []  # with the part in which the source stands already
        for row, texts in enumerate(zip(table.table["source"], table.table["target"], strict=True)):
            pair = Pair(of_source.split(texts[0]), of_target.split(texts[1]))
            if max_length is not None and max(map(len, pair)) > max_length:
                too_long.append(row)
            elif overlap != "keep" and pair.source in known:
                repeated.append((row, known[pair.source]))
            else:
                pairs[split].append(pair)
                written[split].append(texts)
        if too_long and longer == "error":
            raise DataError(
                f"{table.place(too_long[0])}: longer than max_length, {max_length} symbols, and so are "
                f"{len(too_long) - 1} more; state longer: exclude to leave them out"
            )
        counts = Counter(part for _, part in repeated)
        if repeated and overlap == "error":
            row, part = repeated[0]
            raise DataError(
                f"{table.place(row)}: its source stands in the {IN_WORDS[part]} part, too, and so do those of "
                f"{counts[part] - 1} more; state overlap: exclude to leave them out, or overlap: keep"
            )
        known |= {pair.source: split for pair in pairs[split] if pair.source not in known}
        left_out = [f"{counts[part]} whose source stands in {IN_WORDS[part]}" for part in earlier]
        facts[f"{split}_left_out"] = ", ".join([f"{len(too_long)} too long", *left_out])
        if not pairs[split]:
            raise DataError(f"{table.name}: nothing is left of it ({facts[f'{split}_left_out']})")
    data = corpus.corpus_data(
        pairs[TRAIN],
        {split: of_split for split, of_split in pairs.items() if split != TRAIN},
        slices={"length": lambda pair: corpus.upper_edge(len(pair.source), LENGTH_BINS)},
        texts=Texts(
            {split: [source for source, _ in texts] for split, texts in written.items()},
            {split: [as_spelt(target) for _, target in texts] for split, texts in written.items()},
            of_target.join,
        ),
        shared_vocabulary=source_tokens == target_tokens == "bpe",
        description={**description, **facts},
    )
    return replace(data, overlap=0) if overlap == "keep" else data
