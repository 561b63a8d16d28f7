"""`/v1/models…`: what can be called, its versions, and moving the champion."""

from __future__ import annotations

from litestar import Response, delete, get, post
from litestar.params import FromPath, JSONBody
from msgspec.structs import replace
from sqlmodel import Session

from feedback.access.audit import Actor
from feedback.errors import BadFieldError, NotFoundError
from feedback.registry.models import GATE, get_model
from feedback.registry.rejection import turn_down
from feedback.registry.snapshot import Alias, Snapshot
from feedback.registry.versions import list_versions
from feedback.reports.card import model_card
from feedback.storage.tables import ModelVersion, RegisteredModel
from feedback.tuning.requests import NAMED
from server.access import Caller
from server.gateway import Gateway
from server.openai_views import Deleted
from server.promotion import Moved, promote, roll_back
from server.request import SCOPES, STRICT, GatewayRequest, Parts
from server.retirement import Retired
from server.routing import BASE, UnknownModelError, chosen_by, is_seen
from server.views import ModelCard, ModelList, MovedView, RetiredView, VersionsView, VersionView, view
from server.wire import Promote, Rollback, Withdraw

_READ = {SCOPES: ("infer", "review", "train"), STRICT: True}
_ADMIN = {SCOPES: ("admin",), STRICT: True}


@get("/v1/models", opt=_READ)
async def models(request: GatewayRequest, gateway: Parts) -> ModelList:
    """The registered models that the key is for, and versions with names of their own, in OpenAI's form."""
    return ModelList(object="list", data=cards_of(request.user, gateway.live.current))


@get("/v1/models/{name:str}", opt=_READ)
async def model(name: FromPath[str], request: GatewayRequest, gateway: Parts) -> ModelCard:
    """One registered model, or one of its versions as `name@version`, in OpenAI's form."""
    return card_of(name, request.user, await gateway.live.with_name(name))


@delete("/v1/models/{name:str}", status_code=200, opt=_ADMIN)
async def delete_version(name: FromPath[str], request: GatewayRequest, gateway: Parts) -> Response[Deleted]:
    """Retire a version, named as `name@version` or `ft:…`, as OpenAI's clients delete a fine-tuned model; 202 while something holds its files.

    A registered name itself stands in the configuration and is not deleted.
    """
    done = await retire_named(name, request.user, gateway)
    return Response(Deleted(id=name, object="model"), status_code=200 if done.removed else 202)


@get("/v1/models/{name:str}/versions", opt=_READ, sync_to_thread=True)
def versions(name: FromPath[str], request: GatewayRequest, gateway: Parts) -> VersionsView:
    """All versions of a model, newest first, rejected and retired ones too; of fine-tunings that serve nobody the key's owner's."""
    request.user.need_model(name)
    with gateway.database.reading() as session:
        return _versions(session, name, request.user)


@get("/v1/models/{name:str}/versions/{number:str}/card", opt=_READ, sync_to_thread=True)
def version_card(
    name: FromPath[str], number: FromPath[str], request: GatewayRequest, gateway: Parts
) -> Response[str]:
    """A version's model card, as Markdown."""
    request.user.need_model(name)
    with gateway.database.reading() as session:
        if number not in {one.number for one in list_versions(session, name, request.user.only_of)}:
            get_model(session, name)
            raise NotFoundError(
                f"the model {name!r} has no version {number[:60]!r}; GET /v1/models/{name}/versions lists those there are"
            )
        text = model_card(session, name, number)
    return Response(text, media_type="text/markdown")


@post("/v1/models/{name:str}/promote", status_code=200, opt=_ADMIN)
async def promote_version(
    name: FromPath[str], data: JSONBody[Promote], request: GatewayRequest, gateway: Parts
) -> MovedView:
    """Make a version the champion: its files are checked, every engine is warmed, then all traffic goes to it; 409 where `instead_of`
    is given and is not the champion."""
    request.user.need_model(name)
    number = data.version.removeprefix(f"{name}@")
    decided_by = _decided_by(request.user, data.cycle_id)
    key_id = request.user.key_id
    expected = None if data.instead_of is None else data.instead_of.removeprefix(f"{name}@")
    moved = await promote(gateway, name, number, data.reason, decided_by, data.cycle_id, key_id, expected)
    return _shown(moved)


@post("/v1/models/{name:str}/rollback", status_code=200, opt=_ADMIN)
async def roll_back_model(
    name: FromPath[str], data: JSONBody[Rollback], request: GatewayRequest, gateway: Parts
) -> MovedView:
    """Make the champion before this one the champion again; 409 where `version` is given and it is not that one."""
    request.user.need_model(name)
    expected = None if data.version is None else data.version.removeprefix(f"{name}@")
    moved = await roll_back(
        gateway, name, data.reason, request.user.owner, request.user.key_id, expected=expected
    )
    return _shown(moved)


@post("/v1/models/{name:str}/reject", status_code=200, opt=_ADMIN, sync_to_thread=True)
def reject_version(
    name: FromPath[str], data: JSONBody[Withdraw], request: GatewayRequest, gateway: Parts
) -> VersionView:
    """Turn down a version that was proposed: it keeps its number and its files, and a person may still promote it."""
    request.user.need_model(name)
    number = data.version.removeprefix(f"{name}@")
    with gateway.database.session() as session:
        version = turn_down(session, name, number, data.reason, request.user.actor, gateway.now())
        session.commit()
        shown = _version(get_model(session, name), version)
    gateway.live.refresh()
    return shown


@post("/v1/models/{name:str}/retire", status_code=200, opt=_ADMIN)
async def retire_version(
    name: FromPath[str], data: JSONBody[Withdraw], request: GatewayRequest, gateway: Parts
) -> Response[RetiredView]:
    """Take a version out of service for good and remove its files; 202 while something holds the files."""
    request.user.need_model(name)
    number = data.version.removeprefix(f"{name}@")
    actor = Actor(request.user.owner, request.user.key_id)
    done = await gateway.retirements.retire(name, number, data.reason, actor)
    shown = RetiredView(
        model=name, version=number, state="retired", removed=done.removed, waits_for=done.waits_for
    )
    return Response(shown, status_code=200 if done.removed else 202)


def cards_of(caller: Caller, snapshot: Snapshot) -> list[ModelCard]:
    """The registered models that a key is for, then versions with names of their own."""
    names = sorted(name for name in snapshot.models if caller.reaches(name))
    tuned = sorted(name for name, alias in snapshot.aliases.items() if _reached(alias, caller, snapshot))
    return [_card(name, snapshot) for name in names] + [_tuned(name, snapshot) for name in tuned]


def card_of(name: str, caller: Caller, snapshot: Snapshot) -> ModelCard:
    """One of them, or a version as `name@version`. Raises `UnknownModelError`."""
    alias = snapshot.aliases.get(name)
    if alias is not None and _reached(alias, caller, snapshot):
        return _tuned(name, snapshot)
    bare, pinned, _ = name.partition("@")
    if bare not in snapshot.models or not caller.reaches(bare):
        raise UnknownModelError(f"there is no model {name[:60]!r}; GET /v1/models lists those there are")
    card = _card(bare, snapshot)
    return replace(card, id=name, version=chosen_by(caller, name, snapshot).version) if pinned else card


def _reached(alias: Alias, caller: Caller, snapshot: Snapshot) -> bool:
    return caller.reaches(alias.model) and is_seen(caller, alias.model, alias.number, snapshot)


async def retire_named(name: str, caller: Caller, gateway: Gateway) -> Retired:
    """Retire the version `name@version` or `ft:…`. Raises what the retirement does, and `BadFieldError` for a registered name."""
    alias = (await gateway.live.with_name(name)).aliases.get(name)
    if alias is None and name.startswith(NAMED):
        raise UnknownModelError(f"there is no model {name[:80]!r}; GET /v1/models lists those there are")
    bare, _, number = (name if alias is None else alias.name).partition("@")
    caller.need_model(bare)
    if not number:
        raise BadFieldError(
            "model", f"{name[:60]!r} is a registered name; name a version of it, as in name@1.0"
        )
    return await gateway.retirements.retire(bare, number, "deleted over the API", caller.actor)


def _decided_by(caller: Caller, cycle_id: str | None) -> str:
    """The loop acts on the gate's word; anyone else decides in their own name."""
    return GATE if caller.loop and cycle_id is not None else caller.owner


def _shown(moved: Moved) -> MovedView:
    return MovedView(model=moved.model, version=moved.version, previous=moved.previous, move_id=moved.move_id)


def _card(name: str, snapshot: Snapshot) -> ModelCard:
    route = snapshot.models[name]
    return ModelCard(
        id=name,
        object="model",
        created=int(route.created),
        owned_by="starloop",
        base=route.base,
        version=route.champion or BASE,
    )


def _tuned(name: str, snapshot: Snapshot) -> ModelCard:
    """A version under the name that its fine-tuning gave it."""
    alias = snapshot.aliases[name]
    return replace(_card(alias.model, snapshot), id=name, version=alias.number, created=int(alias.created))


def _versions(session: Session, name: str, caller: Caller) -> VersionsView:
    row = get_model(session, name)
    items = [_version(row, version) for version in list_versions(session, name, caller.only_of)]
    return VersionsView(model=name, champion=row.champion or BASE, items=items)


def _version(row: RegisteredModel, version: ModelVersion) -> VersionView:
    return view(
        VersionView,
        version,
        name=f"{version.model}@{version.number}",
        champion=version.number == row.champion,
    )


ROUTES = [
    models,
    model,
    delete_version,
    versions,
    version_card,
    promote_version,
    roll_back_model,
    reject_version,
    retire_version,
]
