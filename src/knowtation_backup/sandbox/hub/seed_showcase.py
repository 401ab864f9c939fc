"""
Everything that makes a hub hard to export, in a handful of tenants.

========================  =============================================================================================
``default``               the tenant of requests without a tenant; an empty vault
``github:texts``          non-ASCII paths, every control character, NUL, CR and LF, quotation marks, 100 KB bodies
``github:front-matter``   YAML, JSON, JSON inside a JSON string, malformed JSON, empty text
``github:duplicates``     one proposal id in two vaults and twice in one vault; a blank stored vault id; a hidden vault
``github:malformed``      proposals whose reply is not JSON, next to one with every field filled
``github:proposals-only`` no note was ever written: in no index
``github:oversized``      a vault that does not fit one reply, next to one that does
========================  =============================================================================================
"""

from __future__ import annotations

from typing import Final

from .seed_texts import GeneratedTexts, Note, Proposal, Vault

__all__ = ["showcase_vaults"]

_CONTROLS: Final = "".join(map(chr, range(0x20))) + "\x7f\x80\x9f"
_DUPLICATE_ID: Final = "prop-1775660000123456789"

_TEXTS: Final = (
    Note(path="日記/2026-04-08.md", body="今日は晴れ。\n"),
    Note(
        path="café/naïve résumé.md",
        body="Ünïcödé 😀 👩‍👩‍👧‍👦 \u202eright to left\u202c e\u0301 \u2028 \u2029 \ufeff \uffff",
    ),
    Note(path="мир/שלום/مرحبا.md", body="مرحبا بالعالم"),
    Note(path="emoji/🗂️.md", body="𠮷 and 🜚 lie beyond the basic plane, so does \U0010ffff"),
    Note(path="controls/all.md", frontmatter=f'{{"c":"{_CONTROLS}"}}', body=_CONTROLS),
    Note(path="controls/nul.md", body="before\x00after\x00"),
    Note(path="controls/line ends.md", body="unix\nwindows\r\nold mac\rlone \n\r mix\n\n\r\n"),
    Note(path="controls/tab\tand\nnewline in path.md", body="odd, and allowed"),
    Note(path='quotes/"quoted" \\ back\\\\slash.md', body='"\\" \\n is not a line end, \\u0041 is not A, \\ ends\\'),
    Note(path="percent/100% %41 %C3%A9.md", body="a path that looks encoded"),
    Note(path="dots/../../etc/passwd", body="a path that must not become a file there"),
    Note(path="/leading/slash.md", body="absolute"),
    Note(path="trailing/slash/", body="folder-like"),
    Note(path="blank/ .md", body=" "),
    Note(path="empty.md", frontmatter="", body=""),
    Note(path=f"long/{'x' * 1000}.md", body="a path of 1000 characters"),
    Note(path="json/body.md", body='{"path":"not this","body":"nor this","frontmatter":{"nor":"this"}}'),
)
_FRONT_MATTERS: Final = (
    ("yaml.md", 'title: A note\ntags:\n  - a\n  - b\nquote: "it\'s"\n'),
    ("json.md", '{"title":"A note","tags":["a","b"],"nested":{"path":"p","n":1.50,"t":true,"z":null}}'),
    ("json spaced.md", '{ "title" : "A note" ,\n  "tags" : [ ] }'),
    ("json string.md", '"{\\"title\\":\\"inside a string\\"}"'),
    ("json string in object.md", '{"raw":"{\\"title\\":\\"\\\\u00e9 \\\\\\" deep\\"}"}'),
    ("duplicate keys.md", '{"a":1,"a":2}'),
    ("large number.md", '{"n":12345678901234567890123456789.000000000000000001}'),
    ("surrogate escape.md", '{"half":"\\ud800","pair":"\\ud83d\\ude00"}'),
    ("malformed.md", '{"title":"never closed'),
    ("empty.md", ""),
    ("empty object.md", "{}"),
    ("blank.md", "  \n"),
    ("crlf yaml.md", "title: windows\r\ntags: []\r\n"),
    ("fence.md", "---\ntitle: has its own fence\n---\n"),
)
_FILLED: Final = Proposal(
    proposal_id="prop-1775660000000000301",
    path="inbox/filled.md",
    vault_id="work",
    status="approved",
    intent='every "field" filled\n',
    base_state_id="state-1",
    external_ref="issue/7",
    updated_at="2026-04-09T08:00:00.001Z",
    evaluation_status="failed",
    evaluation_grade="C",
    evaluated_by="google:100000",
    evaluated_at="2026-04-08T16:00:00.000Z",
    review_queue="legal",
    review_severity="high",
    auto_flag_reasons_json='["size","tone"]',
    body='proposed body\nwith "quotes" and é\x07',
    frontmatter="status: draft\n",
    evaluation_checklist='[{"item":"spelling","passed":false}]',
    evaluation_comment="needs\twork",
    evaluation_waiver='{"by":"google:100000","at":"2026-04-09T08:00:00.000Z","reason":"urgent"}',
    review_hints="look at line 3",
    review_hints_at="2026-04-08T15:40:00.000Z",
    review_hints_model="hints-1",
    assistant_notes="seems fine",
    assistant_model="assistant-1",
    assistant_at="2026-04-08T15:45:00.000Z",
    suggested_labels='["a","\\u00e9"]',
    assistant_suggested_frontmatter='{"title":"Better","tags":["x"]}',
)


def showcase_vaults(*, oversized: bool, seed: int) -> tuple[Vault, ...]:
    """Return the tenants of this module's table; *oversized* decides on the last."""
    texts = GeneratedTexts(seed - 1)
    vaults = [
        Vault(user_id="default", notes=(Note(path="welcome.md", body="The tenant called default.\n"),)),
        Vault(user_id="default", vault_id="nothing-yet", create=True),
        Vault(user_id="github:texts", notes=_TEXTS),
        Vault(
            user_id="github:texts",
            vault_id="big-bodies",
            notes=tuple(Note(path=f"big/{place:02d}.md", body=texts.text(100_000)) for place in range(12)),
        ),
        Vault(
            user_id="github:front-matter",
            notes=tuple(Note(path=path, frontmatter=text, body=f"{path}\n") for path, text in _FRONT_MATTERS),
        ),
        *_duplicates(),
        *_malformed(),
        Vault(
            user_id="github:proposals-only",
            proposals=tuple(texts.proposal(900_000 + place, "default") for place in range(3)),
        ),
    ]
    if oversized:
        size = 100_000
        vaults += [
            Vault(user_id="github:oversized", notes=(Note(path="small.md", body="This vault can be read.\n"),)),
            Vault(
                user_id="github:oversized",
                vault_id="huge",
                notes=tuple(Note(path=f"huge/{place:02d}.md", body=texts.text(size)) for place in range(36)),
            ),
        ]
    return tuple(vaults)


def _duplicates() -> list[Vault]:
    user_id = "github:duplicates"
    notes = (Note(path="a.md", body="a"),)
    return [
        Vault(
            user_id=user_id,
            notes=notes,
            proposals=(
                Proposal(proposal_id=_DUPLICATE_ID, path="first.md", body="in default"),
                Proposal(proposal_id="prop-1775660000123456790", path="blank.md", vault_id="", body="blank vault id"),
            ),
        ),
        Vault(
            user_id=user_id,
            vault_id="work",
            notes=notes,
            proposals=(
                Proposal(proposal_id=_DUPLICATE_ID, path="second.md", vault_id="work", body="the same id in work"),
                Proposal(proposal_id="prop-1775660000123456791", path="once.md", vault_id="work", body="made first"),
                Proposal(proposal_id="prop-1775660000123456791", path="twice.md", vault_id="work", body="made second"),
            ),
        ),
        Vault(
            user_id=user_id,
            vault_id="hidden",
            proposals=(
                Proposal(
                    proposal_id="prop-1775660000123456792", path="hidden.md", vault_id="hidden", body="no note here"
                ),
            ),
        ),
    ]


def _malformed() -> list[Vault]:
    user_id = "github:malformed"
    return [
        Vault(
            user_id=user_id,
            notes=(Note(path="fine.md", body="fine"),),
            proposals=(
                Proposal(
                    proposal_id="prop-1775660000000000401",
                    path="labels.md",
                    body="its labels are not JSON\n" * 400,
                    suggested_labels='["never closed',
                ),
                Proposal(
                    proposal_id="prop-1775660000000000402",
                    path="front-matter.md",
                    body="its suggestion was cut",
                    assistant_suggested_frontmatter='{"title":"cut in the mid',
                ),
                Proposal(
                    proposal_id="prop-1775660000000000403",
                    path="control.md",
                    body="its suggestion holds a bare control character",
                    assistant_suggested_frontmatter='{"title":"line\nend"}',
                ),
            ),
        ),
        Vault(user_id=user_id, vault_id="work", notes=(Note(path="fine.md", body="also fine"),), proposals=(_FILLED,)),
    ]
