"""Load: many test customers who walk flows at the same time.

Closed model: each customer asks, waits for the answer, thinks, asks again. Open model: requests are
due at the moments of a Poisson process, whatever the answers do; the customer who has been free for
longest takes each, and where none is free it waits, on its own clock.
"""

import asyncio
import contextlib
import random
import resource
import signal
import time
from collections import deque
from collections.abc import Callable, Coroutine

import aiohttp

from rollout.flows import Step, Walk
from rollout.latencies import NOBODY, Asked, Record, percentile
from rollout.load_plan import Plan
from rollout.load_report import Generator, LoadReport, SocketsScarce
from rollout.placing import SERVED_BY, Customers, Served

AFTER_NO_ANSWER_S = 1.0  # nobody knocks without a pause at a door that stays shut
KEEP_ALIVE_S = 30.0
OTHER_FILES = 64  # open files that are not sockets of customers
TICK_S = 1.0
UNNAMED = "either"  # side of an answer that does not tell it


class Customer:
    """One customer's browser: connections of its own, one request at a time."""

    def __init__(self, number: int, plan: Plan, record: Record) -> None:
        self._number, self._plan, self._record = number, plan, record
        self._chance = random.Random()
        self._ids = Customers(plan.prefix, self._chance)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit_per_host=1, keepalive_timeout=KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=plan.request_s),
        )
        self.free = time.monotonic()
        self.answered = True
        self._begin()

    async def close(self) -> None:
        """Close its connections."""
        await self._session.close()

    def _begin(self) -> None:
        """Become somebody new at the beginning of a flow."""
        flows = self._plan.flows
        weights = [flow.weight or 1 for flow in flows]
        flow = self._chance.choices(flows, weights)[0]
        places = self._plan.places[flow.domain]
        self._place = places[self._number % len(places)]
        values = self._ids.values(self._place.buckets, self._number)
        self._walk, self._next = Walk(flow, dict(values), self._chance), 0

    def pause_s(self) -> float:
        """How long to think before the next request."""
        step = self._walk.flow.steps[self._next]
        pause = self._plan.pause_s(self._walk.flow, step, self._chance)
        return pause if self.answered else max(pause, AFTER_NO_ANSWER_S)

    async def ask(self, due: float) -> None:
        """Send the next request, which was due then, and take what it gives."""
        walk, step = self._walk, self._walk.flow.steps[self._next]
        free, began = self.free, time.monotonic()
        side, failure = await self._send(walk, step)
        self.free = time.monotonic()
        name = f"{walk.flow.name}: {step.name}"
        self._record.add(Asked(name, due, free, began, self.free, side, failure))
        self._next += 1
        if failure is not None or self._next == len(walk.flow.steps):
            self._begin()

    async def _send(self, walk: Walk, step: Step) -> tuple[str, str | None]:
        """The side that served it, and why it failed."""
        request, place = walk.request(step), self._place
        self.answered = False
        try:
            async with self._session.request(
                request.method,
                place.url_of(step.prepares) + request.path,
                json=request.body,
                headers=request.headers,
            ) as answer:
                content = await answer.read()
                status, header = answer.status, answer.headers.get(SERVED_BY)
        except TimeoutError:
            return NOBODY, f"no answer within {self._plan.request_s:g} s"
        except (aiohttp.ClientError, OSError) as error:
            return NOBODY, type(error).__name__
        self.answered = True
        served = Served.parse(header) or Served(walk.flow.domain, place.side or UNNAMED)
        return str(served), walk.judge(step, status, content)


class Load:
    """A load under way. `close` ends it early: those requests that are under way are awaited."""

    def __init__(self, plan: Plan, on_progress: Callable[[str], None]) -> None:
        self._plan, self._tell = plan, on_progress
        self.record = Record()
        self._closing = asyncio.Event()
        self._chance = random.Random()
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: deque[Customer] = deque()
        self._waiting: deque[float] = deque()
        self.interrupted = False

    def close(self) -> None:
        """End early; a second time: give up what is under way."""
        if self.interrupted:
            for task in self._tasks:
                task.cancel()
        self.interrupted = True
        self._closing.set()

    async def run(self) -> LoadReport:
        """The whole load, and what it came to."""
        customers = [Customer(n, self._plan, self.record) for n in range(self._plan.customers)]
        began, cpu = time.monotonic(), time.process_time()
        end = began + self._plan.seconds
        ticking = asyncio.create_task(self._tick(began))
        try:
            # At its end the group waits for the requests under way; each has its limit.
            async with asyncio.TaskGroup() as group:
                for customer in customers:
                    customer.free = began
                    if self._plan.rate is None:
                        self._spawn(group, self._live(customer, end))
                if self._plan.rate is None:
                    await self._until(end)
                else:
                    self._idle.extend(customers)
                    await self._arrivals(group, self._plan.rate, began, end)
                self._closing.set()
            ended = time.monotonic()
            for due in self._waiting:
                self.record.never_begun(due, ended)
        finally:
            ticking.cancel()
            await asyncio.gather(*(customer.close() for customer in customers))
        return self._report(ended - began, (time.process_time() - cpu) / (ended - began))

    async def _live(self, customer: Customer, end: float) -> None:
        """The closed model: ask, think, ask again."""
        while (due := customer.free + customer.pause_s()) < end:
            if not await self._until(due):
                return
            await customer.ask(due)

    async def _arrivals(
        self, group: asyncio.TaskGroup, rate: float, began: float, end: float
    ) -> None:
        """The open model: the moments are the process's own, nobody's answer moves them."""
        due = began
        while (due := due + self._chance.expovariate(rate)) < end and await self._until(due):
            if self._idle:
                self._spawn(group, self._serve(self._idle.popleft(), due))
            else:
                self._waiting.append(due)

    async def _serve(self, customer: Customer, due: float) -> None:
        """Take an arrival, and those that waited for a customer meanwhile."""
        await customer.ask(due)
        while self._waiting and not self._closing.is_set():
            await customer.ask(self._waiting.popleft())
        self._idle.append(customer)

    async def _until(self, moment: float) -> bool:
        """Wait for a moment. False when the load is closed before it."""
        left = moment - time.monotonic()
        if left > 0 and not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._closing.wait()
        return not self._closing.is_set()

    def _spawn(self, group: asyncio.TaskGroup, work: Coroutine[None, None, None]) -> None:
        task = group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tick(self, began: float) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._tell(self._line(time.monotonic() - began))

    def _line(self, seconds: float) -> str:
        """The last second."""
        recent = self.record.second()
        ordered = sorted(asked.latency for asked in recent)
        told = [f"p{round(100 * s)} {_ms(percentile(ordered, s))}" for s in (0.5, 0.95, 0.99)]
        late = max((asked.late for asked in recent), default=0.0)
        waiting = f", {len(self._waiting):,} wait for a customer" if self._waiting else ""
        return (
            f"{seconds:,.0f} s of {self._plan.seconds:g}: {len(recent):,} answers, "
            f"{', '.join(told)} ms, {self.record.failed:,} failed so far, "
            f"generator late {_ms(late)} ms{waiting}"
        )

    def _report(self, seconds: float, cpu: float) -> LoadReport:
        plan, record = self._plan, self.record
        answered = sum(len(s.latencies) for side, s in record.sides.items() if side != NOBODY)
        return LoadReport(
            model="closed" if plan.rate is None else "open",
            through=plan.through,
            flows=[flow.name for flow in plan.flows],
            customers=plan.customers,
            rate=plan.rate,
            seconds=round(seconds, 2),
            requests=record.requests,
            failed=record.failed,
            throughput=round(answered / seconds, 1) if seconds else 0.0,
            sides=[series.figures(side) for side, series in sorted(record.sides.items())],
            steps=[
                series.figures(f"{step} ({side})")
                for (step, side), series in sorted(record.steps.items())
            ],
            reasons=dict(record.reasons),
            generator=Generator(*record.late_ms(), round(cpu, 3)),
            limits=plan.limits,
            interrupted=self.interrupted,
        )


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:,.1f}"


def load(asked: Plan, on_progress: Callable[[str], None] = lambda _: None) -> LoadReport:
    """Make the load. Ctrl-C ends it, and what there is by then is reported.

    Raises SocketsScarce.
    """
    _open_files(asked.customers)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_until_signalled(Load(asked, on_progress)))


async def _until_signalled(under_way: Load) -> LoadReport:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, under_way.close)
    try:
        return await under_way.run()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _open_files(customers: int) -> None:
    """Each customer has a connection of its own. Raises SocketsScarce."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = customers + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise SocketsScarce(customers=f"{customers:,}", needed=needed, allowed=hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The quicker event loop, where it is installed."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
