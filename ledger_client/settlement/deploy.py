"""Putting the settlement contract on a chain, with all tokens there will ever be, and handing them out.

Who deploys gets the supply less the subsidy, and gives from it what `genesis` says. On a real chain every transaction costs gas, paid in
the chain's own coin: the deployer, and every wallet that sends transactions, must hold some of it; getting it there is the operator's
matter. The embedded engine takes no gas.
"""

from __future__ import annotations

import attrs

from srwan.errors import SettlementRefused, SettlementUnavailable
from srwan.ledger_client.contract.artefact import load_artefact
from srwan.ledger_client.settlement.abi import Interface
from srwan.ledger_client.settlement.chain import Chain
from srwan.ledger_client.settlement.engine import ContractSettlement
from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey

__all__ = ["FEE_BPS_DEFAULT", "Deployment", "deploy"]

DAY_S = 86_400
FEE_BPS_DEFAULT = 100
"""1 %, the whitepaper's "small transaction fee" (2.2.5): relays keep 99 of 100. It need not deter self-dealing, which gains at none, as
the subsidy is paid to validators and voters and never to traffic. It must not reach a relay's margin, or pairs settle beside the market."""


@attrs.frozen(slots=True)
class Deployment:
    """What is fixed when the contract is put on a chain."""

    validators: tuple[Address, ...]
    """Who signs batches, in any order, 1..16; can be changed later by a quorum of them."""
    quorum: int
    """Signatures that a batch needs."""
    supply_microtoken: int
    """All there will ever be, subsidy included."""
    subsidy_microtoken: int = 0
    """Released over three years into the pools."""
    fee_bps: int = FEE_BPS_DEFAULT
    """Of every payment, hundredths of a percent."""
    window_s: int = DAY_S
    """A period: payments can be overturned until the one after theirs has ended."""
    withdraw_delay_s: int = DAY_S
    """From asking escrow back to having it."""
    genesis: tuple[tuple[Address, int], ...] = ()
    """Wallets and what the deployer gives them, microtokens."""


async def deploy(chain: Chain, key: WalletKey, deployment: Deployment) -> SettlementDomain:
    """Put the contract on a chain and hand out what `genesis` says; return what signatures must be made for.

    Raises:
        SettlementRefused: the contract cannot be made with these parameters, or the deployer cannot give so much.
        SettlementUnavailable: the chain cannot be reached; what was taken until then stays. Done again, it makes
            another contract, whose tokens are its own.
    """
    artefact = load_artefact()
    try:
        arguments = Interface(artefact.abi).encode_constructor(
            deployment.fee_bps,
            sorted(deployment.validators),
            deployment.quorum,
            deployment.supply_microtoken,
            deployment.subsidy_microtoken,
            deployment.window_s,
            deployment.withdraw_delay_s,
        )
        receipt = await chain.execute(key, None, artefact.bytecode + arguments)
    except ValueError as error:
        raise SettlementRefused("deploy", f"cannot be said to the contract: {error}") from None
    except SettlementRefused as error:
        raise SettlementRefused("deploy", error.reason) from None
    if receipt.contract is None:
        raise SettlementUnavailable(chain.where, "the receipt of the deployment names no contract", "try another node")
    settlement = ContractSettlement(chain, receipt.contract)
    for address, amount_microtoken in deployment.genesis:
        await settlement.transfer(key, address, amount_microtoken)
    return settlement.domain
