"""The languages that Whisper supports, and the options that each model size supports; pure.

The API process validates requests with it, without torch; a test compares the table with whisper.tokenizer.LANGUAGES.
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
"""Code by English name, including the aliases that whisper accepts."""

_CANTONESE_SIZES = frozenset({"large", "large-v3", "turbo", "large-v3-turbo", "distil-large-v3", "distil-large-v3.5"})
_SPECIAL_TOKEN = re.compile(r"<\|[^|]*\|>")


def language_code(language: str | None) -> str | None:
    """Return the code of a language given as code or English name; None for None, "" and "auto", to detect it.

    Raises MalformedRequest for a language that Whisper does not support.
    """
    name = (language or "auto").strip().lower()
    if name in ("", "auto"):
        return None
    code = name if name in LANGUAGES else CODE_BY_NAME.get(name)
    if code is None:
        raise MalformedRequest(
            reason=f"the language '{name[:40]}' is unknown; use a code such as 'en' or 'pt', or 'auto'"
        )
    return code


def check_options(options: Options, size: str) -> None:
    """Raise MalformedRequest with the reason if a model of this size does not support the options."""
    language_code(options.language)
    reasons = (_language_reason(options, size), _temperature_reason(options), _prompt_reason(options))
    for reason in filter(None, reasons):
        raise MalformedRequest(reason=reason)


def _language_reason(options: Options, size: str) -> str | None:
    code = language_code(options.language)
    if is_english_only(size) and code not in (None, "en"):
        return f"the model '{size}' supports English only; '{code}' needs a multilingual model such as '{size[:-3]}'"
    if is_english_only(size) and options.task == "translate":
        return f"the model '{size}' supports English only and cannot translate; use one such as '{size[:-3]}'"
    if code == "yue" and size not in _CANTONESE_SIZES:
        return f"the model '{size}' does not support 'yue' (Cantonese); use large-v3 or turbo, or the language 'zh'"
    return None


def _temperature_reason(options: Options) -> str | None:
    # NaN must not reach the sampler, and all its comparisons are False: require a finite number in range.
    if options.temperature is None or (math.isfinite(options.temperature) and 0 <= options.temperature <= 1):
        return None
    return f"temperature must be between 0 and 1, not {options.temperature}"


def _prompt_reason(options: Options) -> str | None:
    # openai-whisper's tokenizer raises on special tokens; faster-whisper's would interpret them.
    if options.initial_prompt is None or not _SPECIAL_TOKEN.search(options.initial_prompt):
        return None
    return "initial_prompt must be plain text, without special tokens such as <|endoftext|>"
