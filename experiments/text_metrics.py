"""Metrics of texts: character errors by rapidfuzz, BLEU and chrF by sacreBLEU; divided once, at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rapidfuzz.distance import Levenshtein

from experiments.schema import BLEU, CER, CHRF, EDIT_DISTANCE


def character_errors(answers: Sequence[str], references: Sequence[str]) -> float:
    """Edit operations (Levenshtein) in characters / characters of all references."""
    return _edits(answers, references) / sum(map(len, references))


def edit_distance(answers: Sequence[str], references: Sequence[str]) -> float:
    """Edit operations in characters / number of texts."""
    return _edits(answers, references) / len(references)


def bleu(answers: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU (Papineni et al. 2002), tokenised by 13a, with sacreBLEU's defaults (Post 2018); 0..100."""
    from sacrebleu.metrics import BLEU as Bleu

    return float(Bleu(tokenize="13a").corpus_score(list(answers), [list(references)]).score)


def chrf(answers: Sequence[str], references: Sequence[str]) -> float:
    """Corpus chrF2 (Popović 2015), with sacreBLEU's defaults; 0..100."""
    from sacrebleu.metrics import CHRF as Chrf

    return float(Chrf().corpus_score(list(answers), [list(references)]).score)


TEXT_METRICS: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {
    CER: character_errors,
    EDIT_DISTANCE: edit_distance,
    BLEU: bleu,
    CHRF: chrf,
}


def signatures(metrics: Sequence[str]) -> dict[str, str]:
    """How those of `metrics` that are sacreBLEU's are computed, in its own words, for one reference a text."""
    found = {}
    for name in metrics:
        if name in (BLEU, CHRF):
            from sacrebleu.metrics import BLEU as Bleu
            from sacrebleu.metrics import CHRF as Chrf

            scorer = Bleu(tokenize="13a") if name == BLEU else Chrf()
            scorer.corpus_score(["a"], [["a"]])  # the number of references is known only after a score
            found[name] = str(scorer.get_signature())
    return found


def _edits(answers: Sequence[str], references: Sequence[str]) -> int:
    return sum(Levenshtein.distance(a, r) for a, r in zip(answers, references, strict=True))
