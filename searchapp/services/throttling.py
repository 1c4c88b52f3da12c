"""What an anonymous address may have: so many searches a period, so many distinct items a day.

Counters live in the shared cache, so all web processes count together. When the cache is away, nobody is
refused: a shop without its cache should still answer.
"""

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable
from functools import wraps
from typing import ParamSpec

from django.conf import settings
from django.core.cache import cache
from redis.exceptions import RedisError

from searchapp.exceptions import TooManyRequests

logger = logging.getLogger(__name__)
PERIODS = {"sec": 1, "min": 60, "hour": 3600, "day": 86400}
DAY = PERIODS["day"]
P = ParamSpec("P")


def _open_when_the_cache_is_away(spend: Callable[P, None]) -> Callable[P, None]:
    @wraps(spend)
    def spend_if_possible(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            spend(*args, **kwargs)
        except (RedisError, OSError) as error:
            logger.warning("throttle not applied, the shared cache is away: %s", type(error).__name__)

    return spend_if_possible


@_open_when_the_cache_is_away
def search_spend(*, client: str, scope: str = "search", calls: int = 1) -> None:
    """Count one call by `client` against ANON_SEARCH_RATE; raises TooManyRequests when it is one too many.

    `calls`: as how many it counts, at most as all of a period's. A refused one of several is given back, so that
    the plain ones it would have taken the place of still pass.

    Two counters make a sliding window: this period's calls, and those of the period before weighted by how
    much of it still lies within one period of now. So no burst of twice the rate fits around a boundary.
    """
    if not settings.ANON_SEARCH_RATE:
        return
    limit, period = _rate(settings.ANON_SEARCH_RATE)
    now = time.time()
    window, elapsed = int(now // period), now % period / period
    calls = min(calls, limit)
    current = _count(f"rate:{scope}:{client}:{window}", calls, timeout=2 * period)
    previous = min(limit, int(cache.get(f"rate:{scope}:{client}:{window - 1}", 0)))
    if previous * (1 - elapsed) + current > limit:
        if calls > 1:
            _count(f"rate:{scope}:{client}:{window}", -calls, timeout=2 * period)
        wait = math.ceil(period * (1 - elapsed) + period * calls / limit)
        raise TooManyRequests(
            f"More than {settings.ANON_SEARCH_RATE} from one address; again in {wait} s, or with an API key.",
            retry_after_seconds=wait,
        )


@_open_when_the_cache_is_away
def items_spend(*, client: str, skus: Iterable[str]) -> None:
    """Count the items about to be shown to `client`; raises TooManyRequests above ANON_ITEM_BUDGET a day.

    Items seen before on the same day cost nothing. Two calls at once may count an item twice, never not at
    all.
    """
    budget = settings.ANON_ITEM_BUDGET
    if not budget:
        return
    now = time.time()
    day = int(now // DAY)
    keys = {f"item:{client}:{day}:{_short(sku)}" for sku in skus}
    fresh = keys - cache.get_many(keys).keys()
    if not fresh:
        return
    counter = f"items:{client}:{day}"
    if _count(counter, len(fresh), timeout=DAY) > budget:
        _count(counter, -len(fresh), timeout=DAY)
        raise TooManyRequests(
            f"More than {budget} different items a day from one address; an API key has no such limit.",
            retry_after_seconds=math.ceil(DAY - now % DAY),
        )
    cache.set_many(dict.fromkeys(fresh, 1), timeout=DAY)


def _rate(text: str) -> tuple[int, int]:
    """`60/min` as (60, 60 seconds). The setting was checked when the process started."""
    count, _, period = text.partition("/")
    return int(count), PERIODS[period]


def _count(key: str, delta: int, *, timeout: int) -> int:
    """Add to a counter and return its value, atomically across processes."""
    cache.add(key, 0, timeout)
    try:
        return int(cache.incr(key, delta))
    except ValueError:  # it ran out between the two calls
        cache.set(key, delta, timeout)
        return delta


def _short(sku: str) -> str:
    return hashlib.blake2b(sku.encode(), digest_size=9).hexdigest()
