"""Puts a command's workshop together from its settings: database, key, server and training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from feedback.access.keys import ensure_loop_key
from feedback.registry.models import ensure_models
from feedback.settings import Settings
from feedback.storage.database import opened
from trainer.gateway import open_gateway
from trainer.judge import JUDGE_KEY_VARIABLE, open_judge
from trainer.notices import PASSWORD_VARIABLE, SECRET_VARIABLE
from trainer.publication import make_tuned, make_version
from trainer.teacher import KEY_VARIABLE, Teacher
from trainer.workshop import Workshop, utc_now


@contextmanager
def open_workshop(settings: Settings, *, existing: bool = False) -> Iterator[Workshop]:
    """Everything the loop needs, for as long as the block takes. The server itself need not be up yet.

    `existing` as for `opened`: only what runs for long makes a record where there is none.
    """
    with opened(settings, existing=existing) as database:
        with database.session() as session:
            ensure_models(session, settings, utc_now())
            session.commit()
        gateway = open_gateway(settings, ensure_loop_key(database, settings.directory, utc_now()))
        key = os.environ.get(KEY_VARIABLE)
        teacher = Teacher(settings.teacher, key) if settings.teacher.url else None
        judge = open_judge(settings.judge, os.environ.get(JUDGE_KEY_VARIABLE))
        train = partial(make_version, database, settings, utc_now)
        tune = partial(make_tuned, database, settings, utc_now)
        try:
            wanted = (SECRET_VARIABLE, PASSWORD_VARIABLE, *(one.key for one in settings.contender))
            secrets = {name: os.environ[name] for name in wanted if name in os.environ}
            yield Workshop(
                database,
                settings,
                gateway,
                train,
                teacher=teacher,
                judge=judge,
                secrets=secrets,
                make_tuned=tune,
            )
        finally:
            gateway.close()
            for asked in (teacher, judge):
                if asked is not None:
                    asked.close()
