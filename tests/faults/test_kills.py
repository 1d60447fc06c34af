"""SIGKILL at any moment of a run, again and again: it ends with the bytes of a run that nobody disturbed."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.account import show
from tests.faults.damage import DAMAGES
from tests.faults.supervisor import Check, Kill, Supervisor, Undisturbed, assert_same_bytes, seeded

LAST = ("open", "half", "fsync", "synced", "verify", "unlink", "link", "rename", "renamed")
BEST = ("open", "half", "fsync", "synced", "verify", "rename", "renamed")
START = ("lock", "locked", "restore", "hparams:rename", "state:running", "state:renamed")
DAMAGED = 8  # times that `last` is damaged between two starts


def plan_for_one(rng: random.Random, warmup: float) -> list[Kill]:
    """50 kills: exact moments that all come up by design, and random ones; those at the end of the run last."""
    first = [Kill("step"), Kill("last:half"), Kill("last:renamed", skip=1)]  # now there is something to restore
    kills = [Kill(moment) for moment in START]
    kills += [Kill(f"last:{part}", skip=1) for part in LAST[:-1]]  # the second, for it has one before it
    kills += [Kill(f"best:{part}") for part in BEST]
    kills += [Kill("step", skip=rng.randrange(3)) for _ in range(4)]
    kills += [Kill(delay=rng.uniform(0, 1) * warmup) for _ in range(7)]
    kills += [Kill(line="step", delay=rng.uniform(0, 0.8)) for _ in range(7)]
    kills += [Kill(line="validating", delay=rng.uniform(0, 0.4)) for _ in range(5)]
    rng.shuffle(kills)
    end = [Kill("state:finished"), Kill(line="finished"), Kill("restore")]
    return [*first, *kills, *end]


def plan_for_two(rng: random.Random, warmup: float) -> list[Kill]:
    """20 kills of two processes and their launcher: all at once, or one of them."""
    kills = [Kill(f"last:{part}", skip=1) for part in ("half", "verify", "link")]
    kills += [Kill("last:rename", who="0"), Kill("step", skip=1, who="0")]
    kills += [Kill(line="step", delay=rng.uniform(0, 0.8), who=who) for who in ("0", "1", "1", "launcher")]
    kills += [Kill(line="validating", delay=rng.uniform(0, 0.4), who=who) for who in ("all", "1", "launcher")]
    kills += [Kill(line="step", delay=rng.uniform(0, 0.8)) for _ in range(2)]
    kills += [Kill("best:half"), Kill("best:rename"), Kill("restore"), Kill("locked")]
    kills += [Kill(delay=rng.uniform(0, 1) * warmup)]
    rng.shuffle(kills)
    return [Kill("last:renamed", skip=1), *kills]


def damage_last(run: Supervisor, rng: random.Random) -> str | None:
    """Damage or remove `last` where the one before can take its place. Returns what was done."""
    step = run.readable_previous()
    if step is None or not run.last.exists():
        return None
    name, data = rng.choice([*DAMAGES, "removed"]), run.last.read_bytes()
    run.last.unlink()  # killed between link and rename, it is another name of the one before
    if name in DAMAGES:
        run.last.write_bytes(DAMAGES[name](data))
    run.expect(step)
    return name


def disturb(run: Supervisor, kills: list[Kill], rng: random.Random, damages: int) -> Counter[str]:
    """Kill the run as planned, damaging `last` in between, then let it finish. Returns the damages."""
    done: Counter[str] = Counter()
    when = set(rng.sample(range(5, len(kills)), damages))
    pending = 0
    for number, aim in enumerate(kills):
        run.kill(aim)
        pending += number in when
        if pending and (name := damage_last(run, rng)):
            pending -= 1
            done[name] += 1
    start = run.finish()
    assert start.code == 0, start.output[-3000:]
    return done


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_fifty_kills(saving: str, tmp_path: Path, undisturbed: Undisturbed) -> None:
    rng, seed = seeded("fifty")
    options = (saving, "trainer.max_epochs=24")
    other = undisturbed(*options)
    kills = plan_for_one(rng, other.warmup)
    assert len(kills) == 50
    run, began = Supervisor(tmp_path, options), time.monotonic()
    damages = disturb(run, kills, rng, DAMAGED)
    show(run.starts, other.starts[0].trained, time.monotonic() - began, seed=seed, damages=dict(damages))
    assert_same_bytes(run, other)
    wanted = {"importing", "restoring", "training", "writing last", "writing best", "validating", "ending"}
    assert wanted <= {start.phase for start in run.starts[:-1]}
    hit = {start.moments[-1] for start in run.starts if start.moments}
    assert hit >= {f"last:{part}" for part in LAST} | {f"best:{part}" for part in BEST}
    assert sum(damages.values()) == DAMAGED


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_twenty_kills_of_two_processes(saving: str, tmp_path: Path, undisturbed: Undisturbed) -> None:
    rng, seed = seeded("twenty")
    options = (saving, "trainer.max_epochs=16")
    other = undisturbed(*options, world=2)
    kills = plan_for_two(rng, other.warmup)
    assert len(kills) == 20
    run, began = Supervisor(tmp_path, options, world=2), time.monotonic()
    disturb(run, kills, rng, damages=3)
    who = dict(Counter(aim.who for aim in kills))
    show(run.starts, other.starts[0].trained, time.monotonic() - began, seed=seed, killed=who)
    assert_same_bytes(run, other)


@pytest.mark.long
def test_killed_between_two_names_of_a_file(tmp_path: Path, ends_alike: Check) -> None:
    """`last` has been given its second name and the new file not yet its first: nothing is missing."""
    options = ("trainer.max_epochs=1",)
    run = Supervisor(tmp_path, options, forks=True)
    run.kill(Kill("last:rename", skip=1))
    assert run.saved == 1
    assert run.previous.samefile(run.last)
    assert [path.name.partition(".tmp-")[0] for path in run.last.parent.glob(".*")] == [".last.safetensors"]
    start = run.finish()
    assert (start.began, start.trained) == (1, 3)
    ends_alike(run)
