"""The server's messages for people, in English and Portuguese, by code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Language = Literal["en", "pt"]

_SENTENCES: dict[str, tuple[str, str]] = {
    "internal": (
        "Internal error; see the server's log for the cause.",
        "Erro interno; a causa está no log do servidor.",
    ),
    "malformed-request": ("The request is malformed: {reason}.", "A requisição está malformada: {reason}."),
    "unauthenticated": (
        "A valid API key is required: send 'Authorization: Bearer KEY'.",
        "É necessária uma chave de API válida: envie 'Authorization: Bearer CHAVE'.",
    ),
    "scope-missing": ("This key lacks the scope '{scope}'.", "Esta chave não tem o escopo '{scope}'."),
    "job-not-found": (
        "There is no job '{job}'; finished jobs are kept for WHISPER_JOB_RETENTION.",
        "Não existe a tarefa '{job}'; tarefas concluídas são mantidas por WHISPER_JOB_RETENTION.",
    ),
    "model-not-found": (
        "Model '{model}' is not served here; GET /v1/models lists the models that are.",
        "Não existe o modelo '{model}' aqui; GET /v1/models lista o que é servido.",
    ),
    "model-unavailable": ("The model cannot be served now: {reason}", "O modelo não pode ser servido agora: {reason}"),
    "cluster-unreachable": (
        "The gateway cannot connect to a cluster: {reason}.",
        "O gateway não consegue conectar-se a um cluster: {reason}.",
    ),
    "model-not-named": (
        "Several models are served: name one in the field 'model', in the header X-Whisper-Model or in the path "
        "/models/NAME/...; there are {models}.",
        "Há vários modelos: indique um no campo 'model', no cabeçalho X-Whisper-Model ou no caminho /models/NOME/...; "
        "existem {models}.",
    ),
    "model-ambiguous": (
        "Model '{model}' can be any of {models}: use one of these names.",
        "O modelo '{model}' pode ser qualquer um de {models}: use um destes nomes.",
    ),
    "no-model-file": (
        "This server runs without a model file: start it with --model-file FILE, or use GET /model/status.",
        "Este servidor roda sem arquivo de modelo: inicie-o com --model-file ARQUIVO, ou use GET /model/status.",
    ),
    "result-not-ready": (
        "Job '{job}' is {job_status}; its result is available once it has succeeded.",
        "A tarefa '{job}' está {job_status}; o resultado fica disponível quando ela for concluída com sucesso.",
    ),
    "idempotency-conflict": (
        "The Idempotency-Key '{key}' was already used by job '{job}' with a different request: use a new key.",
        "A Idempotency-Key '{key}' pertence à tarefa '{job}', que era outra requisição: use uma chave nova.",
    ),
    "job-cancelled": ("Job '{job}' was cancelled.", "A tarefa '{job}' foi cancelada."),
    "superseded": (
        "The {command} was cancelled: a later {by} replaced it.",
        "O comando {command} foi abandonado: um {by} posterior tomou o seu lugar.",
    ),
    "overruled": (
        "The load was cancelled because something else takes precedence: {decision}",
        "O comando load foi abandonado, pois outra coisa decide: {decision}",
    ),
    "audio-too-large": (
        "The audio is larger than the limit of {limit_bytes} bytes (WHISPER_MAX_AUDIO_BYTES).",
        "O áudio excede o limite de {limit_bytes} bytes (WHISPER_MAX_AUDIO_BYTES).",
    ),
    "not-audio": (
        "The file is not recognised as audio: {reason}.",
        "O arquivo não é reconhecido como áudio: {reason}.",
    ),
    "audio-damaged": ("The audio is damaged: {reason}.", "O áudio está danificado: {reason}."),
    "audio-too-long": (
        "The audio is {seconds} s long, over the limit of {limit_seconds} s (WHISPER_MAX_AUDIO_SECONDS).",
        "O áudio dura {seconds} s, mais que o limite de {limit_seconds} s (WHISPER_MAX_AUDIO_SECONDS).",
    ),
    "too-many-waiting": (
        "{limit} clients are already waiting (WHISPER_MAX_WAITING): retry later, or use POST /jobs.",
        "Já há {limit} clientes esperando (WHISPER_MAX_WAITING): tente mais tarde ou use POST /jobs.",
    ),
    "not-started-in-time": (
        "The job did not start within the requested {limit} (start_within): {cause}",
        "A tarefa não começou em {limit}, como pedido (start_within): {cause}",
    ),
    "too-many-uploads": (
        "This key already has {limit} unfinished uploads, the maximum for one key (half of WHISPER_MAX_WAITING): retry "
        "when one finishes, or use POST /jobs.",
        "Esta chave já tem {limit} envios não concluídos, o máximo por chave (metade de WHISPER_MAX_WAITING): tente "
        "quando um terminar ou use POST /jobs.",
    ),
    "too-many-stored-bytes": (
        "There is no room for this audio: stored audio may take {limit_bytes} bytes (WHISPER_MAX_STORED_BYTES). Retry "
        "later.",
        "Não há espaço para este áudio: o áudio guardado pode ocupar {limit_bytes} bytes (WHISPER_MAX_STORED_BYTES). "
        "Tente mais tarde.",
    ),
    "model-load-failed": ("The model could not be loaded: {cause}", "O modelo não pôde ser carregado: {cause}"),
    "checkpoint-missing": ("There is no checkpoint at '{path}': {hint}", "Não há checkpoint em '{path}': {hint}"),
    "checkpoint-damaged": (
        "The checkpoint '{path}' cannot be used: {reason}",
        "O checkpoint '{path}' não pode ser usado: {reason}",
    ),
    "download-failed": (
        "The checkpoint of '{model}' could not be downloaded from {url} ({reason}); without a network, put the file on "
        "this machine and set WHISPER_MODEL_PATH to it.",
        "O checkpoint de '{model}' não pôde ser baixado de {url} ({reason}); sem rede, coloque o arquivo nesta máquina "
        "e aponte WHISPER_MODEL_PATH para ele.",
    ),
    "engine-missing": (
        "The engine '{engine}' is not installed here: install whisper-inference[{extra}].",
        "O motor '{engine}' não está instalado aqui: instale whisper-inference[{extra}].",
    ),
    "waited-too-long": (
        "Timed out after {seconds} s. Job '{job}' is still in progress; follow the Location header for its result.",
        "Não terminou em {seconds} s; a tarefa '{job}' continua, e o Location diz onde perguntar.",
    ),
    "shutting-down": (
        "The server is shutting down: retry shortly.",
        "O servidor está desligando: tente novamente em instantes.",
    ),
    "refused-for-now": (
        "The model is set to stay unloaded and demandPolicy is Refuse: new work is accepted once its spec changes.",
        "O modelo está configurado para ficar descarregado e a demandPolicy é Refuse: trabalho novo é aceito quando o "
        "spec mudar.",
    ),
    "refused-until": (
        "The model is set to stay unloaded and demandPolicy is Refuse: new work is accepted from {accepts_at}.",
        "O modelo está configurado para ficar descarregado e a demandPolicy é Refuse: trabalho novo volta a ser "
        "aceito em {accepts_at}.",
    ),
    "worker-lost": (
        "The transcription process crashed {attempts} times ({cause}); the job has failed.",
        "O processo de transcrição terminou {attempts} vezes ({cause}); a tarefa foi abandonada.",
    ),
    "transcription-failed": ("The engine failed: {reason}", "O motor falhou: {reason}"),
    "data-folder-busy": (
        "The data folder '{folder}' is in use by another server (process {pid}): stop that server, or give this one "
        "its own folder with WHISPER_DATA_DIR.",
        "A pasta de dados '{folder}' está em uso por outro servidor (processo {pid}): pare-o, ou dê a este outra pasta "
        "com WHISPER_DATA_DIR.",
    ),
    "data-folder-too-new": (
        "The job database has version {found}, written by a newer release; this release supports version {known}: "
        "start the newer release, or give this one its own folder with WHISPER_DATA_DIR.",
        "O banco de tarefas tem a versão {found}, de uma versão mais nova do programa; esta conhece a versão {known}: "
        "inicie a mais nova, ou dê a esta outra pasta com WHISPER_DATA_DIR.",
    ),
    "storage-unusable": (
        "Jobs cannot be stored in '{place}' ({reason}): fix that, or point WHISPER_DATA_DIR, WHISPER_DATABASE_URL or "
        "WHISPER_OBJECT_STORE_URL elsewhere.",
        "As tarefas não podem ser guardadas em '{place}' ({reason}): corrija isso, ou aponte WHISPER_DATA_DIR, "
        "WHISPER_DATABASE_URL ou WHISPER_OBJECT_STORE_URL para outro lugar.",
    ),
    "database-unavailable": (
        "The job database is unavailable ({reason}): retry later; see the server's log for the cause.",
        "O banco de tarefas não pode ser usado agora ({reason}): tente mais tarde; a causa está no log do servidor.",
    ),
    "disk-full": ("The disk is full: nothing was stored.", "O disco está cheio: nada foi guardado."),
    "model-does-not-fit": (
        "The model does not fit into {where}: it needs {needed_bytes} bytes, but only {available_bytes} are available.",
        "O modelo não cabe em {where}: são necessários {needed_bytes} bytes, mas só há {available_bytes} disponíveis.",
    ),
    "loaded": (
        "Model '{model}' is loaded on {device}; ready to transcribe.",
        "✅ Modelo '{model}' carregado com sucesso no {device}. Sistema pronto para transcrever.",
    ),
    "load-accepted": (
        "Model '{model}' is loading; GET /model/status reports its progress.",
        "Modelo '{model}' está sendo carregado; GET /model/status diz quando estiver pronto.",
    ),
    "unloaded": (
        "Model '{model}' was unloaded from {device} and its resources were released. The next task loads it again.",
        "✅ Modelo '{model}' descarregado com sucesso do {device}. Recursos liberados; a próxima tarefa o recarrega.",
    ),
    "not-loaded": (
        "Model '{model}' was not loaded; there was nothing to release.",
        "Modelo '{model}' não estava carregado; nada a liberar.",
    ),
    "unload-accepted": (
        "Model '{model}' is unloading; GET /model/status reports its progress.",
        "Modelo '{model}' está sendo descarregado; GET /model/status diz quando tiver saído.",
    ),
    "unload-pending": (
        "Model '{model}' will be unloaded when the running work ends: {jobs}.",
        "Modelo '{model}' será descarregado quando o trabalho em execução terminar: {jobs}.",
    ),
    "not-released": (
        "Model '{model}' was unloaded from {device}, but {residue_bytes} bytes of memory are still in use.",
        "Modelo '{model}' descarregado do {device}, mas ainda há memória em uso: {residue_bytes} bytes.",
    ),
}

_TITLES = {
    "internal": "Internal error",
    "scope-missing": "Missing scope",
    "overruled": "Load overridden",
    "too-many-waiting": "Too many waiting clients",
    "not-started-in-time": "Not started in time",
    "too-many-uploads": "Too many unfinished uploads",
    "too-many-stored-bytes": "Too much stored audio",
    "waited-too-long": "Timed out",
    "refused-for-now": "Not accepting requests",
    "refused-until": "Not accepting requests",
    "worker-lost": "Worker crashed",
}
"""Titles of codes that do not read as a title themselves."""


def title_of(code: str) -> str:
    """Return the title of a code, in English."""
    return _TITLES.get(code) or code.replace("-", " ").capitalize()


def render(code: str, language: Language, params: Mapping[str, str | int | float]) -> str:
    """Return the sentence for a code in a language."""
    english, portuguese = _SENTENCES[code]
    return (portuguese if language == "pt" else english).format(**params)


def language_of(accept_language: str | None) -> Language:
    """Return pt when an Accept-Language header names Portuguese first, else en (RFC 9110, 12.5.4)."""
    first = (accept_language or "").split(",", 1)[0].split(";", 1)[0].strip().lower()
    return "pt" if first == "pt" or first.startswith("pt-") else "en"
