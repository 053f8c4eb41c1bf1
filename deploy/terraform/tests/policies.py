"""Decides requests by IAM's policies, as far as those of this module go: the explicit Deny first, then
an Allow. Of the account's root a key's policy lets IAM decide, unless a condition keeps it to the root user.

By the "Policy evaluation logic" and "IAM JSON policy elements: Condition operators" of the IAM User Guide;
an operator that is not known here is an error, never a match.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any


@dataclass(frozen=True)
class Request:
    """Who asks for what, with the context that AWS adds; a name that is missing is absent from the request."""

    principal: str
    action: str
    resource: str
    context: dict[str, Any] = field(default_factory=dict)


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def like(text: str, pattern: str) -> bool:
    # `[` is no special character of IAM.
    return fnmatchcase(text, pattern.replace("[", "[[]"))


def decide(request: Request, resource_policy: dict[str, Any] | None, identity_policy: dict[str, Any] | None) -> bool:
    """Whether the request is allowed within one account."""
    own = [it for it in statements(resource_policy) if is_for(it, request.principal)]
    mine = statements(identity_policy)
    matching = [it for it in own + mine if matches(it, request)]
    if any(it["Effect"] == "Deny" for it in matching):
        return False
    return any(it["Effect"] == "Allow" for it in matching)


def decide_key(request: Request, key_policy: dict[str, Any], identity_policy: dict[str, Any] | None) -> bool:
    """The same for a KMS key, where a role's own policy counts only if the key's hands it to IAM."""
    account = request.principal.split(":")[4]
    root = Request(f"arn:aws:iam::{account}:root", request.action, request.resource, request.context)
    own = [it for it in statements(key_policy) if matches(it, request)]
    if any(it["Effect"] == "Deny" and is_for(it, request.principal) for it in own):
        return False
    if any(it["Effect"] == "Allow" and is_for(it, request.principal) for it in own):
        return not any(it["Effect"] == "Deny" and matches(it, request) for it in statements(identity_policy))
    is_handed = any(it["Effect"] == "Allow" and is_for(it, root.principal) for it in own)
    return is_handed and decide(request, None, identity_policy)


def statements(policy: dict[str, Any] | None) -> list[dict[str, Any]]:
    return [] if policy is None else policy["Statement"]


def is_for(statement: dict[str, Any], principal: str) -> bool:
    named = statement.get("Principal", {})
    return named == "*" or principal in [it for of_kind in named.values() for it in listed(of_kind)]


def matches(statement: dict[str, Any], request: Request) -> bool:
    return (
        any(like(request.action.lower(), action.lower()) for action in listed(statement["Action"]))
        and any(like(request.resource, resource) for resource in listed(statement["Resource"]))
        and all(
            holds(operator, request.context.get(name), listed(values))
            for operator, tests in statement.get("Condition", {}).items()
            for name, values in tests.items()
        )
    )


def holds(operator: str, found: Any, wanted: list[str]) -> bool:
    quantifier, _, plain = operator.rpartition(":")
    if plain == "Null":
        return (found is None) == (wanted == ["true"])
    values = [] if found is None else listed(found)
    if quantifier == "ForAllValues":
        # Also of none at all: that is why another condition must ask for a value.
        return all(one(plain, value, wanted) for value in values)
    if quantifier == "ForAnyValue":
        return any(one(plain, value, wanted) for value in values)
    # A negated operator holds of what is absent.
    return one(plain, values[0], wanted) if values else "Not" in plain


def one(operator: str, value: str, wanted: list[str]) -> bool:
    match operator:
        case "StringEquals" | "Bool" | "ArnEquals":
            return value in wanted
        case "StringNotEquals":
            return value not in wanted
        case "StringLike":
            return any(like(value, pattern) for pattern in wanted)
    raise ValueError(f"the operator {operator} is not known here")
