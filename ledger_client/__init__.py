"""ledger_client."""
