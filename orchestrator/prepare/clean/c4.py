"""C4's rules (Raffel and others 2020, and their code): lines that do not read like prose go, and pages that are none.

A compiled pass decides most lines. Lines with a bracket, and in a text with one of the phrases all that are left, are
looked at one by one."""

import re
from typing import NamedTuple

from orchestrator.prepare.clean.sample import Count, Unfit, below
from orchestrator.prepare.clean.text import Text

POLICIES = (
    *("terms of use", "privacy policy", "cookie policy"),
    *("uses cookies", "use of cookies", "use cookies"),
)
_SIGNS = ("terms of use", "privacy policy", "cookie")  # in each policy is one of them
_MARKS = (".", "?", "!", '"', "'")
_CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")


def c4(
    text: Text,
    min_sentences: Count = 5,
    min_line_words: Count = 3,
    max_word_length: Count = 1000,
    line_ends: bool = True,
    citations: bool = True,
    lorem_ipsum: bool = True,
    curly_brackets: bool = True,
    javascript: bool = True,
    policies: bool = True,
) -> str | Unfit:
    """Without its lines that are short, do not end a sentence, or speak of JavaScript, cookies and terms of use.

    Dropped whole if a line that is left has `lorem ipsum` or a curly bracket, or with too few sentences left."""
    from orchestrator.prepare.clean.lines import BRACKET, ENDED

    wanted = _Wanted(lorem_ipsum, javascript, curly_brackets, policies)
    look_at_all = wanted.may_occur(text.lower())
    lines = text.lines
    brackets = lines.marks & BRACKET > 0
    stays = (lines.words >= max(1, min_line_words)) & (lines.longest_word <= (max_word_length or len(text)))
    if line_ends:
        stays &= brackets | (lines.marks & ENDED > 0)
    kept, sentences = [], 0
    for line, stay, bracket, count in zip(
        lines.texts, stays.tolist(), brackets.tolist(), lines.sentences.tolist(), strict=True
    ):
        if not stay:
            continue
        line = line.strip()
        if bracket:
            mended = _CITATION.sub("", line) if citations else line
            if line_ends and (not mended.endswith(_MARKS) or mended.endswith("...")):
                continue
            count = count if mended == line else int(Text(mended).lines.sentences.sum())
            line = mended
        if bracket or look_at_all:
            verdict = wanted.judge(line)
            if isinstance(verdict, Unfit):
                return verdict
            if not verdict:
                continue
        kept.append(line)
        sentences += count
    return below(sentences, min_sentences, "sentences") or "\n".join(kept).strip()


class _Wanted(NamedTuple):
    """Which of what a line may hold matters."""

    lorem_ipsum: bool
    javascript: bool
    curly_brackets: bool
    policies: bool

    def may_occur(self, small: str) -> bool:
        """Whether a phrase stands anywhere in a text in small letters. Brackets are seen by the compiled pass."""
        return (
            (self.lorem_ipsum and "lorem ipsum" in small)
            or (self.javascript and "javascript" in small)
            or (self.policies and any(sign in small for sign in _SIGNS))
        )

    def judge(self, line: str) -> bool | Unfit:
        """Whether the line stays, or why the page goes; the order is that of C4's code."""
        small = line.lower()
        if self.lorem_ipsum and "lorem ipsum" in small:
            return Unfit("it has a line with 'lorem ipsum'")
        if self.javascript and "javascript" in small:
            return False
        if self.curly_brackets and "{" in line:
            return Unfit("it has a line with a curly bracket")
        return not (self.policies and any(policy in small for policy in POLICIES))
