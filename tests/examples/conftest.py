import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from examples.services import World, world
from saga_core import Environment, SagaDefinition, SagaInstance, SagaOrchestrator


@pytest.fixture(autouse=True)
def _fresh_world() -> Iterator[None]:
    world.reset()
    yield
    world.reset()


@pytest.fixture
def the_world() -> World:
    return world


@dataclass
class Minutes:
    """A clock that only sleeping moves."""

    ms: int = 1_800_000_000_000

    faster: int = 1

    async def sleep(self, seconds: float) -> None:
        self.ms += int(seconds * 1000) * self.faster
        await asyncio.sleep(0)  # whoever else is there has a turn

    def environment(self) -> Environment:
        return Environment(now_ms=lambda: self.ms, sleep=self.sleep, jitter=lambda: 0.5)


@pytest.fixture
def minutes() -> Environment:
    """Waiting takes no time."""
    return Minutes().environment()


Run = Callable[[SagaDefinition, object], SagaInstance]


@pytest.fixture
def run(minutes: Environment) -> Run:
    """Run one saga in this process, without waiting, and give it as it ended."""

    def run_saga(definition: SagaDefinition, context: object) -> SagaInstance:
        orchestrator = SagaOrchestrator(definition, environment=minutes)

        async def until_it_rests() -> SagaInstance | None:
            saga_id = await orchestrator.start(context)
            return await orchestrator.get_state(saga_id)

        instance = asyncio.run(until_it_rests())
        assert instance is not None
        return instance

    return run_saga
