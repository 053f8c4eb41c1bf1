"""Tests of reconcile.py: `python3 -m unittest discover -s deploy/reconcile`."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import subprocess
import sys
import tempfile
import unittest
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import reconcile

KMS_KEY = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER_KMS_KEY = "arn:aws:kms:eu-central-1:111122223333:key/ffffffff-12ab-34cd-56ef-1234567890ab"
SERVER = "arn:aws:iam::111122223333:role/ibyok-server"
START = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def context(**changed: str) -> dict[str, str]:
    return {"format": "1", "key": "k1", "org": "o1", "purpose": "provider-key", "version": "1"} | changed


class Trail:
    """Events as CloudTrail writes them for KMS, of a role's session."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def kms(self, name: str, seconds: float, role: str = SERVER, **more: Any) -> dict[str, Any]:
        number = len(self.records) + 1
        account, role_name = role.split(":")[4], role.rsplit("/", 1)[1]
        event = {
            "eventVersion": "1.11",
            "userIdentity": {
                "type": "AssumedRole",
                "principalId": "AROAEXAMPLEEXAMPLE:session",
                "arn": f"arn:aws:sts::{account}:assumed-role/{role_name}/session-{number}",
                "accountId": account,
                "accessKeyId": "ASIAEXAMPLEEXAMPLE",
                "sessionContext": {
                    "sessionIssuer": {
                        "type": "Role",
                        "principalId": "AROAEXAMPLEEXAMPLE",
                        "arn": role,
                        "accountId": account,
                        "userName": role_name,
                    },
                    "attributes": {"creationDate": "2026-05-01T11:00:00Z", "mfaAuthenticated": "false"},
                },
            },
            # CloudTrail's times are whole seconds.
            "eventTime": at(seconds).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "eventSource": "kms.amazonaws.com",
            "eventName": name,
            "awsRegion": "eu-central-1",
            "sourceIPAddress": "10.64.0.17",
            "userAgent": "aws-sdk-rust/1.3",
            "requestParameters": None,
            "responseElements": None,
            "requestID": f"00000000-0000-4000-8000-{number:012d}",
            "eventID": f"11111111-0000-4000-8000-{number:012d}",
            "readOnly": True,
            "resources": [{"accountId": "111122223333", "type": "AWS::KMS::Key", "ARN": KMS_KEY}],
            "eventType": "AwsApiCall",
            "managementEvent": True,
            "recipientAccountId": "111122223333",
            "eventCategory": "Management",
            "tlsDetails": {"tlsVersion": "TLSv1.3", "clientProvidedHostHeader": "kms.eu-central-1.amazonaws.com"},
        } | more
        self.records.append(event)
        return event

    def decrypt(
        self, seconds: float, of: dict[str, str] | None = None, key: str = KMS_KEY, **more: Any
    ) -> dict[str, Any]:
        asked = {
            "encryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "encryptionContext": context() if of is None else of,
            "keyId": key,
        }
        resources = [{"accountId": "111122223333", "type": "AWS::KMS::Key", "ARN": key}]
        return self.kms("Decrypt", seconds, **({"requestParameters": asked, "resources": resources} | more))


    def re_encrypt(self, seconds: float, source: str, destination: str, **more: Any) -> dict[str, Any]:
        asked = {
            "sourceEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "sourceEncryptionContext": context(),
            "sourceKeyId": source,
            "destinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "destinationEncryptionContext": context(),
            "destinationKeyId": destination,
        }
        resources = [
            {"accountId": "111122223333", "type": "AWS::KMS::Key", "ARN": key} for key in (source, destination)
        ]
        return self.kms("ReEncrypt", seconds, **({"requestParameters": asked, "resources": resources} | more))


class Audit:
    """Events as `ibyok audit list -o json` prints them."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def add(self, action: str, seconds: float, outcome: str = "allowed", **more: Any) -> dict[str, Any]:
        number = len(self.events)
        event = {
            "action": action,
            "chain": "c1",
            "client_address": "10.64.0.9",
            "client_identity": "spiffe://t/app",
            "details": {"environment": "production", "provider": "openai", "uid": "k1", "version": "1"},
            "id": f"c1.{4096 + number}",
            "leaf_hash": "00",
            "outcome": outcome,
            "position": number,
            "purpose": "a purpose",
            "reason": "",
            "resource": "orgs/acme/keys/openai-prod",
            "sequence": 4096 + number,
            "signals": [],
            "subject": "app",
            "time": reconcile.stamp(at(seconds)),
            "token_id": "t1",
            "trace_id": "",
            "user_agent": "",
        } | more
        self.events.append(event)
        return event

    def retrieve(self, seconds: float, uid: str = "k1", version: str = "1", **more: Any) -> dict[str, Any]:
        return self.add("key.retrieve", seconds, details={"uid": uid, "version": version, "provider": "openai"}, **more)


class Comparison(unittest.TestCase):
    """A trail and an audit log, written to files and compared by the command."""

    def setUp(self) -> None:
        self.trail, self.audit = Trail(), Audit()
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.words: list[str] = []

    def compare(self, *words: str, since: float = 0, until: float = 3600) -> tuple[int, str]:
        logs = self.folder / "AWSLogs" / "111122223333" / "CloudTrail" / "eu-central-1" / "2026" / "05" / "01"
        logs.mkdir(parents=True, exist_ok=True)
        half = len(self.trail.records) // 2
        for name, part in (("a.json.gz", self.trail.records[:half]), ("b.json.gz", self.trail.records[half:])):
            (logs / name).write_bytes(gzip.compress(json.dumps({"Records": part}).encode()))
        audit = self.folder / "audit.json"
        audit.write_text(json.dumps({"events": list(reversed(self.audit.events))}))
        code, lines = reconcile.run(
            [
                "--trail",
                str(self.folder / "AWSLogs"),
                "--audit",
                str(audit),
                "--kms-key",
                KMS_KEY,
                "--principal",
                SERVER,
                "--since",
                reconcile.stamp(at(since)),
                "--until",
                reconcile.stamp(at(until)),
                *words,
            ]
        )
        return code, "\n".join(lines)

    def assert_same(self, *words: str, matched: int, **span: float) -> str:
        code, said = self.compare(*words, **span)
        self.assertEqual(code, 0, said)
        self.assertIn(f"matched: {matched} retrievals", said)
        self.assertTrue(said.endswith("the two logs say the same"))
        return said

    def assert_different(self, *texts: str, words: tuple[str, ...] = (), **span: float) -> str:
        code, said = self.compare(*words, **span)
        self.assertEqual(code, 1, said)
        for text in texts:
            self.assertIn(text, said)
        self.assertTrue(said.endswith("DIFFERENT"))
        return said


class Matching(Comparison):
    def test_each_retrieval_has_its_decrypt(self) -> None:
        for seconds in range(0, 300, 3):
            version = str(1 + seconds % 2)
            self.audit.retrieve(seconds + 0.25, version=version)
            self.trail.decrypt(seconds + 1, context(version=version))
        self.assert_same(matched=100)

    def test_two_empty_logs_are_the_same(self) -> None:
        self.assert_same(matched=0)

    def test_a_decrypt_without_a_record(self) -> None:
        self.audit.retrieve(10)
        self.trail.decrypt(10)
        hidden = self.trail.decrypt(100, context(key="k2", org="o2"))
        said = self.assert_different(
            "WITHOUT A RECORD: 1", hidden["eventID"], "key=k2", "org=o2: 1; was its audit log left out?"
        )
        self.assertIn("matched: 1 ", said)

    def test_a_record_without_a_decrypt(self) -> None:
        made_up = self.audit.retrieve(10)
        self.assert_different("records WITHOUT A DECRYPT: 1", made_up["id"], "orgs/acme/keys/openai-prod")

    def test_the_same_count_of_other_versions_is_no_match(self) -> None:
        self.audit.retrieve(10, version="1")
        self.trail.decrypt(10, context(version="2"))
        self.assert_different("WITHOUT A RECORD: 1", "WITHOUT A DECRYPT: 1", "matched: 0 ")

    def test_the_same_version_at_another_time_is_no_match(self) -> None:
        self.audit.retrieve(10)
        self.trail.decrypt(1000)
        self.assert_different("WITHOUT A RECORD: 1", "WITHOUT A DECRYPT: 1")

    def test_one_record_pays_for_one_decrypt(self) -> None:
        self.audit.retrieve(10)
        self.trail.decrypt(10)
        self.trail.decrypt(20)
        self.assert_different("WITHOUT A RECORD: 1", "matched: 1 ")

    def test_clocks_may_be_apart_by_the_tolerance(self) -> None:
        for seconds in range(0, 600, 7):
            self.audit.retrieve(seconds + 20)
            self.trail.decrypt(seconds)
        self.assert_different("WITHOUT A DECRYPT", words=("--tolerance", "5"))
        self.assert_same(matched=86)

    def test_what_did_not_open_has_a_record_that_says_so(self) -> None:
        allowed = self.audit.retrieve(10)
        self.audit.add(
            "key.retrieve.failed", 10, "failed", details={"uid": "k1", "version": "1", "event": allowed["id"]}
        )
        refused = self.trail.decrypt(10, errorCode="ThrottlingException", errorMessage="Rate exceeded")
        said = self.assert_same(matched=0)
        self.assertIn("not opened: 1 ", said)
        self.assertIn("refused by KMS: 1 ThrottlingException", said)
        self.assertNotIn(refused["eventID"], said)

    def test_a_failed_record_of_another_event_excuses_nothing(self) -> None:
        self.audit.retrieve(10)
        self.audit.add("key.retrieve.failed", 10, "failed", details={"event": "c1.9"})
        self.assert_different("WITHOUT A DECRYPT: 1")

    def test_only_retrievals_that_were_allowed_count(self) -> None:
        self.audit.retrieve(10, outcome="denied")
        for action in ("key.check", "key.retrieve.mock", "key.create", "key.retrieve.failed"):
            self.audit.add(action, 10)
        self.assert_same(matched=0)


class Retries(Comparison):
    def test_a_second_try_is_told_apart(self) -> None:
        self.audit.retrieve(10)
        self.trail.decrypt(10)
        self.trail.decrypt(11)
        said = self.assert_different("second tries of a Decrypt that has its record", "matched: 1 ")
        self.assertNotIn("WITHOUT A RECORD", said)
        self.assert_same("--accept-retries", matched=1)

    def test_it_does_not_take_the_record_of_the_next_retrieval(self) -> None:
        self.audit.retrieve(10)
        self.trail.decrypt(10)
        self.trail.decrypt(11)
        self.audit.retrieve(30)
        self.trail.decrypt(30)
        self.assert_same("--accept-retries", matched=2)

    def test_there_are_two_at_most(self) -> None:
        self.audit.retrieve(10)
        for _ in range(4):
            self.trail.decrypt(10)
        self.assert_different("WITHOUT A RECORD: 1", words=("--accept-retries",))

    def test_somebody_elses_is_none(self) -> None:
        self.audit.retrieve(10)
        self.trail.decrypt(10)
        self.trail.decrypt(11, role="arn:aws:iam::111122223333:role/other")
        self.assert_different("SOMEBODY ELSE", words=("--accept-retries",))


class WhoAndWhat(Comparison):
    def test_the_vaults_own_keys_are_apart(self) -> None:
        for number in range(4):
            self.trail.decrypt(5, context(purpose="service", org="system", key=f"kid{number}"))
        said = self.assert_same(matched=0)
        self.assertIn(f"service: 4 Decrypts of the vault's own keys, as at a start\n  4 by {SERVER}", said)

    def test_somebody_else_is_reported_even_when_refused(self) -> None:
        self.trail.decrypt(
            5, role="arn:aws:iam::111122223333:role/admin", errorCode="AccessDenied", requestParameters=None
        )
        self.assert_different("SOMEBODY ELSE than --principal: 1", "role/admin AccessDenied: no context")

    def test_a_user_without_a_session_is_somebody(self) -> None:
        self.trail.decrypt(5, userIdentity={"type": "IAMUser", "arn": "arn:aws:iam::111122223333:user/alice"})
        self.assert_different("user/alice")

    def test_a_context_that_is_not_the_vaults(self) -> None:
        for strange in ({}, context(extra="1"), context(purpose="backup")):
            with self.subTest(strange):
                self.trail.records.clear()
                self.trail.decrypt(5, strange)
                self.assert_different("NOT THE VAULT'S: 1")

    def test_other_keys_with_other_contexts_are_nobodys_business(self) -> None:
        self.trail.decrypt(5, {"aws:s3:arn": "arn:aws:s3:::bucket"}, key=OTHER_KMS_KEY)
        self.trail.kms("GenerateDataKey", 5)
        self.trail.records.append(self.trail.kms("Decrypt", 5) | {"eventSource": "other.amazonaws.com", "eventID": "x"})
        self.trail.records.pop(-2)
        self.assert_same(matched=0)

    def test_a_key_that_is_not_named_but_used_as_ours(self) -> None:
        self.audit.retrieve(5)
        self.trail.decrypt(5, key=OTHER_KMS_KEY)
        self.assert_different("DOES NOT NAME: 1", OTHER_KMS_KEY)
        code, said = self.compare("--kms-key", KMS_KEY, OTHER_KMS_KEY)
        self.assertEqual(code, 0, said)

    def test_one_organization_has_one_name(self) -> None:
        self.audit.retrieve(5, uid="k1", resource="orgs/acme/keys/a")
        self.audit.retrieve(5, uid="k2", resource="orgs/zeta/keys/b")
        self.trail.decrypt(5, context(key="k1"))
        self.trail.decrypt(5, context(key="k2"))
        self.assert_different("TWO NAMES: 1", "org=o1 is acme and zeta")


class Moves(Comparison):
    def test_a_data_key_that_goes_to_or_comes_from_a_key_that_is_not_named(self) -> None:
        for source, destination in ((KMS_KEY, OTHER_KMS_KEY), (OTHER_KMS_KEY, KMS_KEY), (OTHER_KMS_KEY, OTHER_KMS_KEY)):
            with self.subTest(source=source, destination=destination):
                self.trail.records.clear()
                moved = self.trail.re_encrypt(5, source, destination)
                self.assert_different(
                    "ReEncrypts from or to a KEY THAT --kms-key DOES NOT NAME: 1",
                    f"event {moved['eventID']} by {SERVER}: {source} to {destination}",
                )
                code, said = self.compare("--kms-key", KMS_KEY, OTHER_KMS_KEY)
                self.assertEqual(code, 0, said)
                self.assertIn(f"moved: data keys from one of these KMS keys to another: 1 by {SERVER}", said)

    def test_an_event_without_resources_is_judged_by_what_was_asked(self) -> None:
        self.trail.re_encrypt(5, KMS_KEY, OTHER_KMS_KEY, resources=None)
        self.assert_different(f"{KMS_KEY} to {OTHER_KMS_KEY}")

    def test_an_alias_in_what_was_asked_is_its_key_among_the_resources(self) -> None:
        event = self.trail.re_encrypt(5, KMS_KEY, KMS_KEY)
        event["requestParameters"]["destinationKeyId"] = "alias/vault"
        self.assert_same(matched=0)

    def test_somebody_else_is_reported_even_when_refused(self) -> None:
        admin = "arn:aws:iam::111122223333:role/admin"
        self.trail.re_encrypt(5, KMS_KEY, OTHER_KMS_KEY, role=admin, errorCode="AccessDenied")
        self.assert_different("ReEncrypts by SOMEBODY ELSE than --principal: 1", "role/admin AccessDenied")

    def test_what_kms_refused_the_server_moved_nothing(self) -> None:
        self.trail.re_encrypt(5, KMS_KEY, OTHER_KMS_KEY, errorCode="AccessDenied")
        self.assertIn("refused by KMS: 1 AccessDenied", self.assert_same(matched=0))

    def test_other_peoples_moves_and_other_spans_are_nobodys_business(self) -> None:
        asked = {"sourceEncryptionContext": {"a": "b"}, "destinationEncryptionContext": None}
        self.trail.re_encrypt(5, OTHER_KMS_KEY, OTHER_KMS_KEY, requestParameters=asked)
        self.trail.re_encrypt(5000, KMS_KEY, OTHER_KMS_KEY)
        self.assert_same(matched=0)


class Spans(Comparison):
    def test_what_lies_around_is_counterpart_only(self) -> None:
        # On either side of both edges, and far outside.
        for record, event in ((-0.5, 1), (3599, 3601), (5000, 9000)):
            self.audit.retrieve(record)
            self.trail.decrypt(event)
        self.assert_same(matched=1)

    def test_spans_side_by_side_count_all_once(self) -> None:
        for seconds in range(0, 120, 5):
            self.audit.retrieve(seconds + 0.9)
            self.trail.decrypt(seconds + 1)
        self.assert_same(matched=12, until=60)
        self.assert_same(matched=12, since=60)

    def test_what_is_delivered_twice_counts_once(self) -> None:
        self.audit.retrieve(5)
        self.audit.events.append(self.audit.events[0])
        self.trail.decrypt(5)
        self.trail.records.append(self.trail.records[0])
        self.assert_same(matched=1)

    def test_one_call_in_two_accounts_counts_once(self) -> None:
        self.audit.retrieve(5)
        mine = self.trail.decrypt(5, sharedEventID="shared-1")
        self.trail.records.append(mine | {"eventID": "another", "recipientAccountId": "444455556666"})
        self.assert_same(matched=1)


class Input(Comparison):
    def assert_refused(self, text: str, *words: str) -> None:
        code, said = self.compare(*words)
        self.assertEqual(code, 2, said)
        self.assertIn(text, said)
        self.assertEqual(said.count("\n"), 0)

    def write(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def test_digest_files_and_lines_of_tail(self) -> None:
        self.trail.decrypt(5)
        self.audit.retrieve(5)
        self.compare()
        self.write(
            "AWSLogs/digest.json.gz", gzip.compress(b'{"digestStartTime": "2026-05-01T12:00:00Z", "logFiles": []}')
        )
        tail = self.write("tail.jsonl", json.dumps(self.audit.events[0]) + "\n\n")
        code, said = self.compare("--audit", tail)
        self.assertEqual(code, 0, said)
        self.assertIn("matched: 1 ", said)

    def test_what_can_not_be_used(self) -> None:
        canary = "sk-" + "canary" * 4
        for text, option, content in (
            ("not JSON at line 2", "--trail", '{"Records":\n' + canary),
            ("not a text, or cut short", "--trail", gzip.compress(b"{}" * 99)[:-9]),
            ("not a text, or cut short", "--trail", b"\xff\xfe\x00"),
            ("no list `Records`", "--trail", '{"Events": []}'),
            ("an event without `eventID`", "--trail", '{"Records": [{"eventName": "Decrypt"}]}'),
            ("no log file was found", "--trail", '{"digestStartTime": "x"}'),
            (
                "a time that is not RFC 3339",
                "--trail",
                json.dumps({"Records": [Trail().decrypt(1) | {"eventTime": canary}]}),
            ),
            (
                "a time without a zone",
                "--trail",
                json.dumps({"Records": [Trail().decrypt(1) | {"eventTime": "2026-05-01T12:00:00"}]}),
            ),
            ("not what `ibyok audit list -o json` prints", "--audit", '{"keys": []}'),
            ("without id or details", "--audit", '{"events": [{"action": "key.retrieve"}]}'),
            (
                "no uid or no version",
                "--audit",
                json.dumps({"events": [Audit().retrieve(1) | {"details": {"uid": "a"}}]}),
            ),
        ):
            with self.subTest(text):
                path = self.write("bad", content)
                self.assert_refused(text, option, path)
                self.assertNotIn(canary, self.compare(option, path)[1])
        self.assert_refused("no such file", "--trail", str(self.folder / "none"))
        self.assert_refused("--since: not before --until", "--since", "2027-01-01T00:00:00Z")
        self.assert_refused("--until: a time without a zone", "--until", "2026-05-01")
        self.assert_refused("--tolerance", "--tolerance", "0")

    def test_words_that_are_missing_are_a_usage_error(self) -> None:
        with contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit) as ended:
            reconcile.run([])
        self.assertEqual(ended.exception.code, 2)

    def test_long_lists_are_cut(self) -> None:
        for seconds in range(50):
            self.trail.decrypt(seconds)
        said = self.assert_different("WITHOUT A RECORD: 50", "  and 30 more")
        self.assertEqual(said.count("  2026-"), reconcile.SHOWN_MAX)

    def test_the_command_ends_with_the_code(self) -> None:
        self.trail.decrypt(5)
        self.compare()
        command = [
            sys.executable,
            str(Path(reconcile.__file__)),
            "--trail",
            str(self.folder / "AWSLogs"),
            "--audit",
            str(self.folder / "audit.json"),
            "--kms-key",
            KMS_KEY,
            "--since",
            "2026-05-01T12:00:00Z",
            "--until",
            "2026-05-01T13:00:00Z",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (1, ""))
        self.assertIn("WITHOUT A RECORD: 1", done.stdout)


if __name__ == "__main__":
    unittest.main()
