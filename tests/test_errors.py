"""The tree of errors: what a caller can catch, and what each one carries."""

from __future__ import annotations

import inspect

import pytest

from srwan import errors


def error_classes() -> list[type[Exception]]:
    return [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)]


@pytest.mark.parametrize("error", error_classes())
def test_every_error_is_a_srwan_error(error: type[Exception]) -> None:
    assert issubclass(error, errors.SrwanError)


def test_the_tree_is_the_one_that_callers_rely_on() -> None:
    parents = {error.__name__: error.__bases__[0].__name__ for error in error_classes()}

    relied_on = {
        "SrwanError": "Exception",
        "ConfigError": "SrwanError",
        "ProtocolError": "SrwanError",
        "LocalProtocolError": "ProtocolError",
        "RemoteProtocolError": "ProtocolError",
        "DecodeError": "RemoteProtocolError",
        "BadSignature": "RemoteProtocolError",
        "StaleRecord": "RemoteProtocolError",
        "LimitExceeded": "RemoteProtocolError",
        "OverlayError": "SrwanError",
        "UnknownNode": "OverlayError",
        "NoSession": "OverlayError",
        "RoutingError": "SrwanError",
        "NoPath": "RoutingError",
        "PathClosed": "RoutingError",
        "LedgerError": "SrwanError",
        "StoreUnavailable": "LedgerError",
    }
    assert relied_on == {name: parents.get(name) for name in relied_on}


def test_config_error_names_the_key_the_problem_and_the_remedy() -> None:
    error = errors.ConfigError("pulse.period_s", "0 is not in 1..60", "choose 10")

    assert "pulse.period_s: 0 is not in 1..60; choose 10" == str(error)
    assert (error.key, error.problem, error.remedy) == ("pulse.period_s", "0 is not in 1..60", "choose 10")


def test_store_unavailable_names_the_store_the_problem_and_the_remedy() -> None:
    error = errors.StoreUnavailable("ditex.sqlite", "database is locked", "stop the other process")

    assert "ditex.sqlite: database is locked; stop the other process" == str(error)
    assert (error.where, error.problem, error.remedy) == ("ditex.sqlite", "database is locked", "stop the other process")


def test_unknown_node_says_where_to_look() -> None:
    error = errors.UnknownNode("tokio", "no member of this name")

    assert "tokio: no member of this name; `node.view()` lists the members" == str(error)
    assert "tokio" == error.destination


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.RemoteProtocolError, "protocol"),
        (errors.DecodeError, "decode"),
        (errors.BadSignature, "signature"),
        (errors.StaleRecord, "stale"),
        (errors.LimitExceeded, "limit"),
    ],
)
def test_remote_errors_are_counted_under_their_reason_or_a_nearer_one(error: type[errors.RemoteProtocolError], reason: str) -> None:
    assert reason == error("told").reason
    assert "mac" == error("told", reason="mac").reason
    assert reason == error("told").reason, "a nearer reason of one error changed the class"
