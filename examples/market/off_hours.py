"""Spare capacity sold off-hours and anonymously, so that it does not spoil the day's market (whitepaper 10.1).

Run it: python examples/market/off_hours.py      (needs `pip install "srwan[settlement]"`)

The owner of a line from Chicago lists it outside of working hours there, under a key that tells neither name nor place; what stands for the
name is a bond in escrow. First the week's windows are shown, the one in which the clocks change included. Then a line whose off-hours
happen to be now is bought: its price is there because the bond is, and the session ends before the window does.
"""

from __future__ import annotations

import datetime as dt
import zoneinfo

import trio

from srwan.ledger_client.market.zones import resolve_windows
from srwan.offer_config import parse_local_window
from srwan.routing import PathPolicy
from srwan.swarm.trading import carry, open_trading_floor, wait_until
from srwan.types import UdpAddress

ZONE = "America/Chicago"
LINE = "10.0.0.2"
OFF_HOURS = ("mon-fri 18:00-08:00", "sat-sun 00:00-24:00")


def delay_s(source: UdpAddress, destination: UdpAddress, _data: bytes) -> float:
    return 0.007 if LINE in (source[0], destination[0]) else 0.060


def show_week() -> None:
    """Print when the line is for sale in the week in which Chicago's clocks are set back."""
    zone = zoneinfo.ZoneInfo(ZONE)
    start_s = round(dt.datetime(2026, 10, 30, 12, tzinfo=zone).timestamp())
    schedule = resolve_windows(map(parse_local_window, OFF_HOURS), ZONE, start_s, start_s + 5 * 86_400)
    print("off-hours in Chicago, universal time:")
    for window in schedule.windows or ():
        start, end = (dt.datetime.fromtimestamp(moment, dt.UTC) for moment in (window.start_s, window.end_s))
        print(f"  {start:%a %H:%M} to {end:%a %H:%M}, {(window.end_s - window.start_s) / 3600:g} h")


async def main() -> None:
    show_week()
    now = dt.datetime.now(zoneinfo.ZoneInfo(ZONE))
    around = [now + dt.timedelta(minutes=minutes) for minutes in (-30, 30)]
    offer = {
        "price_microtoken_per_gb": 4_000_000,
        "windows": ["-".join(f"{moment:%H:%M}" for moment in around)],
        "time_zone": ZONE,
        "anonymous": True,
        "bond_microtoken": 5_000_000,
    }
    async with open_trading_floor(delay_s) as floor:
        buyer = await floor.add("buyer", tokens=20, escrow=10)
        await floor.add("line", tokens=10, escrow=5, offer=offer, location={"country": "US", "asn": 64500})
        far = await floor.add("far")
        await floor.start_validators()
        await floor.wait_matrix()
        line = floor.traders["line"].node.id
        (member,) = [member for member in buyer.view() if member.node_id == line]
        print(f"the group knows the line as {member.name or 'nobody'} in {member.location}")

        async with buyer.open_path("far", PathPolicy(price_max_microtoken=5_000_000)) as path:
            await path.send(b"first")
            far_end = await far.accept_path()
            await wait_until(lambda: bool(path.relays))
            assert buyer.money is not None
            listed = buyer.money.book.offer_of(line)
            assert listed is not None
            assert listed.bond is not None
            print(f"bought, since {listed.bond.amount_microtoken} microtokens in escrow stand for it:", path.explain())
            await carry(path, far_end, 1_000_000)
            ((terms, _, _), *_) = floor.traders["buyer"].tickets()
            window = listed.schedule.window_at(round(now.timestamp()))
            assert window is not None
            print(f"the session ends {window.end_s - terms.expires_s} s before the window")
        print(f"the line earned {await floor.settle()} microtokens")
        print("conserved" if await floor.is_conserved() else "NOT CONSERVED")


trio.run(main)
