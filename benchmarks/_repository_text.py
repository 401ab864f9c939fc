"""
Text for the repository's benchmark: notes that compress as people's notes do, not as lists of random words.

Twenty thousand words are made of English syllables and used as languages use words: a few very often, most hardly ever.
Real text also repeats phrases, and one note comes back to its subject; so sentences are put together from a fixed stock
of phrases of one to five words, almost half of them from the few its note is about. ``zstd -3`` makes 30 % of it, and
36 % when it is given 64 KiB at a time. The documentation files of a Linux machine, English Markdown and such, were 26 %
and 32 %: the same fifth more. Nothing is ever copied: two notes share phrases, never paragraphs, so that no tool finds
duplicates that would not be there.
"""

from __future__ import annotations

import base64
import datetime as dt
import functools
import itertools
import json
import random
from collections.abc import Iterator, Sequence

import attrs

_COMMON = (
    "the of and to a in is that it was for on are as with they be at one have this from or had by but some what there "
    "we can out other were all your when up use word how said an each she which do their time if will way about many "
    "then them would write like so these her long make thing see him two has look more day could go come did my sound "
    "no most number who over know water than call first people may down side been now find any new work part take get "
    "place made live where after back little only round man year came show every good me give our under name very "
    "through just form much great think say help low line before turn cause same mean differ move right old too does "
    "tell set three want air well also play small end put home read hand port large spell add even land here must big "
    "high such follow act why ask men change went light kind off need house picture try us again point project note "
    "meeting review idea draft question answer decision budget plan week customer design release issue document team "
    "list link source summary call reading research report schedule travel health recipe garden invoice contract"
)
_ONSETS = "b bl br c ch cl cr d dr f fl fr g gl gr h j k l m n p pl pr qu r s sc sh sl sp st str t th tr v w wh"
_NUCLEI = "a e i o u ai ea ee ie oa oo ou"
_CODAS = " b ck d f g ll m n nd ng nt p r rd rk rm rn s ss st t th x"  # codespell:ignore nd
_ENDINGS = ("", "", "", "", "ing", "ed", "er", "ly", "s", "s", "tion", "ment", "able", "al")  # codespell:ignore ment
_RARE = ("café", "naïve", "Zürich", "→", "“quoted”", "€ 120", "✓", "résumé")
_WORDS = 20_000
_PHRASES = 200_000
_SUBJECT_PHRASES = 16
_SUBJECT_SHARE = 0.45
_EPOCH = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


@attrs.frozen
class _Stock:
    """Phrases and how often each is used, as running totals."""

    phrases: Sequence[str]
    totals: Sequence[float]
    words: Sequence[str]
    word_totals: Sequence[float]


@functools.cache
def _stock() -> _Stock:
    chance = random.Random(11)  # noqa: S311 - filler text
    words = _COMMON.split()
    onsets, nuclei, codas = _ONSETS.split(), _NUCLEI.split(), _CODAS.split(" ")
    known = set(words)
    while len(words) < _WORDS:
        syllables = chance.choices((1, 2, 3), (5, 4, 1))[0]
        word = "".join(chance.choice(onsets) + chance.choice(nuclei) for _ in range(syllables))
        word += chance.choice(codas) + chance.choice(_ENDINGS)
        if word not in known:
            known.add(word)
            words.append(word)
    word_totals = list(itertools.accumulate(1 / (rank + 2.7) for rank in range(_WORDS)))
    lengths = chance.choices((1, 2, 3, 4, 5), (34, 26, 20, 12, 8), k=_PHRASES)
    phrases = [" ".join(chance.choices(words, cum_weights=word_totals, k=length)) for length in lengths]
    phrases[-len(_RARE) :] = _RARE
    totals = list(itertools.accumulate(1 / (rank + 30) ** 0.75 for rank in range(_PHRASES)))
    return _Stock(phrases, totals, words, word_totals)


@attrs.frozen(kw_only=True)
class Page:
    """One note before it is JSON."""

    path: str
    frontmatter: str
    paragraphs: list[str]

    @property
    def body(self) -> str:
        """The text."""
        return "\n\n".join(self.paragraphs) + "\n"


class Prose:
    """What one note is about, and sentences about it; everything follows from *chance*."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._stock = _stock()
        self._subject = chance.choices(self._stock.phrases, k=_SUBJECT_PHRASES)

    def title(self) -> str:
        """Return a few words."""
        return " ".join(self._chance.choices(self._stock.words, cum_weights=self._stock.word_totals, k=4)).capitalize()

    def sentences(self, count: int) -> str:
        """Return one paragraph."""
        chance = self._chance
        lengths = chance.choices(range(3, 11), k=count)
        total = sum(lengths)
        phrases = chance.choices(self._stock.phrases, cum_weights=self._stock.totals, k=total)
        for place in range(total):
            if chance.random() < _SUBJECT_SHARE:
                phrases[place] = chance.choice(self._subject)
        found = []
        start = 0
        for length in lengths:
            found.append(" ".join(phrases[start : start + length]).capitalize())
            start += length
        return ". ".join(found) + "."

    def paragraph(self) -> str:
        """Return a paragraph, a list, a heading or a task, as notes have them."""
        chance = self._chance
        kind = chance.random()
        if kind < 0.7:
            return self.sentences(chance.randint(2, 7))
        if kind < 0.85:
            mark = chance.choice(("- ", "- [ ] ", "1. ", "- [x] "))
            return "\n".join(mark + self.sentences(1) for _ in range(chance.randint(2, 6)))
        if kind < 0.95:
            return f"## {self.title()}"
        return f"See [[{self.title().lower().replace(' ', '-')}]] and https://example.org/{chance.getrandbits(48):012x}"


def moment(day: float) -> str:
    """Return the time *day* days after the first one, as hubs write it."""
    text = (_EPOCH + dt.timedelta(days=day)).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def frontmatter(chance: random.Random, prose: Prose, *, title: str, created: float, updated: float) -> str:
    """Return the JSON text in front of a note."""
    fields = {
        "title": title,
        "tags": prose.title().lower().split()[: chance.randint(0, 4)],
        "project": chance.choice(("inbox", "research", "home", "work", "journal", "reading")),
        "created_at": moment(created),
        "updated_at": moment(updated),
        "source": chance.choice(("web", "cli", "mcp", "import")),
        "id": f"{chance.getrandbits(64):016x}",
    }
    return json.dumps(fields, separators=(",", ":"))


def page(chance: random.Random, *, number: int, size_bytes: int, attachment_bytes: int = 0) -> Page:
    """Make a note of about *size_bytes*, with a picture in it when *attachment_bytes* says so."""
    prose = Prose(chance)
    title = prose.title()
    created = chance.random() * 700
    paragraphs = [f"# {title}"]
    size = 0
    while size < size_bytes:
        paragraphs.append(prose.paragraph())
        size += len(paragraphs[-1])
    if attachment_bytes:
        picture = base64.b64encode(chance.randbytes(attachment_bytes)).decode()
        paragraphs.append(f"![scan](data:image/png;base64,{picture})")
    folder = chance.choice(("inbox", "projects/alpha", "projects/beta", "journal/2025", "people", "areas/home"))
    return Page(
        path=f"{folder}/{title.lower().replace(' ', '-')}-{number:05d}.md",
        frontmatter=frontmatter(chance, prose, title=title, created=created, updated=created + chance.random() * 20),
        paragraphs=paragraphs,
    )


def note_sizes(chance: random.Random) -> int:
    """Draw how long a note is: most are short, some long; 2 kB on average."""
    return min(int(chance.lognormvariate(7.15, 0.9)), 60_000)


def notes_stream(chance: random.Random) -> Iterator[bytes]:
    """Yield notes as JSON for ever, as they lie one after another in a canister's memory."""
    for number in itertools.count():
        note = page(chance, number=number, size_bytes=note_sizes(chance))
        fields = {"path": note.path, "frontmatter": note.frontmatter, "body": note.body}
        yield json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
