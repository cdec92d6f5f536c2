"""Routes of the model: load, unload, status and resource."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import JSONResponse

from whisper_inference.api.dependencies import (
    ControlUserDep,
    QueueDep,
    ServicesDep,
    UserDep,
    no_unknown_queries,
)
from whisper_inference.api.schema import RESOURCE, problems
from whisper_inference.errors import NoModelFile
from whisper_inference.messages import Language, language_of, render
from whisper_inference.model_control import Ended, GpuFacts, LoadReceipt, ModelMemory, UnloadReceipt
from whispermodel.instants import FIRST_YEAR
from whispermodel.planning.modes import ManualCommand
from whispermodel.states import Depth, Mode, State
from whispermodel.wire import (
    GpuInfo,
    LastLoad,
    LastUnload,
    LoadAnswer,
    Manual,
    Memory,
    ModelStatus,
    StatusMemory,
    UnloadAnswer,
)

router = APIRouter(prefix="/model", tags=["model"], dependencies=[Depends(no_unknown_queries)])

_MIB = 2**20
AcceptLanguage = Annotated[str | None, Header(description="pt: messages in Portuguese; else in English.")]


@router.post(
    "/load",
    response_model_exclude_unset=True,
    responses=problems(400, 404, 409, 503, 507) | {202: {"model": LoadAnswer}},
)
async def load(
    services: ServicesDep,
    principal: ControlUserDep,
    queue: QueueDep,
    response: Response,
    wait: Annotated[bool, Query(description="false: respond with 202 at once.")] = True,
    accept_language: AcceptLanguage = None,
) -> LoadAnswer:
    """Load the model; succeeds if it is already loaded."""
    before = queue.model.facts()
    language, name = language_of(accept_language), before.name
    if not wait:
        services.background.start(queue.model.load(principal.trigger))
        response.status_code = 202
        response.headers["Location"] = "/model/status"
        return LoadAnswer(success=True, message=render("load-accepted", language, {"model": name}), model_name=name)
    receipt = await queue.model.load(principal.trigger)
    return _loaded(receipt, name=name, language=language, loaded_before=before.state is State.LOADED)


@router.post(
    "/unload",
    response_model_exclude_unset=True,
    responses=problems(400, 404, 409, 503) | {202: {"model": UnloadAnswer}},
)
async def unload(  # noqa: PLR0913, PLR0917 (a query parameter each)
    services: ServicesDep,
    principal: ControlUserDep,
    queue: QueueDep,
    response: Response,
    wait: Annotated[bool, Query(description="false: respond at once, with 202 unless it is done.")] = True,
    timeout: Annotated[float, Query(ge=0, le=3600, description="Seconds to wait for running work.")] = 30.0,
    force: Annotated[bool, Query(description="Put running work back into the queue.")] = False,
    depth: Annotated[
        Depth, Query(description="cold: end all processes; warm: keep the imports for the next load.")
    ] = Depth.COLD,
    accept_language: AcceptLanguage = None,
) -> UnloadAnswer:
    """Unload the model after the running job; succeeds if nothing is loaded."""
    language, name = language_of(accept_language), queue.model.facts().name
    # It continues when nobody waits for it any more: it was accepted.
    unloading = services.background.start(queue.model.unload(principal.trigger, depth=depth, force=force))
    done, _ = await asyncio.wait({unloading}, timeout=timeout if wait else 0)
    if not done:
        response.status_code = 202
        executions = services.executions.running if services.executions else ()
        jobs = ", ".join((*queue.running, *executions))
        message = render("unload-pending" if jobs else "unload-accepted", language, {"model": name, "jobs": jobs})
        return UnloadAnswer(success=True, message=message, model_name=name, pending=True)
    return _unloaded(unloading.result(), name=name, language=language)


@router.get("/status", response_model_exclude_unset=True, responses=problems(400, 404))
async def status(services: ServicesDep, _principal: UserDep, queue: QueueDep) -> ModelStatus:
    """Return the model's state; never loads it and never counts as activity."""
    memory = await queue.model.memory()
    queued = await queue.queued()
    # After the last wait, so that all that follows is of one instant.
    now = queue.model.facts()
    loaded, began = now.state is State.LOADED, now.work_began_seconds
    answer = ModelStatus(
        loaded=loaded,
        state=now.state,
        model_name=now.name,
        device=now.device,
        memory=_held(memory, now.gpu_bytes, loaded=loaded),
        idle_seconds=round(now.idle_seconds, 3),
        work_began_seconds=None if began is None else round(began, 3),
        in_flight=queue.in_flight,
        queued=queued + now.expected + (services.executions.waiting if services.executions else 0),
        depth=None if loaded else now.depth,
        manual=_manual(now.manual),
        ready_in_seconds=now.ready_in_seconds,
        failure=str(now.failure) if now.failure else None,
        last_load=_last_load(now.last_load),
        last_unload=_last_unload(now.last_unload),
    )
    return answer.model_copy(update={"gpu_info": _gpu_info(memory.gpu)}) if memory.gpu else answer


@router.get("/resource", responses=problems(400, 404) | RESOURCE)
async def resource(_principal: UserDep, queue: QueueDep) -> JSONResponse:
    """Return the WhisperModel of the model file with its status, as `kubectl get -o json` would show it."""
    document = await queue.model.resource()
    if document is None:
        raise NoModelFile
    return JSONResponse(document)


def _held(memory: ModelMemory, gpu_bytes: tuple[int, int], *, loaded: bool) -> StatusMemory:
    allocated, reserved = gpu_bytes
    has_gpu = memory.gpu is not None
    held = StatusMemory(vram_mb=_mib(allocated), ram_mb=_mib(memory.ram_bytes), cuda_available=has_gpu)
    return held.model_copy(update={"vram_reserved_mb": _mib(reserved)}) if loaded else held


def _manual(command: ManualCommand | None) -> Manual | None:
    if command is None or command.at.year < FIRST_YEAR:
        # It was given before the machine's clock was set.
        return None
    return Manual(state=Mode.LOADED if command.state is Mode.LOADED else Mode.UNLOADED, at=command.at)


def _last_load(last: Ended[LoadReceipt] | None) -> LastLoad | None:
    if last is None:
        return None
    receipt = last.receipt
    return LastLoad(
        device=receipt.device,
        load_seconds=round(receipt.seconds, 4),
        phases=_phases(receipt),
        trigger=receipt.trigger,
        seconds_ago=round(last.seconds_ago, 3),
    )


def _last_unload(last: Ended[UnloadReceipt] | None) -> LastUnload | None:
    if last is None or last.receipt.device is None:
        return None
    receipt = last.receipt
    return LastUnload(
        device_was=last.receipt.device,
        memory_freed=_freed(receipt),
        fully_released=receipt.fully_released,
        unload_seconds=round(receipt.seconds, 4),
        seconds_ago=round(last.seconds_ago, 3),
    )


def _phases(receipt: LoadReceipt) -> dict[str, float]:
    return {phase: round(seconds, 4) for phase, seconds in receipt.phases.items()}


def _freed(receipt: UnloadReceipt) -> Memory:
    return Memory(ram_mb=_mib(receipt.freed_ram_bytes), vram_mb=_mib(receipt.freed_gpu_bytes))


def _gpu_info(facts: GpuFacts) -> GpuInfo:
    return GpuInfo(name=facts.name, device_count=facts.device_count, cuda_version=facts.cuda_version)


def _loaded(receipt: LoadReceipt, *, name: str, language: Language, loaded_before: bool) -> LoadAnswer:
    return LoadAnswer(
        success=True,
        message=render("loaded", language, {"model": name, "device": receipt.device.upper()}),
        memory_used=Memory(ram_mb=_mib(receipt.ram_bytes), vram_mb=_mib(receipt.gpu_bytes)),
        device=receipt.device,
        model_name=name,
        load_seconds=0.0 if loaded_before else round(receipt.seconds, 4),
        phases={} if loaded_before else _phases(receipt),
    )


def _unloaded(receipt: UnloadReceipt | None, *, name: str, language: Language) -> UnloadAnswer:
    if receipt is None or receipt.device is None:
        return UnloadAnswer(
            success=True,
            message=render("not-loaded", language, {"model": name}),
            # Without a model there may still have been the zygote, or a load in progress.
            memory_freed=Memory(ram_mb=_mib(receipt.freed_ram_bytes) if receipt else 0.0, vram_mb=0.0),
            device_was=None,
            model_name=name,
            fully_released=True,
            unload_seconds=round(receipt.seconds, 4) if receipt else 0.0,
        )
    code = "unloaded" if receipt.fully_released else "not-released"
    device = receipt.device.upper()
    return UnloadAnswer(
        success=True,
        message=render(code, language, {"model": name, "device": device, "residue_bytes": receipt.residue_gpu_bytes}),
        memory_freed=_freed(receipt),
        device_was=receipt.device,
        model_name=name,
        fully_released=receipt.fully_released,
        unload_seconds=round(receipt.seconds, 4),
    )


def _mib(count: int) -> float:
    return round(count / _MIB, 1)
