"""Statements of the job store that are composed once: that takes longer than SQLite takes to execute them.

Parameters are the names in bindparam, and for INSERT and UPDATE also the columns that the caller sets. They must differ
from column names, which SQLAlchemy reserves.
"""

from __future__ import annotations

from functools import cache

from sqlalchemy import Update, bindparam, func, insert, select, update

from whisper_inference.jobs.job import LEASE, Status
from whisper_inference.jobs.schema import FINAL_WITH_AUDIO, QUEUED, database_time, jobs, of_model, sections

JOB = select(jobs).where(jobs.c.id == bindparam("job"))
FINAL_AUDIO = JOB.where(FINAL_WITH_AUDIO)
SECTIONS = select(sections).where(sections.c.job_id == bindparam("job")).order_by(sections.c.position)
ANY_QUEUED = select(jobs.c.number).where(QUEUED & of_model()).limit(1)
_LIMITED = QUEUED & jobs.c.start_by.is_not(None)
NEXT_START_LIMIT = select(jobs.c.start_by).where(_LIMITED).order_by(jobs.c.start_by).limit(1)
OVERDUE = select(jobs).where(_LIMITED & (jobs.c.start_by <= bindparam("now", type_=jobs.c.start_by.type)))

ADD_JOB = insert(jobs)
CHANGE_ATTEMPT = update(jobs).where(jobs.c.attempt_token == bindparam("token")).returning(jobs.c.id)
UNCOUNT_ATTEMPT = CHANGE_ATTEMPT.values(attempts=jobs.c.attempts - 1)
_SECTIONS_BEFORE = select(func.count()).where(sections.c.job_id == bindparam("job")).scalar_subquery()
ADD_SECTION = insert(sections).values(position=_SECTIONS_BEFORE)
COUNT_SEGMENTS = select(func.sum(sections.c.segment_count)).where(sections.c.job_id == bindparam("job"))
JOB_UNDER_KEY = select(jobs).where(
    (jobs.c.principal == bindparam("owned_by")) & (jobs.c.idempotency_key == bindparam("key"))
)
JOB_WITHOUT_CLIENT = JOB.where(jobs.c.client_gone_at.is_not(None))
LOST_BY_CLIENT = (
    select(jobs.c.number)
    .where((jobs.c.principal == bindparam("owned_by")) & (jobs.c.fingerprint == bindparam("request")))
    .where(jobs.c.client_gone_at >= bindparam("since"))
    .where(jobs.c.status.not_in((Status.FAILED.value, Status.CANCELLED.value)))
    .order_by(jobs.c.number.desc())
    .limit(1)
)
REJOIN = update(jobs).where(jobs.c.number == LOST_BY_CLIENT.scalar_subquery()).returning(*jobs.c)
DETACH_AUDIO = update(jobs).where((jobs.c.id == bindparam("job")) & FINAL_WITH_AUDIO).values(audio_held=False)


@cache
def begin_attempt(dialect: str) -> Update:
    """Start the queued job of a model that is due first; parameters: of_model's, now, owner, attempt_token."""
    due = select(jobs.c.number).where(QUEUED & of_model()).order_by(jobs.c.due_at, jobs.c.number)
    first = due.limit(1).with_for_update(skip_locked=True).scalar_subquery()
    started_at = func.coalesce(jobs.c.started_at, bindparam("now", type_=jobs.c.started_at.type))
    held = {"started_at": started_at, "leased_until": database_time(dialect, after=LEASE)}
    no_longer_waiting = {"waiting_for": None, "start_by": None}
    change = {"status": Status.RUNNING.value, "attempts": jobs.c.attempts + 1, **held, **no_longer_waiting}
    return update(jobs).where(jobs.c.number == first).values(change).returning(*jobs.c)
