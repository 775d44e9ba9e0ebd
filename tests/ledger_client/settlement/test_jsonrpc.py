"""A node that is slow, forgets, restarts, reorganises, or gets dearer; and wallets that somebody else uses too. On anvil."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from srwan.errors import SettlementRefused, SettlementUnavailable
from srwan.ledger_client.contract.artefact import load_artefact
from srwan.ledger_client.settlement.abi import Interface
from srwan.ledger_client.settlement.jsonrpc import JsonRpcSettlement, NodeOptions
from srwan.ledger_client.settlement.signing import SettlementDomain, WalletKey
from srwan.ledger_client.settlement.transaction import Transaction, sign_transaction

pytestmark = pytest.mark.needs("anvil")

Until = Callable[..., Awaitable[None]]
OpenWorld = Callable[..., AbstractAsyncContextManager[Any]]
GWEI = 10**9
FUNDS = 10**12
EAGER = NodeOptions(confirmations=1, poll_s=0.05, stuck_s=0.4, patience_s=15.0, question_s=3.0, outage_s=8.0)
INTERFACE = Interface(load_artefact().abi)


@pytest.fixture
def node(start_node: Callable[..., Any]) -> Any:
    return start_node()


async def pool(node: Any) -> list[dict[str, Any]]:
    """Transactions that wait in the node for a block."""
    content = await node.ask("txpool_content")
    return [one for kind in ("pending", "queued") for wallet in content[kind].values() for one in wallet.values()]


async def escrow(world: Any) -> int:
    return int((await world.settlement.account(world.consumer.address)).escrow_microtoken)


def signed_elsewhere(world: Any, key: WalletKey, nonce: int, name: str, *values: Any, fee_wei: int = 50 * GWEI) -> str:
    """What another process with the same wallet would send."""
    domain: SettlementDomain = world.domain
    data = INTERFACE.encode_call(name, *values)
    made = Transaction(domain.chain_id, nonce, domain.contract, data, 200_000, fee_wei, fee_wei)
    return f"0x{sign_transaction(key, made).raw.hex()}"


async def test_a_stuck_transaction_is_replaced_by_a_dearer_one_and_taken_once(node: Any, open_anvil_world: OpenWorld, until: Until) -> None:
    async with open_anvil_world(node, options=EAGER) as world, trio.open_nursery() as nursery:
        await node.ask("evm_setAutomine", False)
        nursery.start_soon(world.settlement.deposit, world.consumer, 7)
        await until(lambda: has_in_pool(node, 1))
        (first,) = await pool(node)

        async def is_replaced() -> bool:
            (now,) = await pool(node)
            return bool(now["hash"] != first["hash"])

        await until(is_replaced)
        (second,) = await pool(node)
        await node.mine()

    assert first["nonce"] == second["nonce"]
    for fee in ("maxFeePerGas", "maxPriorityFeePerGas"):
        assert 9 * int(first[fee], 16) < 8 * int(second[fee], 16)


async def has_in_pool(node: Any, count: int) -> bool:
    return count == len(await pool(node))


async def test_fees_rise_to_the_cap_and_no_further(node: Any, open_anvil_world: OpenWorld, until: Until) -> None:
    options = attrs.evolve(EAGER, stuck_s=0.04, patience_s=2.5, fee_cap_wei=4 * GWEI)
    async with open_anvil_world(node, options=options) as world:
        await node.ask("evm_setAutomine", False)
        with pytest.raises(SettlementUnavailable, match="raise fee_cap_wei or wait"):
            await world.settlement.deposit(world.consumer, 7)
        (last,) = await pool(node)
        assert 3 * GWEI < int(last["maxFeePerGas"], 16) <= 4 * GWEI

        await node.ask("evm_setAutomine", True)
        await node.mine()
        await world.settlement.deposit(world.consumer, 7)  # the retry of the one that was left over
        assert 7 == await escrow(world)


async def test_a_base_fee_above_the_offer_raises_it_at_once(node: Any, open_anvil_world: OpenWorld, until: Until) -> None:
    async with open_anvil_world(node, options=attrs.evolve(EAGER, stuck_s=2.0)) as world, trio.open_nursery() as nursery:
        await node.ask("evm_setAutomine", False)
        nursery.start_soon(world.settlement.deposit, world.consumer, 7)
        await until(lambda: has_in_pool(node, 1))
        offered = int((await pool(node))[0]["maxFeePerGas"], 16)
        await node.ask("anvil_setNextBlockBaseFeePerGas", hex(5 * offered))
        await node.mine()
        assert [] == (await last_block(node))["transactions"]

        async def offers_more() -> bool:
            return any(int(one["maxFeePerGas"], 16) > 4 * offered for one in await pool(node))

        await until(offers_more)
        await node.mine()
    assert [] == await pool(node)


async def test_gas_above_the_cap_is_said_before_anything_is_sent(node: Any, open_anvil_world: OpenWorld) -> None:
    async with open_anvil_world(node, options=attrs.evolve(EAGER, fee_cap_wei=GWEI)) as world:
        await node.ask("anvil_setNextBlockBaseFeePerGas", hex(3 * GWEI))
        await node.mine()
        with pytest.raises(SettlementUnavailable, match=r"gas costs 3000000000 wei, the cap is 1000000000.*nothing was sent"):
            await world.settlement.deposit(world.consumer, 7)
        assert [] == await pool(node)


async def test_a_reorganisation_of_three_blocks_is_noticed_and_made_good(node: Any, open_anvil_world: OpenWorld, until: Until) -> None:
    async with open_anvil_world(node, options=attrs.evolve(EAGER, confirmations=4)) as world:
        done = trio.Event()

        async def deposit() -> None:
            await world.settlement.deposit(world.consumer, 7)
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(deposit)
            wallets = world.settlement._chain._submission._wallets
            await until(lambda: any(one.is_included for wallet in wallets.values() for one in wallet.pending))
            name = (await last_block(node))["transactions"][0]
            await node.mine(2)
            await node.ask("evm_setAutomine", False)
            await node.ask("anvil_reorg", 3, [])
            await node.ask("anvil_dropAllTransactions")
            assert await node.ask("eth_getTransactionReceipt", name) is None
            assert 0 == await escrow(world)

            await until(lambda: has_in_pool(node, 1))  # sent again
            await node.mine(3)
            await until(lambda: any(one.is_included for wallet in wallets.values() for one in wallet.pending))
            assert not done.is_set()
            await node.mine()
        assert (await node.ask("eth_getTransactionReceipt", name))["status"] == "0x1"
        assert 7 == await escrow(world)


async def last_block(node: Any) -> dict[str, Any]:
    return dict(await node.ask("eth_getBlockByNumber", "latest", False))


async def escrow_is(world: Any, amount: int) -> bool:
    return amount == await escrow(world)


async def test_a_transaction_waits_for_its_confirmations(node: Any, open_anvil_world: OpenWorld) -> None:
    options = attrs.evolve(EAGER, confirmations=3, patience_s=0.5)
    async with open_anvil_world(node, options=options) as world:
        with pytest.raises(SettlementUnavailable, match="1 of 3 confirmations"):
            await world.settlement.deposit(world.consumer, 7)
        await node.mine(2)
        await world.settlement.deposit(world.consumer, 7)

        assert 7 == await escrow(world)


async def test_a_node_that_restarts_and_forgets_its_pool_gets_the_transaction_again(
    start_node: Callable[..., Any], open_anvil_world: OpenWorld, until: Until, tmp_path: Path
) -> None:
    state = ["--state", str(tmp_path / "state.json")]
    node = start_node(*state)
    async with open_anvil_world(node, options=EAGER) as world, trio.open_nursery() as nursery:
        await world.settlement.deposit(world.consumer, 1)
        await node.ask("evm_setAutomine", False)
        nursery.start_soon(world.settlement.deposit, world.consumer, 7)
        await until(lambda: has_in_pool(node, 1))
        await trio.to_thread.run_sync(node.stop)
        nursery.start_soon(world.settlement.transfer, world.deployer, world.relays[0].address, 5)  # begun while there is no node
        await trio.sleep(0.3)
        node = await trio.to_thread.run_sync(lambda: start_node(*state, port=int(node.url.rpartition(":")[2])))
        await until(lambda: escrow_is(world, 8))
    assert 5 == (await world_of(node, world)).balance_microtoken


async def world_of(node: Any, world: Any) -> Any:
    async with await JsonRpcSettlement.open(node.url, world.domain, options=EAGER) as settlement:
        return await settlement.account(world.relays[0].address)


async def test_a_node_that_stays_away_or_lost_the_chain_is_named(
    start_node: Callable[..., Any], open_anvil_world: OpenWorld, until: Until
) -> None:
    node = start_node()
    async with open_anvil_world(node, options=attrs.evolve(EAGER, outage_s=0.5)) as world:
        await trio.to_thread.run_sync(node.stop)
        for question in (world.settlement.pools(), world.settlement.deposit(world.consumer, 1)):
            with pytest.raises(SettlementUnavailable, match=r"127\.0\.0\.1:\d+: eth_\w+: the node cannot be reached; check that the node"):
                await question
        port = int(node.url.rpartition(":")[2])
        node = await trio.to_thread.run_sync(lambda: start_node(port=port))
        with pytest.raises(SettlementUnavailable, match=r"there is no settlement contract at .*restarted without its state"):
            await world.settlement.pools()
        await trio.to_thread.run_sync(node.stop)
        await trio.to_thread.run_sync(lambda: start_node("--chain-id", "99", port=port))
        with pytest.raises(SettlementUnavailable, match="the node is of chain 99, not 31337"):
            await world.settlement.pools()


async def test_a_nonce_that_another_process_used_is_replaced_by_the_next(node: Any, open_anvil_world: OpenWorld, until: Until) -> None:
    async with open_anvil_world(node, options=attrs.evolve(EAGER, stuck_s=1.0)) as world, trio.open_nursery() as nursery:
        await node.ask("evm_setAutomine", False)
        nursery.start_soon(world.settlement.deposit, world.consumer, 7)
        await until(lambda: has_in_pool(node, 1))
        theirs = signed_elsewhere(world, world.consumer, 0, "deposit", 100)
        await node.ask("eth_sendRawTransaction", theirs)  # dearer, so it takes the place of ours
        await node.mine()
        assert 100 == await escrow(world)
        await node.ask("evm_setAutomine", True)
        await until(lambda: escrow_is(world, 107))
    assert "0x2" == await node.ask("eth_getTransactionCount", str(world.consumer.address), "latest")


async def test_a_gap_between_nonces_is_filled(node: Any, open_anvil_world: OpenWorld) -> None:
    async with open_anvil_world(node, options=EAGER) as world:
        await node.ask("eth_sendRawTransaction", signed_elsewhere(world, world.consumer, 2, "deposit", 100))
        for amount in (1, 2, 3):
            await world.settlement.deposit(world.consumer, amount)

        assert 106 == await escrow(world)
        assert "0x4" == await node.ask("eth_getTransactionCount", str(world.consumer.address), "latest")


async def test_a_wallet_without_coins_is_told_to_get_some(node: Any, open_anvil_world: OpenWorld) -> None:
    async with open_anvil_world(node, options=EAGER) as world:
        await node.ask("anvil_setBalance", str(world.consumer.address), "0x1")
        with pytest.raises(SettlementUnavailable, match="cannot pay for gas; send it some of the chain's own coin"):
            await world.settlement.deposit(world.consumer, 7)
        await node.fund(world.consumer)
        await world.settlement.deposit(world.consumer, 8)

        assert 8 == await escrow(world)


async def test_what_the_contract_refuses_only_in_its_block_is_refused_with_its_word(
    node: Any, open_anvil_world: OpenWorld, until: Until
) -> None:
    async with open_anvil_world(node, options=attrs.evolve(EAGER, stuck_s=10.0)) as world:
        outcomes: list[int | str] = []
        await world.settlement.deposit(world.consumer, 100)
        terms = await world.terms(100)
        await world.settlement.open_session(world.consumer, terms)
        await world.travel(6 * 3_600)
        await node.ask("evm_setAutomine", False)

        async def close(key: WalletKey) -> None:
            try:
                outcomes.append(await world.settlement.close_session(key, terms))
            except SettlementRefused as error:
                outcomes.append(error.reason)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(close, world.deployer)
            nursery.start_soon(close, world.consumer)
            await until(lambda: has_in_pool(node, 2))
            await node.mine()

    assert [100, "closed"] == sorted(outcomes, key=str)


async def test_a_cancelled_command_is_not_sent_twice_when_it_is_asked_again(node: Any, open_anvil_world: OpenWorld, until: Until) -> None:
    async with open_anvil_world(node, options=attrs.evolve(EAGER, stuck_s=10.0)) as world:
        await node.ask("evm_setAutomine", False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.settlement.transfer, world.consumer, world.relays[0].address, 7)
            await until(lambda: has_in_pool(node, 1))
            nursery.cancel_scope.cancel()
        await node.ask("evm_setAutomine", True)
        await node.mine()
        await world.settlement.transfer(world.consumer, world.relays[0].address, 7)
        assert 7 == (await world.settlement.account(world.relays[0].address)).balance_microtoken

        await world.settlement.transfer(world.consumer, world.relays[0].address, 7)  # a new one
        assert 14 == (await world.settlement.account(world.relays[0].address)).balance_microtoken


async def test_another_command_waits_for_the_one_left_over(node: Any, open_anvil_world: OpenWorld, until: Until) -> None:
    async with open_anvil_world(node, options=attrs.evolve(EAGER, stuck_s=10.0)) as world:
        await node.ask("evm_setAutomine", False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.settlement.deposit, world.consumer, 7)
            await until(lambda: has_in_pool(node, 1))
            nursery.cancel_scope.cancel()
        await node.ask("anvil_dropAllTransactions")
        await node.ask("evm_setAutomine", True)
        await world.settlement.deposit(world.consumer, 100)

        assert 107 == await escrow(world)


async def test_with_an_outbox_a_restart_of_the_client_sends_nothing_twice(
    node: Any, open_anvil_world: OpenWorld, until: Until, tmp_path: Path
) -> None:
    options, outbox = attrs.evolve(EAGER, stuck_s=10.0), tmp_path / "outbox"
    async with open_anvil_world(node, options=options, outbox=outbox) as world:
        await world.settlement.deposit(world.consumer, 7)  # acknowledged: not to be taken for a retry later
        await node.ask("evm_setAutomine", False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.settlement.deposit, world.consumer, 100)
            await until(lambda: has_in_pool(node, 1))
            nursery.cancel_scope.cancel()
        domain = world.domain
    await node.ask("anvil_dropAllTransactions")
    await node.ask("evm_setAutomine", True)

    async with await JsonRpcSettlement.open(node.url, domain, options=options, outbox=outbox) as again:
        world = attrs.evolve(world, settlement=again)
        await again.deposit(world.consumer, 7)
        assert 114 == await escrow(world)
    async with await JsonRpcSettlement.open(node.url, domain, options=options, outbox=outbox) as third:
        world = attrs.evolve(world, settlement=third)
        await third.deposit(world.consumer, 100)  # the retry: nobody was told that it had been taken
        assert 114 == await escrow(world)
        await third.deposit(world.consumer, 100)
        assert 214 == await escrow(world)


async def test_a_deployment_that_broke_off_is_done_again_and_gives_each_wallet_its_own_once(
    node: Any, deployer: WalletKey, deployment: Any, make_key: Callable[[str], WalletKey], tmp_path: Path, until: Until
) -> None:
    others = tuple((make_key(f"wallet {number}").address, 1_000 + number) for number in range(3))
    deployment, outbox = attrs.evolve(deployment, genesis=others), tmp_path / "outbox"
    options = attrs.evolve(EAGER, stuck_s=10.0)
    await node.fund(deployer)
    nonce = int(await node.ask("eth_getTransactionCount", str(deployer.address), "latest"), 16)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(JsonRpcSettlement.deploy, node.url, deployer, deployment, options=options, outbox=outbox))

        async def has_sent() -> bool:
            return nonce + 2 <= int(await node.ask("eth_getTransactionCount", str(deployer.address), "latest"), 16)

        await until(has_sent)
        nursery.cancel_scope.cancel()

    async with await JsonRpcSettlement.deploy(node.url, deployer, deployment, options=options, outbox=outbox) as settlement:
        for address, amount in others:
            assert amount == (await settlement.account(address)).balance_microtoken


async def test_an_outbox_of_another_chain_is_refused(node: Any, open_anvil_world: OpenWorld, tmp_path: Path, start_node: Any) -> None:
    outbox = tmp_path / "outbox"
    async with open_anvil_world(node, options=EAGER, outbox=outbox):
        pass
    other = start_node("--chain-id", "99")
    with pytest.raises(SettlementUnavailable, match="it is of chain 31337, not 99"):
        async with open_anvil_world(other, options=EAGER, outbox=outbox):
            pass
