"""The two hops and the ten best, as databases that know SQL are asked."""

from __future__ import annotations

_HOP = """
    select target as id, sum(heard * 0.8 * share) as heard
    from {0} join edge on source = {0}.id
    where heard * 0.8 * share >= 0.001
    group by target
"""


_BEST = f"""
    with seed as materialized ({{nearest}}),
    first as materialized ({_HOP.format("seed")}),
    second as materialized ({_HOP.format("first")})
    select id from (
        select * from seed union all select * from first union all select * from second
    )
    group by id order by sum(heard) desc, id limit 10
"""


def best(nearest: str) -> str:
    """Return the question, given that for the seeds: their ``id``, and what is ``heard`` there."""
    return _BEST.replace("{nearest}", nearest)
