"""An independent answer to the question which instants a cron schedule names.

Which local times match is croniter's answer, on times without a zone. What happens to them where clocks change is decided
here from Python's zoneinfo, by the rule as README words it. What croniter itself does there is told as well.

Reads lines "number <tab> expression <tab> or|and <tab> zone"; "or" and "and" say how day fields are joined that are both
given without a star. Writes lines "number <tab> kind <tab> after <tab> through <tab> ticks", all instants in seconds since
1970, kind being "rule" or "croniter"; or "number <tab> error <tab> what".
"""

import sys
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from zoneinfo import ZoneInfo

from croniter import croniter

FROM, TO = datetime(2023, 7, 1), datetime(2026, 7, 1)
# A schedule with more matches is looked at around changes of the clock and some odd days only.
WHOLE_MAX = 1200
AROUND = 40
ODD_DAYS = [datetime(2024, 2, 29, 12), datetime(2025, 12, 31, 23, 30), datetime(2025, 4, 30, 6)]
UTC = timezone.utc


def seconds(aware):
    return int(aware.timestamp())


@lru_cache(maxsize=None)
def changes(zone):
    """Pairs of instants around each change of the offset: the last one before, the first one after."""
    tz, found = ZoneInfo(zone), []

    def offset(at):
        return datetime.fromtimestamp(at, tz).utcoffset()

    day = seconds(FROM.replace(tzinfo=UTC))
    while day < seconds(TO.replace(tzinfo=UTC)):
        low, high = day, day + 86400
        if offset(low) != offset(high):
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset(middle) == offset(low) else (low, middle)
            found.append(high)
        day += 86400
    return found


def matches(expression, both, start, limit=None, end=None):
    """Local times without a zone that match, after start."""
    source = croniter(expression, start, second_at_beginning=True, implement_cron_bug=True, day_or=not both)
    found = []
    while limit is None or len(found) < limit:
        local = source.get_next(datetime)
        if end is not None and local > end:
            break
        found.append(local)
    return found


def due(local, zone, real_time):
    """The instants at which a matching local time is due."""
    tz = ZoneInfo(zone)
    shown = set()
    for fold in (0, 1):
        at = seconds(local.replace(tzinfo=tz, fold=fold))
        if datetime.fromtimestamp(at, tz).replace(tzinfo=None) == local:
            shown.add(at)
    if real_time or len(shown) == 1:
        return sorted(shown)
    if shown:
        return [min(shown)]
    # The clock leaps over it: with the offset from before the leap it lies after it.
    beyond = seconds(local.replace(tzinfo=tz, fold=0))
    return [max(change for change in changes(zone) if change <= beyond)]


def windows(zone, few, spread):
    if few:
        return [(seconds(FROM.replace(tzinfo=UTC)), seconds(TO.replace(tzinfo=UTC)))]
    middles = changes(zone) + [seconds(day.replace(tzinfo=UTC)) for day in ODD_DAYS]
    return [(middle - spread, middle + spread) for middle in middles]


@lru_cache(maxsize=None)
def sample(expression, both):
    """Matches of the whole time, or the first ones of more than are looked at; and whether they are all."""
    # The changes of the clock are known up to TO: what is later is not asked for.
    found = matches(expression, both, FROM - timedelta(days=2), WHOLE_MAX + 1, TO + timedelta(days=2))
    return found, len(found) <= WHOLE_MAX


def answer(number, expression, both, zone):
    tz = ZoneInfo(zone)
    hour = expression.split()[-4]
    real_time = hour.startswith("*")
    found, few = sample(expression, both)
    spread = min(36 * 3600, max(900, AROUND * seconds_between(found) // 2))
    for after, through in windows(zone, few, spread):
        # All local times of the window, and what a change in it may reach beyond.
        shown = [datetime.fromtimestamp(at, tz).replace(tzinfo=None) for at in (after, through)]
        margin = timedelta(minutes=65)
        locals_ = found if few else matches(expression, both, min(shown) - margin, end=max(shown) + margin)
        ticks = {at for local in locals_ for at in due(local, zone, real_time)}
        tell(number, "rule", after, through, ticks)
    for change in changes(zone):
        reach = max(3600, min(spread, 9000)) if few or spread > 900 else spread
        after, through = change - reach, change + reach
        source = croniter(
            expression,
            datetime.fromtimestamp(after, tz),
            second_at_beginning=True,
            implement_cron_bug=True,
            day_or=not both,
        )
        ticks = set()
        while not ticks or max(ticks) <= through:
            ticks.add(seconds(source.get_next(datetime)))
        tell(number, "croniter", after, through, ticks)


def seconds_between(found):
    if len(found) < 2:
        return 366 * 86400
    return int((found[-1] - found[0]).total_seconds()) // (len(found) - 1)


def tell(number, kind, after, through, ticks):
    inside = sorted(at for at in ticks if after < at <= through)
    print(number, kind, after, through, " ".join(map(str, inside)), sep="\t")


for line in sys.stdin:
    number, expression, join, zone = line.rstrip("\n").split("\t")
    try:
        answer(number, expression, join == "and", zone)
    except Exception as error:  # Told to the test, which knows what to make of it.
        print(number, "error", repr(error), sep="\t")
