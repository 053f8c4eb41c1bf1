#!/usr/bin/env python3
"""Compares the Decrypt events of CloudTrail with the audit log of the vault, one to one.

Each retrieval is one Decrypt, and has one record `key.retrieve`. So of a span of time both must have the
same: a Decrypt without a record is a value that was opened behind the vault's back; a record without a
Decrypt is one that the vault did not earn, or a trail with a hole. They are matched by key, version and
time: the encryption context of the event names the opaque ids `key` and `version` that the record has among
its details as `uid` and `version`.

A value opens to whoever has its data key under a key of his own, too. So a ReEncrypt is a difference when its
source or its destination is a key that is not the vault's.

Reads files and prints ids, times and principals; no value is in either log. Needs Python 3.11 and
nothing else. Exit codes: 0 everything matches, 1 something does not, 2 the input can't be used.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

# What the server sends with each call; its envelope says so.
CONTEXT_NAMES = frozenset({"format", "key", "org", "purpose", "version"})
PROVIDER_KEY = "provider-key"
SERVICE = "service"
# A lost reply is tried again at most twice, within the 2.5 s of a call.
RETRIES_MAX = 2
SHOWN_MAX = 20


class BadInput(Exception):
    """Input that can't be used, in a sentence."""


def is_of_the_vault(context: dict[str, str]) -> bool:
    return context.keys() == CONTEXT_NAMES and context["purpose"] in (PROVIDER_KEY, SERVICE)


@dataclass(frozen=True)
class Decrypt:
    """A Decrypt event."""

    id: str
    time: datetime
    principal: str
    kms_key: str
    context: dict[str, str]
    error: str

    @property
    def purpose(self) -> str:
        return self.context.get("purpose", "")

    @property
    def is_ours(self) -> bool:
        return is_of_the_vault(self.context)

    @property
    def opened(self) -> tuple[str, str]:
        """Key and version that were opened."""
        return self.context["key"], self.context["version"]

    def __str__(self) -> str:
        told = " ".join(f"{name}={self.context[name]}" for name in sorted(self.context))
        failed = f" {self.error}" if self.error else ""
        return f"{stamp(self.time)} event {self.id} by {self.principal}{failed}: {told or 'no context'}"


@dataclass(frozen=True)
class ReEncrypt:
    """A ReEncrypt event."""

    id: str
    time: datetime
    principal: str
    # Source and destination; of a call that was denied perhaps none.
    kms_keys: tuple[str, ...]
    contexts: tuple[dict[str, str], ...]
    error: str

    @property
    def is_ours(self) -> bool:
        return any(is_of_the_vault(context) for context in self.contexts)

    def __str__(self) -> str:
        failed = f" {self.error}" if self.error else ""
        return f"{stamp(self.time)} event {self.id} by {self.principal}{failed}: {' to '.join(self.kms_keys) or 'no key'}"


@dataclass(frozen=True)
class Record:
    """A record of a retrieval that was allowed."""

    id: str
    time: datetime
    resource: str
    uid: str
    version: str
    subject: str

    @property
    def org(self) -> str:
        """The organization's name, of `orgs/NAME/keys/...`."""
        parts = self.resource.split("/")
        return parts[1] if len(parts) > 1 and parts[0] == "orgs" else ""

    @property
    def opened(self) -> tuple[str, str]:
        return self.uid, self.version

    def __str__(self) -> str:
        told = f"of {self.resource} for {self.subject}: key={self.uid} version={self.version}"
        return f"{stamp(self.time)} record {self.id} {told}"


@dataclass
class Report:
    """What was found; each list is a difference unless its name says otherwise."""

    matched: int = 0
    # Decrypts that are no difference: the vault opened its own keys.
    service: Counter[str] = field(default_factory=Counter)
    # Calls that KMS refused, by its error; nothing was opened.
    refused: Counter[str] = field(default_factory=Counter)
    # Records whose value did not leave, as a second record says.
    unopened: int = 0
    # ReEncrypts from one key that is named to another.
    moved: Counter[str] = field(default_factory=Counter)
    moved_away: list[ReEncrypt] = field(default_factory=list)
    moved_by_others: list[ReEncrypt] = field(default_factory=list)
    unrecorded: list[Decrypt] = field(default_factory=list)
    retries: list[Decrypt] = field(default_factory=list)
    without_decrypt: list[Record] = field(default_factory=list)
    foreign: list[Decrypt] = field(default_factory=list)
    strange: list[Decrypt] = field(default_factory=list)
    unnamed_keys: Counter[str] = field(default_factory=Counter)
    mixed_orgs: list[str] = field(default_factory=list)

    def differs(self, accept_retries: bool) -> bool:
        """Whether the two logs don't say the same."""
        found = [self.unrecorded, self.without_decrypt, self.foreign, self.strange, self.unnamed_keys, self.mixed_orgs]
        return any([*found, self.moved_away, self.moved_by_others]) or bool(self.retries) and not accept_retries


# Reading


def stamp(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment(text: Any, where: str) -> datetime:
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        raise BadInput(f"{where}: a time that is not RFC 3339") from None
    if time.tzinfo is None:
        raise BadInput(f"{where}: a time without a zone")
    return time


def read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    except (OSError, EOFError, ValueError) as error:
        # Not the error's own text of a decoding: it quotes what it could not read.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a text, or cut short"
        raise BadInput(f"{path}: {reason}") from None


def documents(text: str, path: Path) -> Iterator[Any]:
    """One JSON document, or several, one after the other."""
    decoder, at, size = json.JSONDecoder(), 0, len(text)
    while True:
        while at < size and text[at].isspace():
            at += 1
        if at == size:
            return
        try:
            document, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise BadInput(f"{path}: not JSON at line {text.count(chr(10), 0, error.pos) + 1}") from None
        yield document


def files(paths: Iterable[Path], patterns: tuple[str, ...]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found.extend(sorted(file for pattern in patterns for file in path.rglob(pattern) if file.is_file()))
        elif path.exists():
            found.append(path)
        else:
            raise BadInput(f"{path}: no such file or directory")
    return found


def read_trail(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """All KMS events of log files, each once. Digest files are passed over."""
    events: dict[str, dict[str, Any]] = {}
    logs = 0
    for path in files(paths, ("*.json", "*.json.gz")):
        for document in documents(read_text(path), path):
            if isinstance(document, dict) and "digestStartTime" in document:
                continue
            records = document.get("Records") if isinstance(document, dict) else None
            if not isinstance(records, list):
                raise BadInput(f"{path}: no log file of CloudTrail: it has no list `Records`")
            logs += 1
            for event in records:
                if not isinstance(event, dict) or not event.get("eventID"):
                    raise BadInput(f"{path}: an event without `eventID`")
                if event.get("eventSource") == "kms.amazonaws.com":
                    # Of one call with another account's key each account has an event of its own.
                    events[event.get("sharedEventID") or event["eventID"]] = event
    if not logs:
        raise BadInput("the trail: no log file was found")
    return list(events.values())


def principal(identity: Any) -> str:
    """Who it was: of a session the role, of which there is one, and not the session, of which there are many."""
    if not isinstance(identity, dict):
        return "unknown"
    session = identity.get("sessionContext")
    issuer = session.get("sessionIssuer") if isinstance(session, dict) else None
    role = issuer.get("arn") if isinstance(issuer, dict) else None
    return str(role or identity.get("arn") or identity.get("invokedBy") or identity.get("principalId") or "unknown")


def asked_of(event: dict[str, Any]) -> dict[str, Any]:
    """What was asked for; a call that was denied may have no parameters at all."""
    asked = event.get("requestParameters")
    return asked if isinstance(asked, dict) else {}


def arns(event: dict[str, Any]) -> list[str]:
    return [str(it["ARN"]) for it in event.get("resources") or [] if isinstance(it, dict) and it.get("ARN")]


def context_of(asked: dict[str, Any], name: str) -> dict[str, str]:
    return {str(name): str(value) for name, value in (asked.get(name) or {}).items()}


def decrypts(events: Iterable[dict[str, Any]]) -> list[Decrypt]:
    found = []
    for event in events:
        if event.get("eventName") != "Decrypt":
            continue
        asked = asked_of(event)
        found.append(
            Decrypt(
                id=event["eventID"],
                time=moment(event.get("eventTime"), f"event {event['eventID']}"),
                principal=principal(event.get("userIdentity")),
                kms_key=str(next(iter(arns(event)), asked.get("keyId", ""))),
                context=context_of(asked, "encryptionContext"),
                error=str(event.get("errorCode") or ""),
            )
        )
    return found


def re_encrypts(events: Iterable[dict[str, Any]]) -> list[ReEncrypt]:
    found = []
    for event in events:
        if event.get("eventName") != "ReEncrypt":
            continue
        asked = asked_of(event)
        named = [str(asked[name]) for name in ("sourceKeyId", "destinationKeyId") if asked.get(name)]
        contexts = (context_of(asked, name) for name in ("sourceEncryptionContext", "destinationEncryptionContext"))
        # The resources have both keys by their ARNs; a parameter may be an alias.
        keys = arns(event) if len(arns(event)) > 1 else arns(event) + [key for key in named if key not in arns(event)]
        found.append(
            ReEncrypt(
                id=event["eventID"],
                time=moment(event.get("eventTime"), f"event {event['eventID']}"),
                principal=principal(event.get("userIdentity")),
                kms_keys=tuple(keys),
                contexts=tuple(contexts),
                error=str(event.get("errorCode") or ""),
            )
        )
    return found


def read_audit(paths: Iterable[Path]) -> tuple[list[Record], set[str]]:
    """The records of retrievals that were allowed, each once, and the ids of those whose value did not leave."""
    found: dict[str, Record] = {}
    unopened: set[str] = set()
    for path in files(paths, ("*.json", "*.json.gz", "*.jsonl", "*.jsonl.gz")):
        for event in audit_events(path):
            action, outcome = event.get("action"), event.get("outcome")
            details = event.get("details")
            if not isinstance(event.get("id"), str) or not isinstance(details, dict):
                raise BadInput(f"{path}: not what `ibyok audit list -o json` prints: an event without id or details")
            where = f"{path}: event {event['id']}"
            if action == "key.retrieve.failed" and isinstance(details.get("event"), str):
                unopened.add(details["event"])
            if action != "key.retrieve" or outcome != "allowed":
                continue
            if not details.get("uid") or not details.get("version"):
                raise BadInput(f"{where} has no uid or no version among its details")
            found[event["id"]] = Record(
                id=event["id"],
                time=moment(event.get("time"), where),
                resource=str(event.get("resource", "")),
                uid=str(details["uid"]),
                version=str(details["version"]),
                subject=str(event.get("subject", "")),
            )
    return list(found.values()), unopened


def audit_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of `ibyok audit list -o json`, or of `audit tail`, which prints one on each line."""
    for document in documents(read_text(path), path):
        listed = document.get("events") if isinstance(document, dict) and "action" not in document else [document]
        if not isinstance(listed, list) or not all(isinstance(event, dict) for event in listed):
            raise BadInput(f"{path}: not what `ibyok audit list -o json` prints")
        yield from listed


# Comparing


def in_time(event: Decrypt, record: Record, tolerance: timedelta) -> bool:
    return abs(event.time - record.time) <= tolerance


def pair(
    events: list[Decrypt], records: list[Record], tolerance: timedelta
) -> tuple[list[tuple[Decrypt, Record]], list[Decrypt], list[Record]]:
    """Pairs of one key version, the oldest first: for windows of one length that pairs as many as can be."""
    events, records = sorted(events, key=lambda it: it.time), sorted(records, key=lambda it: it.time)
    pairs, alone, without = [], [], []
    at = 0
    for event in events:
        while at < len(records) and records[at].time < event.time - tolerance:
            without.append(records[at])
            at += 1
        if at < len(records) and in_time(event, records[at], tolerance):
            pairs.append((event, records[at]))
            at += 1
        else:
            alone.append(event)
    return pairs, alone, without + records[at:]


def split_retries(
    alone: list[Decrypt], pairs: list[tuple[Decrypt, Record]], window: timedelta
) -> tuple[list[Decrypt], list[Decrypt]]:
    """Of events without a record those that can be a second or third try of one that has one."""
    tries: Counter[str] = Counter()
    retries, rest = [], []
    for event in alone:
        first = next(
            (
                it
                for it, _ in pairs
                if abs(it.time - event.time) <= window
                and it.principal == event.principal
                and tries[it.id] < RETRIES_MAX
            ),
            None,
        )
        if first is None:
            rest.append(event)
        else:
            tries[first.id] += 1
            retries.append(event)
    return retries, rest


@dataclass(frozen=True)
class Compared:
    """What became of one key version."""

    pairs: list[tuple[Decrypt, Record]]
    retries: list[Decrypt]
    unrecorded: list[Decrypt]
    without: list[Record]

    @property
    def cost(self) -> int:
        return len(self.unrecorded) + len(self.without)


def compare_version(events: list[Decrypt], records: list[Record], question: Question) -> Compared:
    """By the tolerance; where that leaves something, near ones first, so that a second try of a Decrypt
    does not take the record of the next retrieval."""
    near = question.retry_window

    def of(pairs: list[tuple[Decrypt, Record]], alone: list[Decrypt], without: list[Record]) -> Compared:
        retries, unrecorded = split_retries(alone, pairs, near)
        return Compared(pairs, retries, unrecorded, without)

    wide = of(*pair(events, records, question.tolerance))
    if not wide.cost and not wide.retries:
        return wide
    close, alone, without = pair(events, records, min(near, question.tolerance))
    rest, alone, without = pair(alone, without, question.tolerance)
    return min(wide, of(close + rest, alone, without), key=lambda it: it.cost)


@dataclass(frozen=True)
class Question:
    """What is compared, and how."""

    keys: frozenset[str]
    principals: frozenset[str]
    since: datetime
    until: datetime
    tolerance: timedelta
    retry_window: timedelta = timedelta(seconds=3)

    def covers(self, time: datetime) -> bool:
        return self.since <= time < self.until


def compare(question: Question, events: list[Decrypt], records: list[Record], unopened: set[str]) -> Report:
    """What of the span the two logs say differently. What lies around it serves as counterpart only."""
    report = Report()
    by_version: dict[tuple[str, str], tuple[list[Decrypt], list[Record]]] = defaultdict(lambda: ([], []))
    for event in events:
        is_named = event.kms_key in question.keys
        if not is_named and not event.is_ours:
            continue
        is_covered = question.covers(event.time)
        if is_covered and not is_named:
            report.unnamed_keys[event.kms_key or "no key"] += 1
        if question.principals and event.principal not in question.principals:
            report.foreign.extend([event] if is_covered else [])
        elif event.error:
            report.refused.update([event.error] if is_covered else [])
        elif not event.is_ours:
            report.strange.extend([event] if is_covered else [])
        elif event.purpose == SERVICE:
            report.service.update([event.principal] if is_covered else [])
        else:
            by_version[event.opened][0].append(event)
    for record in records:
        by_version[record.opened][1].append(record)

    orgs: dict[str, set[str]] = defaultdict(set)
    for version in sorted(by_version):
        opened, recorded = by_version[version]
        found = compare_version(opened, recorded, question)
        for event, record in found.pairs:
            orgs[event.context["org"]].add(record.org)
            # One of a pair counts where its record is, so that two spans side by side count it once.
            report.matched += question.covers(record.time)
        report.retries += [event for event in found.retries if question.covers(event.time)]
        report.unrecorded += [event for event in found.unrecorded if question.covers(event.time)]
        without = [record for record in found.without if question.covers(record.time)]
        report.unopened += sum(record.id in unopened for record in without)
        report.without_decrypt += [record for record in without if record.id not in unopened]
    report.mixed_orgs = [
        f"org={uid} is {' and '.join(sorted(names))}" for uid, names in sorted(orgs.items()) if len(names) > 1
    ]
    return report


def judge_moves(question: Question, moves: list[ReEncrypt], report: Report) -> None:
    """What of the span went from or to a key that is not named, and what somebody else moved."""
    for move in moves:
        is_named = [key in question.keys for key in move.kms_keys]
        if not question.covers(move.time) or not (any(is_named) or move.is_ours):
            continue
        if question.principals and move.principal not in question.principals:
            report.moved_by_others.append(move)
        elif move.error:
            report.refused.update([move.error])
        elif all(is_named):
            report.moved.update([move.principal])
        else:
            report.moved_away.append(move)


# Telling


def tell(report: Report, question: Question, accept_retries: bool) -> list[str]:
    lines = [
        f"{stamp(question.since)} to {stamp(question.until)}",
        f"matched: {report.matched} retrievals, each with its record and its Decrypt",
        f"service: {sum(report.service.values())} Decrypts of the vault's own keys, as at a start",
    ]
    lines += [f"  {count} by {who}" for who, count in sorted(report.service.items())]
    if report.moved:
        told = ", ".join(f"{count} by {who}" for who, count in sorted(report.moved.items()))
        lines.append(f"moved: data keys from one of these KMS keys to another: {told}")
    if report.unopened:
        lines.append(f"not opened: {report.unopened} records whose value did not leave, as key.retrieve.failed says")
    if report.refused:
        told = ", ".join(f"{count} {error}" for error, count in sorted(report.refused.items()))
        lines.append(f"refused by KMS: {told}; nothing was opened")
    if report.retries:
        told = "accepted" if accept_retries else "a difference; --accept-retries takes them for lost replies"
        lines += many(f"second tries of a Decrypt that has its record ({told})", report.retries)
    lines += many("Decrypts WITHOUT A RECORD", report.unrecorded)
    orgs = Counter(event.context["org"] for event in report.unrecorded)
    lines += [f"  org={org}: {count}; was its audit log left out?" for org, count in sorted(orgs.items())]
    lines += many("records WITHOUT A DECRYPT", report.without_decrypt)
    lines += many("Decrypts by SOMEBODY ELSE than --principal", report.foreign)
    lines += many("ReEncrypts from or to a KEY THAT --kms-key DOES NOT NAME", report.moved_away)
    lines += many("ReEncrypts by SOMEBODY ELSE than --principal", report.moved_by_others)
    lines += many("Decrypts with a context that is NOT THE VAULT'S", report.strange)
    lines += many("contexts whose organization has TWO NAMES", report.mixed_orgs)
    told_keys = [f"{count} with {key}" for key, count in sorted(report.unnamed_keys.items())]
    lines += many("Decrypts of the vault's with a KEY THAT --kms-key DOES NOT NAME", told_keys)
    lines.append("DIFFERENT" if report.differs(accept_retries) else "the two logs say the same")
    return lines


def many(what: str, found: list[Any]) -> list[str]:
    if not found:
        return []
    shown = [f"  {it}" for it in found[:SHOWN_MAX]]
    more = [f"  and {len(found) - SHOWN_MAX} more"] if len(found) > SHOWN_MAX else []
    return [f"{what}: {len(found)}", *shown, *more]


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Compares CloudTrail's KMS Decrypt and ReEncrypt events with the vault's audit log.",
        epilog="Give both logs with minutes around the span, and end it half an hour ago: CloudTrail delivers late.",
    )
    parser.add_argument(
        "--trail",
        nargs="+",
        type=Path,
        required=True,
        metavar="PATH",
        help="log files of CloudTrail, or directories of them; .json or .json.gz",
    )
    parser.add_argument(
        "--audit",
        nargs="+",
        type=Path,
        required=True,
        metavar="PATH",
        help="what `ibyok audit list -o json` printed, a file for each organization",
    )
    parser.add_argument(
        "--kms-key",
        nargs="+",
        required=True,
        metavar="ARN",
        help="the KMS keys of stored values: the module's output values_key_arn, and organizations' own",
    )
    parser.add_argument(
        "--principal",
        nargs="+",
        default=[],
        metavar="ARN",
        help="the roles that may use them: server_role_arn; all others are reported",
    )
    parser.add_argument("--since", required=True, metavar="TIME", help="beginning of the span, RFC 3339")
    parser.add_argument("--until", required=True, metavar="TIME", help="its end, itself not in it")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=30,
        metavar="SECONDS",
        help="how far the two clocks may be apart [default: 30]",
    )
    parser.add_argument(
        "--accept-retries",
        action="store_true",
        help="no difference: a further Decrypt within 3 s of one that has a record",
    )
    return parser.parse_args(words)


def run(words: list[str]) -> tuple[int, list[str]]:
    args = arguments(words)
    try:
        question = Question(
            keys=frozenset(args.kms_key),
            principals=frozenset(args.principal),
            since=moment(args.since, "--since"),
            until=moment(args.until, "--until"),
            tolerance=timedelta(seconds=args.tolerance),
        )
        if question.since >= question.until:
            raise BadInput("--since: not before --until")
        if not 0 < args.tolerance <= 900:
            raise BadInput("--tolerance: not between 0 and 900 seconds")
        records, unopened = read_audit(args.audit)
        events = read_trail(args.trail)
        report = compare(question, decrypts(events), records, unopened)
        judge_moves(question, re_encrypts(events), report)
    except BadInput as problem:
        return 2, [f"reconcile: {problem}"]
    return int(report.differs(args.accept_retries)), tell(report, question, args.accept_retries)


def main() -> int:
    code, lines = run(sys.argv[1:])
    print("\n".join(lines), file=sys.stderr if code == 2 else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())
