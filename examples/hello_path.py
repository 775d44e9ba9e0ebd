"""Two routers in one program, and a datagram over the best path between them."""

import trio

import srwan

HERE = "127.0.0.1:0"


async def main() -> None:
    async with (
        srwan.open_node(name="paris", udp=HERE, control=HERE) as paris,
        srwan.open_node(name="tokyo", udp=HERE, control=HERE, bootstrap=paris.multiaddr) as tokyo,
        tokyo.open_path("paris") as path,
    ):
        await path.send(b"hello")
        print(await (await paris.accept_path()).receive(), "came by", path.explain())


trio.run(main)
