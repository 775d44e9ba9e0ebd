"""The settlement contract: its source (Vyper), its compiled form as shipped, and the loading of it.

Start at docs/settlement.md for what it does, `settlement.vy` for how, `artefact.py` for its ABI and bytecode.
"""
