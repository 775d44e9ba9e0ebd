"""Two routers in one program, and a datagram over the best path between them."""

import trio

import srwan

HERE = {"udp": "127.0.0.1:0", "control": "127.0.0.1:0"}


async def main() -> None:
    async with srwan.open_node(name="paris", **HERE) as paris, srwan.open_node(name="tokyo", bootstrap=paris.multiaddr, **HERE) as tokyo:
        async with tokyo.open_path("paris") as path:
            await path.send(b"hello")
            print(await (await paris.accept_path()).receive(), "came by", path.explain())


trio.run(main)
