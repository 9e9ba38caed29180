"""Give a gateway that runs a CUDA backend: plan it, install it, replace the workers, and go back if they fail.

==========  ==============================================  =====================================================
state       it means                                        it becomes
==========  ==============================================  =====================================================
idle        nothing is under way                            installing, with an administrator's consent
installing  another process downloads and proves a bundle   reloading; idle, by a failure or the gateway's end
reloading   the workers are replaced one after the other    idle; returning, if a new one does not start
returning   the install is taken back                       idle
==========  ==============================================  =====================================================
"""

from __future__ import annotations

import asyncio
import re
from logging import getLogger
from typing import TYPE_CHECKING, Any

from llcuda.errors import LlcudaError
from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.admin.information import describe_model
from llcuda.gateway.admin.install_process import run_child
from llcuda.gateway.api.fields import read_known
from llcuda.gateway.http.event_stream import Feed, fail

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from llcuda.fleet.fleet import Fleet
    from llcuda.gateway.admin.information import AdministeredGateway
    from llcuda.gateway.http.exchange import Exchange

__all__ = ["Upgrade", "check_consent"]

_CONSENT = 'nothing is changed without consent: send {"consent": true}'
_PLAN_TIMEOUT = 20.0
_ROLLBACK_TIMEOUT = 60.0
_PLAN_LIFETIME = 2.0
"""Seconds for which a plan answers everybody who asks: to make one starts a process."""
_NO_PLAN: dict[str, Any] = {"backend": None, "download_bytes": None, "installed": None}
_STOPPED = "the gateway is being stopped"
_USER = re.compile(r"//[^/\s@]+@")


class Upgrade:
    """At most one change of the backend at a time, and what would come of one."""

    def __init__(self, site: AdministeredGateway) -> None:
        self._site = site
        self._task: asyncio.Task[None] | None = None
        self._children: set[asyncio.Task[dict[str, Any]]] = set()
        self._plan: dict[str, Any] | None = None
        self._planned_at = 0.0
        self._planning = asyncio.Lock()
        self._is_stopping = False

    @property
    def table(self) -> dict[str, Callable[[Exchange], Awaitable[None]]]:
        """The endpoints of :mod:`llcuda.gateway.http.routes` that are answered here."""
        return {"upgrade_plan": self._answer_plan, "upgrade": self._answer, "rollback": self._answer}

    @property
    def is_running(self) -> bool:
        """Whether a change is under way."""
        return self._task is not None and not self._task.done()

    async def _answer_plan(self, exchange: Exchange) -> None:
        exchange.respond_json(await self._find_plan())

    async def _answer(self, exchange: Exchange) -> None:
        """Begin to install or to roll back, and tell of it until its end. Raises RefusedError."""
        check_consent(exchange.body)
        if self.is_running:
            raise RefusedError(409, "a change of the backend is under way already", code="upgrade_under_way")
        feed = Feed()
        action = "install" if exchange.route and exchange.route.endpoint == "upgrade" else "rollback"
        self._task = asyncio.ensure_future(self._run(action, feed))
        await feed.send_to(exchange)

    async def _find_plan(self) -> dict[str, Any]:
        """Return what an upgrade would do, without doing any of it."""
        if self.is_running:
            known = self._plan or {"possible": False, **_NO_PLAN}
            return {**known, "possible": False, "reason": "A change of the backend is under way.", "running": True}
        async with self._planning:
            now = asyncio.get_running_loop().time()
            if self._plan is None or now - self._planned_at > _PLAN_LIFETIME:
                self._plan, self._planned_at = await self._ask_for_plan(), now
        return {**self._plan, "running": False}

    def begin_stop(self) -> None:
        """End what is under way in order: an install that was not finished has changed nothing."""
        self._is_stopping = True
        for child in self._children:
            child.cancel()

    async def wait_ended(self) -> None:
        """Return when nothing is under way; to be called when the workers have been stopped."""
        under_way = {*self._children, *((self._task,) if self._task else ())}
        if under_way:
            await asyncio.wait(under_way)

    async def _ask_for_plan(self) -> dict[str, Any]:
        try:
            plan = await self._run_child("plan", seconds=_PLAN_TIMEOUT)
        except LlcudaError as error:
            return {"possible": False, "reason": _hide_user(f"{error.message}. {error.hint}".strip()), **_NO_PLAN}
        reason = plan["reason"] and _hide_user(plan["reason"])
        return {**plan, "reason": reason, "installed": _public(plan["installed"])}

    async def _run(self, action: str, feed: Feed) -> None:
        last = fail("the gateway failed at this", rolled_back=False)
        try:
            last = await self._change(action, feed)
        finally:
            self._plan = None
            feed.end(last)

    async def _change(self, action: str, feed: Feed) -> dict[str, Any]:
        """Do it, and return the last event: what was done, or what went wrong."""
        before = {name: model.fleet.replicas for name, model in self._site.models.items()}
        changed = False
        try:
            done = await self._run_child(action, on_step=feed.tell)
            changed = bool(done["changed"])
            await self._replace_workers(feed)
        except LlcudaError as error:
            getLogger("llcuda").warning("the change of the backend failed: %s", error)
            rolled_back = changed and action == "install" and await self._go_back(feed, before)
            return fail(_hide_user(error.message), hint=_hide_user(error.hint), rolled_back=rolled_back)
        models = [describe_model(model) for model in self._site.models.values()]
        return {"step": "done", "result": {"installed": _public(done["installed"]), "models": models}}

    async def _run_child(
        self, action: str, *, on_step: Callable[[dict[str, Any]], object] | None = None, seconds: float | None = None
    ) -> dict[str, Any]:
        """Let the other process do it. Raises LlcudaError, also if the gateway is stopped meanwhile."""
        if self._is_stopping:
            raise LlcudaError(_STOPPED)
        source = self._site.config.gpu_bundle
        child = asyncio.ensure_future(run_child(action, str(source) if source else None, on_step=on_step))
        self._children.add(child)
        child.add_done_callback(self._children.discard)
        try:
            if not (await asyncio.wait({child}, timeout=seconds))[0]:
                raise LlcudaError(f"the installer did not answer within {seconds:g} seconds")
            if child.cancelled():
                raise LlcudaError(_STOPPED, hint="What was in use before still is.")
            return child.result()
        finally:
            child.cancel()
            await asyncio.wait({child})

    async def _replace_workers(self, feed: Feed) -> None:
        if self._is_stopping:
            raise LlcudaError(_STOPPED, hint="The change holds from the next start on.")
        message = "replacing the workers one after the other"
        feed.tell({"step": "reload", "done": 0, "total": None, "message": message})
        await self._site.reload()

    async def _go_back(self, feed: Feed, before: Mapping[str, object]) -> bool:
        """Take the install back; return whether that was done. A gateway that ends keeps what was proved."""
        if self._is_stopping:
            return False
        try:
            await self._run_child("rollback", on_step=feed.tell, seconds=_ROLLBACK_TIMEOUT)
        except LlcudaError as error:
            getLogger("llcuda").warning("the install could not be taken back: %s", error)
            return False
        for name, model in self._site.models.items():
            if model.fleet.replicas != before[name]:
                # Some are new already; they are to run what was in use before, as the others do.
                await _reload_logged(model.fleet, self._site.config.grace_timeout)
        return True


async def _reload_logged(fleet: Fleet, grace: float) -> None:
    try:
        await fleet.reload(grace)
    except LlcudaError as error:
        getLogger("llcuda").warning("the workers of %s could not be replaced again: %s", fleet.config.name, error)


def check_consent(body: bytes) -> None:
    """Let pass ``{"consent": true}`` alone; raises RefusedError (400) for everything else."""
    try:
        fields = read_known(body or b"{}", ("consent",))
    except RefusedError as error:
        raise RefusedError(400, f"{error.message}; {_CONSENT}", code=error.code, param=error.param) from None
    if fields.get("consent") is not True:
        raise RefusedError(400, _CONSENT, code="consent_needed", param="consent")


def _public(installed: dict[str, Any] | None) -> dict[str, Any] | None:
    return installed and {**installed, "source": _hide_user(installed["source"])}


def _hide_user(text: str) -> str:
    """Return the text without the names and passwords that addresses in it may have."""
    return _USER.sub("//", text)
