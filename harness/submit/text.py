"""Words from outside: what a name or a title may be made of, so that nobody can pass for another or hide anything."""

from __future__ import annotations

import unicodedata

MARKS = " -'.,:;()&+/!?%"
"""What may stand between letters and digits. Left out is what Markdown, HTML or a shell could take for its own."""
LETTERS = ("Lu", "Ll", "Lo")
FILLERS = "\u115f\u1160\u3164\uffa0\u2800"
"""Letters that show up as nothing."""
_TOGETHER = {"CJK": "CJK", "HIRAGANA": "CJK", "KATAKANA": "CJK", "KATAKANA-HIRAGANA": "CJK"}


def refuse_odd_text(text: str, marks: str = MARKS) -> None:
    """Refuse a text that is not of letters of one script, digits and plain punctuation, as it shows itself.

    Raises:
        ValueError: it is not; the message names the character.
    """
    if text != unicodedata.normalize("NFC", text) or text != unicodedata.normalize("NFKC", text):
        raise ValueError("holds letters in disguise (combined marks, full-width or styled letters); write them plainly")
    if not text or text != text.strip() or "  " in text:
        raise ValueError("begins or ends with a blank, or has two in a row; leave them out")
    scripts: dict[str, str] = {}
    for letter in text:
        if letter in marks or letter in "0123456789":
            continue
        called = unicodedata.name(letter, hex(ord(letter)))
        if unicodedata.category(letter) not in LETTERS or letter in FILLERS:
            raise ValueError(f"holds {called}, which could steer or mislead what shows it; leave it out")
        script = called.split(" ")[0]
        scripts.setdefault(_TOGETHER.get(script, script), letter)
    if len(scripts) > 1:
        (first, one), (second, other) = list(scripts.items())[:2]
        raise ValueError(
            f"mixes scripts: {unicodedata.name(one)} is {first.lower()}, {unicodedata.name(other)} is {second.lower()}, and "
            "letters of two scripts look alike; use one"
        )
    if not text[0].isalnum():
        raise ValueError(f"begins with {text[0]!a}, which a spreadsheet could take for a formula; begin with a letter or a digit")
