"""Routes of the model: load, unload, status and resource."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from whisper_inference.api.context import ControllerDep, ServerDep, UserDep, no_unknown_queries
from whisper_inference.api.schema import RESOURCE, problems
from whisper_inference.errors import NoModelFile
from whisper_inference.lifecycle.gpu import GpuFacts
from whisper_inference.lifecycle.machine import Depth, State
from whisper_inference.lifecycle.processes import Weight
from whisper_inference.lifecycle.receipts import LoadReceipt, UnloadReceipt
from whisper_inference.messages import Language, language_of, render
from whisper_inference.service.server import Server

router = APIRouter(prefix="/model", tags=["model"], dependencies=[Depends(no_unknown_queries)])

_MIB = 2**20
AcceptLanguage = Annotated[str | None, Header(description="pt: messages in Portuguese; else in English.")]


class Memory(BaseModel):
    """Amounts in MiB; ram_mb counts shared pages by their share (PSS)."""

    ram_mb: float
    vram_mb: float


class LoadAnswer(BaseModel):
    """What a load came to; memory_used: what it added; seconds and phases: 0 and none when it was loaded already."""

    success: bool
    message: str
    memory_used: Memory | None = None
    device: str | None = None
    model_name: str
    load_seconds: float | None = None
    phases: dict[str, float] = Field(default_factory=dict)


class UnloadAnswer(BaseModel):
    """What an unload came to; device_was: null when nothing was loaded. pending: it happens when running work ends."""

    success: bool
    message: str
    memory_freed: Memory | None = None
    device_was: str | None = None
    model_name: str
    fully_released: bool | None = None
    unload_seconds: float | None = None
    pending: bool = False


class StatusMemory(BaseModel):
    """MiB held by the model's processes; vram_reserved_mb only while it is loaded."""

    vram_mb: float
    vram_reserved_mb: float | None = None
    ram_mb: float
    cuda_available: bool


class GpuInfo(BaseModel):
    """The GPU, from NVML."""

    name: str
    device_count: int
    cuda_version: str


class Manual(BaseModel):
    """The last load or unload that somebody asked for."""

    state: Literal["Loaded", "Unloaded"]
    at: datetime


class LastLoad(BaseModel):
    """The last load that succeeded, whoever asked for it. seconds_ago: since it ended."""

    device: str
    load_seconds: float
    phases: dict[str, float]
    trigger: str
    seconds_ago: float


class LastUnload(BaseModel):
    """The last unload that released a model, whoever asked for it. seconds_ago: since it ended."""

    device_was: str
    memory_freed: Memory
    fully_released: bool
    unload_seconds: float
    seconds_ago: float


class ModelStatus(BaseModel):
    """The model at this instant. queued counts uploads that are under way too; work_began_seconds: since the work that
    runs, or ran last, started executing. What came before the server's start is forgotten."""

    loaded: bool
    state: State
    model_name: str
    device: str | None
    memory: StatusMemory
    gpu_info: GpuInfo | None = None
    idle_seconds: float
    work_began_seconds: float | None = None
    in_flight: int
    queued: int
    depth: Depth | None
    manual: Manual | None
    ready_in_seconds: float | None
    failure: str | None = None
    last_load: LastLoad | None
    last_unload: LastUnload | None


@router.post(
    "/load", response_model_exclude_unset=True, responses=problems(400, 409, 503, 507) | {202: {"model": LoadAnswer}}
)
async def load(
    server: ServerDep,
    principal: ControllerDep,
    response: Response,
    wait: Annotated[bool, Query(description="false: answer at once with 202.")] = True,
    accept_language: AcceptLanguage = None,
) -> LoadAnswer:
    """Load the model; succeeds when it is loaded already."""
    language, name = language_of(accept_language), server.settings.model
    loaded_before = server.lifecycle.state is State.LOADED
    loading = asyncio.create_task(server.load(principal))
    if not wait:
        server.keep(loading)
        response.status_code = 202
        response.headers["Location"] = "/model/status"
        return LoadAnswer(success=True, message=render("load-accepted", language, {"model": name}), model_name=name)
    receipt = await loading
    return _loaded(receipt, name=name, language=language, loaded_before=loaded_before)


@router.post(
    "/unload", response_model_exclude_unset=True, responses=problems(400, 409, 503) | {202: {"model": UnloadAnswer}}
)
async def unload(
    server: ServerDep,
    principal: ControllerDep,
    response: Response,
    wait: Annotated[bool, Query(description="false: answer at once, with 202 unless it is done.")] = True,
    timeout: Annotated[float, Query(ge=0, le=3600, description="Seconds to wait for running work.")] = 30.0,
    force: Annotated[bool, Query(description="Put running work back into the queue.")] = False,
    depth: Annotated[
        Depth, Query(description="cold: end all processes; warm: keep the imports for the next load.")
    ] = Depth.COLD,
    accept_language: AcceptLanguage = None,
) -> UnloadAnswer:
    """Unload the model after the running job; succeeds when nothing is loaded."""
    language, name = language_of(accept_language), server.settings.model
    unloading = asyncio.create_task(server.unload(principal, depth=depth, force=force))
    # The call goes on when nobody waits for it any more: it was accepted.
    server.keep(unloading)
    done, _ = await asyncio.wait({unloading}, timeout=timeout if wait else 0)
    if not done:
        response.status_code = 202
        jobs = ", ".join(server.running_jobs)
        message = render("unload-pending" if jobs else "unload-accepted", language, {"model": name, "jobs": jobs})
        return UnloadAnswer(success=True, message=message, model_name=name, pending=True)
    return _unloaded(unloading.result().receipt, name=name, language=language)


@router.get("/status", response_model_exclude_unset=True)
async def status(server: ServerDep, _principal: UserDep) -> ModelStatus:
    """Tell the model's state; never loads it and never counts as activity."""
    facts = await asyncio.to_thread(server.model.gpu.facts)
    weight = await server.weigh()
    queued = await server.queued()
    # After the last wait, so that all that follows is of one instant.
    lifecycle, began = server.lifecycle, server.owner.work_began_seconds
    loaded = lifecycle.state is State.LOADED
    answer = ModelStatus(
        loaded=loaded,
        state=lifecycle.state,
        model_name=server.settings.model,
        device=server.owner.load_receipt.device if loaded and server.owner.load_receipt else None,
        memory=_held(server, weight, loaded=loaded, has_gpu=facts is not None),
        idle_seconds=round(server.owner.idle_seconds, 3),
        work_began_seconds=None if began is None else round(began, 3),
        in_flight=server.in_flight,
        queued=queued + len(lifecycle.expected),
        depth=None if loaded else lifecycle.depth,
        manual=Manual(state=server.manual.state, at=server.manual.at) if server.manual else None,
        ready_in_seconds=server.ready_in_seconds(),
        failure=str(server.owner.failure) if server.owner.failure else None,
        last_load=_last_load(server.owner.last_load),
        last_unload=_last_unload(server.owner.last_unload),
    )
    return answer.model_copy(update={"gpu_info": _gpu_info(facts)}) if facts else answer


@router.get("/resource", responses=problems(404) | RESOURCE)
async def resource(server: ServerDep, _principal: UserDep) -> JSONResponse:
    """Return the WhisperModel of the model file with its status, as `kubectl get -o json` would show it."""
    if server.obedience is None:
        raise NoModelFile
    return JSONResponse(await server.obedience.document())


def _held(server: Server, weight: Weight, *, loaded: bool, has_gpu: bool) -> StatusMemory:
    allocated, reserved = server.owner.gpu_bytes
    ram = (weight.zygote + weight.worker).proportional
    memory = StatusMemory(vram_mb=_mib(allocated), ram_mb=_mib(ram), cuda_available=has_gpu)
    return memory.model_copy(update={"vram_reserved_mb": _mib(reserved)}) if loaded else memory


def _last_load(last: tuple[LoadReceipt, float] | None) -> LastLoad | None:
    if last is None:
        return None
    receipt, ago = last
    return LastLoad(
        device=receipt.device,
        load_seconds=round(receipt.seconds, 4),
        phases=_phases(receipt),
        trigger=receipt.trigger,
        seconds_ago=round(ago, 3),
    )


def _last_unload(last: tuple[UnloadReceipt, float] | None) -> LastUnload | None:
    if last is None or last[0].device is None:
        return None
    receipt, ago = last
    return LastUnload(
        device_was=last[0].device,
        memory_freed=_freed(receipt),
        fully_released=receipt.fully_released,
        unload_seconds=round(receipt.seconds, 4),
        seconds_ago=round(ago, 3),
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
            # Without a model there may still have been the zygote, or a load under way.
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
