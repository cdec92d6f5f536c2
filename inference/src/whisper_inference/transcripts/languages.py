"""The languages that Whisper knows, and what a model of a given size can be asked; pure.

The API process validates with it, without torch; a test holds the table to whisper.tokenizer.LANGUAGES.
"""

from __future__ import annotations

import math
import re

from whisper_inference.errors import MalformedRequest
from whisper_inference.transcripts.transcript import Options
from whispermodel.catalog import is_english_only

_CODES_AND_NAMES = """
en english|zh chinese|de german|es spanish|ru russian|ko korean|fr french|ja japanese|pt portuguese|tr turkish|pl polish
ca catalan|nl dutch|ar arabic|sv swedish|it italian|id indonesian|hi hindi|fi finnish|vi vietnamese|he hebrew
uk ukrainian|el greek|ms malay|cs czech|ro romanian|da danish|hu hungarian|ta tamil|no norwegian|th thai|ur urdu
hr croatian|bg bulgarian|lt lithuanian|la latin|mi maori|ml malayalam|cy welsh|sk slovak|te telugu|fa persian|lv latvian
bn bengali|sr serbian|az azerbaijani|sl slovenian|kn kannada|et estonian|mk macedonian|br breton|eu basque|is icelandic
hy armenian|ne nepali|mn mongolian|bs bosnian|kk kazakh|sq albanian|sw swahili|gl galician|mr marathi|pa punjabi
si sinhala|km khmer|sn shona|yo yoruba|so somali|af afrikaans|oc occitan|ka georgian|be belarusian|tg tajik|sd sindhi
gu gujarati|am amharic|yi yiddish|lo lao|uz uzbek|fo faroese|ht haitian creole|ps pashto|tk turkmen|nn nynorsk
mt maltese|sa sanskrit|lb luxembourgish|my myanmar|bo tibetan|tl tagalog|mg malagasy|as assamese
tt tatar|haw hawaiian|ln lingala
ha hausa|ba bashkir|jw javanese|su sundanese|yue cantonese
"""

LANGUAGES: dict[str, str] = {
    code: name
    for entry in _CODES_AND_NAMES.strip().replace("\n", "|").split("|")
    for code, _, name in [entry.partition(" ")]
}
"""English name by code, in the order of the models' language tokens."""

_ALIASES = {
    "burmese": "my",
    "castilian": "es",
    "flemish": "nl",
    "haitian": "ht",
    "letzeburgesch": "lb",
    "mandarin": "zh",
    "moldavian": "ro",
    "moldovan": "ro",
    "panjabi": "pa",
    "pushto": "ps",
    "sinhalese": "si",
    "valencian": "ca",
}

CODE_BY_NAME: dict[str, str] = {name: code for code, name in LANGUAGES.items()} | _ALIASES
"""Code by English name, with the aliases that whisper accepts."""

_HAVE_CANTONESE = frozenset({"large", "large-v3", "turbo", "large-v3-turbo", "distil-large-v3", "distil-large-v3.5"})
_SPECIAL_TOKEN = re.compile(r"<\|[^|]*\|>")


def language_code(language: str | None) -> str | None:
    """Return the code of a language given as code or English name; None, "" and "auto" mean: detect it.

    Raises MalformedRequest for a language that Whisper does not know.
    """
    wanted = (language or "auto").strip().lower()
    if wanted in ("", "auto"):
        return None
    code = wanted if wanted in LANGUAGES else CODE_BY_NAME.get(wanted)
    if code is None:
        raise MalformedRequest(
            reason=f"the language '{wanted[:40]}' is unknown; use a code such as 'en' or 'pt', or 'auto'"
        )
    return code


def check_options(options: Options, size: str) -> None:
    """Raise MalformedRequest, with the reason in words, when a model of this size cannot do what is asked."""
    language_code(options.language)
    reasons = (_language_reason(options, size), _temperature_reason(options), _prompt_reason(options))
    for reason in filter(None, reasons):
        raise MalformedRequest(reason=reason)


def _language_reason(options: Options, size: str) -> str | None:
    code = language_code(options.language)
    if is_english_only(size) and code not in (None, "en"):
        return f"the model '{size}' hears English only; '{code}' needs a multilingual model such as '{size[:-3]}'"
    if is_english_only(size) and options.task == "translate":
        return f"the model '{size}' hears English only and cannot translate; use one such as '{size[:-3]}'"
    if code == "yue" and size not in _HAVE_CANTONESE:
        return f"the model '{size}' does not know 'yue' (Cantonese); large-v3 and turbo do, or use 'zh'"
    return None


def _temperature_reason(options: Options) -> str | None:
    # Not only a plain range test: a NaN compares False to everything and would reach the sampler.
    if options.temperature is None or (math.isfinite(options.temperature) and 0 <= options.temperature <= 1):
        return None
    return f"temperature must be between 0 and 1, not {options.temperature}"


def _prompt_reason(options: Options) -> str | None:
    # openai-whisper's tokenizer raises on such text, faster-whisper's would obey it.
    if options.initial_prompt is None or not _SPECIAL_TOKEN.search(options.initial_prompt):
        return None
    return "initial_prompt must be plain text, without special tokens such as <|endoftext|>"
