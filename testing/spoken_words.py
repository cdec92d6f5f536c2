"""The words of the bundled speech. How an engine punctuates and capitalises them differs between processors."""

from __future__ import annotations

import re

ASK_NOT = "ask not what your country can do for you"
SPOKEN = f"and so my fellow americans {ASK_NOT} ask what you can do for your country"


def normalized(text: str) -> str:
    """Return the words alone, in lower case."""
    return " ".join(re.findall(r"[a-z]+", text.lower()))
