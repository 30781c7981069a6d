"""The basic tokenisation of mteval-v13a, on which BLEU and NIST are defined. Case is folded."""

import regex

_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_RULES = (
    # every printable ASCII sign but ' . , - stands alone
    (regex.compile(r"([[!-~]--[0-9A-Za-z'.,\-]])", regex.V1), r" \1 "),
    # . and , stay inside a number only; a match uses up its neighbour, so that "..5" comes apart as mteval takes it apart
    (regex.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (regex.compile(r"([.,])([^0-9])"), r" \1 \2"),
    # 7-11 is two numbers, family-friendly one word
    (regex.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def tokenise(text: str) -> list[str]:
    """Return the lower-case tokens of one output or reference; none for a blank text."""
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, sign in _ENTITIES:
        text = text.replace(entity, sign)
    text = f" {text.lower()} "  # the rules for . and , look at a neighbour on each side
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text.split()
