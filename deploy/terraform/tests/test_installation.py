"""What the scenarios come to: the policies, by deciding requests with them; network, trail and alarms by
looking at what would be made. INSTALLATIONS is what `terraform test -json -verbose` printed."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import tomllib
import unittest
from functools import cache
from typing import Any

from policies import Request, decide, decide_key

ACCOUNT = "111122223333"
REGION = "eu-central-1"
ADMIN = f"arn:aws:iam::{ACCOUNT}:role/admin"
SERVER = f"arn:aws:iam::{ACCOUNT}:role/ibyok-server"
REWRAP = f"arn:aws:iam::{ACCOUNT}:role/ibyok-rewrap"
TABLE_ROLE = f"arn:aws:iam::{ACCOUNT}:role/ibyok-table"
STRANGER = f"arn:aws:iam::{ACCOUNT}:role/stranger"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
ORGANIZATIONS_KEY = "arn:aws:kms:eu-west-1:444455556666:key/1234abcd-12ab-34cd-56ef-1234567890ab"
ALL = {"irsa", "pod_identity", "instances_without_a_trail"}
CONTEXT = {"format": "1", "key": "k1", "org": "o1", "purpose": "provider-key", "version": "7"}
# An account that hands everything out: what holds in spite of it, the key's own policy holds.
EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


@cache
def installations() -> dict[str, dict[str, Any]]:
    """By scenario: resources by address, and `outputs`."""
    found = {}
    with open(os.environ["INSTALLATIONS"], encoding="utf-8") as file:
        for line in file:
            said = json.loads(line)
            if said["type"] == "test_state":
                state = said["test_state"]
                made = {it["address"]: it["values"] for it in state["root_module"]["resources"]}
                made["outputs"] = {name: it["value"] for name, it in state["outputs"].items()}
                found[said["@testrun"]] = made
    assert found.keys() == ALL, f"scenarios that were installed: {sorted(found)}"
    return found


def policy(scenario: str, address: str, attribute: str = "policy") -> dict[str, Any]:
    return json.loads(installations()[scenario][address][attribute])


def arn(scenario: str, address: str) -> str:
    return installations()[scenario][address]["arn"]


def with_context(context: dict[str, str], **more: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {f"kms:EncryptionContext:{name}": value for name, value in context.items()}
    if context:
        asked["kms:EncryptionContextKeys"] = sorted(context)
    return asked | more


class KeyOfValues(unittest.TestCase):
    scenario = "pod_identity"

    def decided(self, who: str, action: str, context: dict[str, Any], identity: dict[str, Any] | None = None) -> bool:
        key = arn(self.scenario, "aws_kms_key.values")
        request = Request(who, f"kms:{action}", key, {"kms:CallerAccount": ACCOUNT} | context)
        return decide_key(request, policy(self.scenario, "aws_kms_key.values"), identity)

    def test_the_server_seals_and_opens(self) -> None:
        for action in ("GenerateDataKey", "Decrypt"):
            for purpose in ("provider-key", "service"):
                self.assertTrue(self.decided(SERVER, action, with_context(CONTEXT | {"purpose": purpose})), action)
        self.assertTrue(self.decided(SERVER, "DescribeKey", {}))

    def test_not_with_any_other_context(self) -> None:
        others: list[dict[str, str]] = [
            {},
            CONTEXT | {"more": "1"},
            CONTEXT | {"purpose": "backup"},
            CONTEXT | {"format": "2"},
            CONTEXT | {"org": ""},
            *({name: CONTEXT[name] for name in CONTEXT if name != left} for left in CONTEXT),
        ]
        self.assertEqual(len(others), 10)
        for context in others:
            for action in ("GenerateDataKey", "Decrypt"):
                with self.subTest(action=action, context=context):
                    self.assertFalse(self.decided(SERVER, action, with_context(context)))

    def test_even_who_is_allowed_everything_needs_the_names_and_purposes(self) -> None:
        handed = policy(self.scenario, "aws_kms_key.values")
        handed["Statement"].append(
            {"Effect": "Allow", "Principal": {"AWS": STRANGER}, "Action": "kms:*", "Resource": "*"}
        )
        key = arn(self.scenario, "aws_kms_key.values")
        for action in (
            "Decrypt",
            "Encrypt",
            "GenerateDataKey",
            "GenerateDataKeyWithoutPlaintext",
            "GenerateDataKeyPair",
            "GenerateDataKeyPairWithoutPlaintext",
            "ReEncryptFrom",
            "ReEncryptTo",
        ):
            for context in (
                {},
                CONTEXT | {"more": "1"},
                CONTEXT | {"purpose": "backup"},
                *({name: CONTEXT[name] for name in CONTEXT if name != left} for left in CONTEXT),
            ):
                with self.subTest(action=action, context=context):
                    request = Request(STRANGER, f"kms:{action}", key, with_context(context))
                    self.assertFalse(decide_key(request, handed, EVERYTHING))
        self.assertFalse(decide_key(Request(STRANGER, "kms:CreateGrant", key), handed, EVERYTHING))
        self.assertTrue(decide_key(Request(STRANGER, "kms:Encrypt", key, with_context(CONTEXT)), handed, None))

    def test_the_accounts_iam_hands_nothing_out(self) -> None:
        for who in (STRANGER, ADMIN, TABLE_ROLE):
            for action in ("Decrypt", "Encrypt", "GenerateDataKey", "ReEncryptFrom", "ReEncryptTo", "CreateGrant"):
                with self.subTest(who=who, action=action):
                    self.assertFalse(self.decided(who, action, with_context(CONTEXT), EVERYTHING))
        self.assertFalse(self.decided(STRANGER, "PutKeyPolicy", {"aws:PrincipalType": "AssumedRole"}, EVERYTHING))

    def test_only_administrators_administer(self) -> None:
        for action in ("PutKeyPolicy", "ScheduleKeyDeletion", "DisableKey", "EnableKeyRotation", "UpdateAlias"):
            with self.subTest(action):
                self.assertTrue(self.decided(ADMIN, action, {}))
                self.assertFalse(self.decided(SERVER, action, {}, policy(self.scenario, "aws_iam_role_policy.server")))
                self.assertTrue(self.decided(ROOT, action, {"aws:PrincipalType": "Account"}))
                self.assertFalse(self.decided(ROOT, action, {"aws:PrincipalType": "AssumedRole"}))

    def test_only_the_rewrap_role_moves_data_keys(self) -> None:
        for action in ("ReEncryptFrom", "ReEncryptTo"):
            self.assertTrue(self.decided(REWRAP, action, with_context(CONTEXT)))
            self.assertFalse(self.decided(REWRAP, action, with_context({})))
            self.assertFalse(self.decided(SERVER, action, with_context(CONTEXT), EVERYTHING))

    def test_it_rotates_and_takes_long_to_delete(self) -> None:
        for scenario in ALL:
            for name in ("values", "table", "logs"):
                key = installations()[scenario][f"aws_kms_key.{name}"]
                self.assertTrue(key["enable_key_rotation"])
                self.assertEqual((key["deletion_window_in_days"], key["key_usage"]), (30, "ENCRYPT_DECRYPT"))
                self.assertEqual(key["customer_master_key_spec"], "SYMMETRIC_DEFAULT")
                self.assertFalse(key["bypass_policy_lockout_safety_check"])
        self.assertTrue(installations()["pod_identity"]["aws_kms_key.values"]["multi_region"])


class KeyOfTheTable(unittest.TestCase):
    def decided(self, who: str, action: str, **context: Any) -> bool:
        request = Request(who, f"kms:{action}", arn("irsa", "aws_kms_key.table"), context)
        return decide_key(request, policy("irsa", "aws_kms_key.table"), EVERYTHING)

    def test_only_through_dynamodb(self) -> None:
        via = {"kms:CallerAccount": ACCOUNT, "kms:ViaService": f"dynamodb.{REGION}.amazonaws.com"}
        of_table = via | {"kms:EncryptionContext:aws:dynamodb:tableName": "ibyok"}
        self.assertTrue(self.decided(SERVER, "Decrypt", **of_table))
        self.assertFalse(
            self.decided(SERVER, "Decrypt", **(of_table | {"kms:EncryptionContext:aws:dynamodb:tableName": "other"}))
        )
        self.assertFalse(self.decided(SERVER, "Decrypt", **{"kms:CallerAccount": ACCOUNT}))
        self.assertFalse(self.decided(SERVER, "CreateGrant", **via))
        for who in (ADMIN, TABLE_ROLE):
            self.assertTrue(self.decided(who, "CreateGrant", **via, **{"kms:GrantIsForAWSResource": "true"}))
            self.assertFalse(self.decided(who, "CreateGrant", **via, **{"kms:GrantIsForAWSResource": "false"}))
            self.assertFalse(self.decided(who, "Decrypt"))
        self.assertFalse(self.decided(STRANGER, "Decrypt", **of_table))


class Roles(unittest.TestCase):
    """The roles' own policies, without those of the keys."""

    def decided(self, scenario: str, role: str, action: str, resource: str, **context: Any) -> bool:
        request = Request(SERVER, action, resource, context)
        return decide(request, None, policy(scenario, f"aws_iam_role_policy.{role}"))

    def test_the_server_and_the_table(self) -> None:
        in_transaction = {"dynamodb:EnclosingOperation": "TransactWriteItems"}
        for scenario in ALL:
            table = arn(scenario, "aws_dynamodb_table.vault")
            for action in ("BatchGetItem", "PutItem", "Query", "DescribeTable", "DescribeTimeToLive"):
                self.assertTrue(self.decided(scenario, "server", f"dynamodb:{action}", table), action)
            for action in ("UpdateItem", "DeleteItem", "ConditionCheckItem"):
                self.assertTrue(self.decided(scenario, "server", f"dynamodb:{action}", table, **in_transaction), action)
                self.assertFalse(self.decided(scenario, "server", f"dynamodb:{action}", table), action)
            for action in (
                "Scan",
                "GetItem",
                "DeleteTable",
                "UpdateTable",
                "CreateTable",
                "BatchWriteItem",
                "ExportTableToPointInTime",
                "CreateBackup",
                "PartiQLSelect",
                "UpdateTimeToLive",
            ):
                self.assertFalse(self.decided(scenario, "server", f"dynamodb:{action}", table), action)
            self.assertFalse(self.decided(scenario, "server", "dynamodb:Query", table + "2"))

    def test_the_server_and_kms(self) -> None:
        for key in (arn("pod_identity", "aws_kms_key.values"), ORGANIZATIONS_KEY):
            for action in ("Decrypt", "GenerateDataKey"):
                self.assertTrue(self.decided("pod_identity", "server", f"kms:{action}", key, **with_context(CONTEXT)))
                self.assertFalse(self.decided("pod_identity", "server", f"kms:{action}", key))
            for action in (
                "Encrypt",
                "ReEncryptFrom",
                "ReEncryptTo",
                "PutKeyPolicy",
                "CreateGrant",
                "ScheduleKeyDeletion",
            ):
                self.assertFalse(self.decided("pod_identity", "server", f"kms:{action}", key, **with_context(CONTEXT)))
            for action in ("ReEncryptFrom", "ReEncryptTo"):
                self.assertTrue(
                    self.decided("pod_identity", "rewrap[0]", f"kms:{action}", key, **with_context(CONTEXT))
                )
        elsewhere = "arn:aws:kms:eu-central-1:111122223333:key/99999999-12ab-34cd-56ef-1234567890ab"
        self.assertFalse(self.decided("pod_identity", "server", "kms:Decrypt", elsewhere, **with_context(CONTEXT)))

    def test_the_table_role_reads_nothing(self) -> None:
        table = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/ibyok"
        for action in ("CreateTable", "DescribeTable", "UpdateTable", "UpdateTimeToLive", "UpdateContinuousBackups"):
            self.assertTrue(self.decided("irsa", "table", f"dynamodb:{action}", table), action)
        for action in ("DeleteTable", "Query", "BatchGetItem", "PutItem"):
            self.assertFalse(self.decided("irsa", "table", f"dynamodb:{action}", table), action)
        values = arn("irsa", "aws_kms_key.values")
        self.assertFalse(self.decided("irsa", "table", "kms:Decrypt", values, **with_context(CONTEXT)))

    def test_there_is_no_rewrap_role_unless_asked_for(self) -> None:
        self.assertFalse([it for it in installations()["irsa"] if ".rewrap" in it])
        self.assertIsNone(installations()["irsa"]["outputs"].get("rewrap_role_arn"))

    def test_who_becomes_the_server(self) -> None:
        [irsa] = policy("irsa", "aws_iam_role.server", "assume_role_policy")["Statement"]
        self.assertEqual(
            irsa["Condition"],
            {
                "StringEquals": {
                    "oidc.eks.eu-central-1.amazonaws.com/id/ABC:aud": "sts.amazonaws.com",
                    "oidc.eks.eu-central-1.amazonaws.com/id/ABC:sub": "system:serviceaccount:ibyok:ibyok",
                }
            },
        )
        [pods] = policy("pod_identity", "aws_iam_role.server", "assume_role_policy")["Statement"]
        self.assertEqual(pods["Principal"], {"Service": "pods.eks.amazonaws.com"})
        self.assertEqual(pods["Condition"]["StringEquals"]["aws:RequestTag/kubernetes-service-account"], "ibyok")
        services = policy("instances_without_a_trail", "aws_iam_role.server", "assume_role_policy")["Statement"]
        self.assertEqual(
            {it["Principal"]["Service"] for it in services}, {"ec2.amazonaws.com", "ecs-tasks.amazonaws.com"}
        )
        self.assertIn("aws_iam_instance_profile.server[0]", installations()["instances_without_a_trail"])

    def test_people_become_the_other_roles_and_never_the_server(self) -> None:
        for scenario, people in (("irsa", [ADMIN]), ("pod_identity", [f"arn:aws:iam::{ACCOUNT}:role/operator"])):
            trusted = policy(scenario, "aws_iam_role.table", "assume_role_policy")["Statement"]
            self.assertIn({"AWS": people}, [it["Principal"] for it in trusted])
            self.assertNotIn("AWS", json.dumps(policy(scenario, "aws_iam_role.server", "assume_role_policy")))

    def test_associations_name_each_roles_service_account(self) -> None:
        made = installations()["pod_identity"]
        found = {
            made[f"aws_eks_pod_identity_association.{it}[0]"]["service_account"] for it in ("server", "rewrap", "table")
        }
        self.assertEqual(found, {"ibyok", "ibyok-rewrap", "ibyok-table"})


class AllPolicies(unittest.TestCase):
    # What has one, and the characters that AWS takes there.
    LONGEST = {
        "aws_kms_key": 32_768,
        "aws_iam_role": 2_048,
        "aws_iam_role_policy": 10_240,
        "aws_s3_bucket_policy": 20_480,
        "aws_vpc_endpoint": 20_480,
        "aws_sns_topic_policy": 30_720,
    }

    def all(self) -> list[tuple[str, str, dict[str, Any]]]:
        found = []
        for scenario, made in installations().items():
            for address, values in made.items():
                kind = address.split(".")[0]
                text = values.get("assume_role_policy" if kind == "aws_iam_role" else "policy")
                if kind in self.LONGEST:
                    self.assertLessEqual(len(text), self.LONGEST[kind], f"{scenario} {address}")
                    found += [
                        (kind, f"{scenario} {address} {it.get('Sid')}", it) for it in json.loads(text)["Statement"]
                    ]
        return found

    def test_nothing_by_wildcard(self) -> None:
        looked_at = 0
        for kind, where, statement in self.all():
            looked_at += 1
            actions = statement["Action"]
            self.assertIsInstance(actions, list, where)
            self.assertRegex(statement["Sid"], "^[A-Za-z0-9]+$")
            if statement["Effect"] == "Deny":
                continue
            with self.subTest(where):
                self.assertFalse([it for it in actions if "*" in it])
                resources = statement.get("Resource", [])
                if kind == "aws_kms_key":
                    # In a key's policy: the key itself.
                    self.assertEqual(resources, "*")
                else:
                    # Files below a prefix, and the streams of one log group, have no names before they are there.
                    wide = [it for it in resources if "*" in it]
                    self.assertTrue(
                        all(re.fullmatch(r"arn:aws:(s3|logs):.*[/_](AWSLogs/\d+/|\w+-\w+-\d)\*", it) for it in wide),
                        wide,
                    )
                if statement.get("Principal") == "*":
                    self.assertTrue(kind == "aws_vpc_endpoint")
        self.assertGreater(looked_at, 80)


class Network(unittest.TestCase):
    def test_no_way_to_the_internet(self) -> None:
        for scenario, made in installations().items():
            kinds = {address.split(".")[0] for address in made}
            self.assertFalse(kinds & {"aws_internet_gateway", "aws_nat_gateway", "aws_route", "aws_eip"}, scenario)
            for address, values in made.items():
                if address.startswith("aws_subnet."):
                    self.assertFalse(values["map_public_ip_on_launch"])
                if "_rule." in address:
                    self.assertNotIn("0.0.0.0/0", json.dumps(values), address)
                    self.assertNotEqual(values["ip_protocol"], "-1")
                    self.assertEqual(values["from_port"], values["to_port"])

    def test_subnets_lie_in_the_vpc_apart(self) -> None:
        made = installations()["irsa"]
        vpc = ipaddress.ip_network(made["aws_vpc.vault[0]"]["cidr_block"])
        subnets = [ipaddress.ip_network(made[f"aws_subnet.private[{it}]"]["cidr_block"]) for it in (0, 1)]
        self.assertTrue(all(it.subnet_of(vpc) for it in subnets))
        self.assertFalse(subnets[0].overlaps(subnets[1]))

    def test_endpoints_let_through_what_the_roles_may(self) -> None:
        for scenario, made in installations().items():
            through = {
                "dynamodb": policy(scenario, "aws_vpc_endpoint.dynamodb"),
                "kms": policy(scenario, 'aws_vpc_endpoint.interface["kms"]'),
            }
            for role in ("server", "rewrap[0]", "table"):
                address = f"aws_iam_role_policy.{role}"
                for statement in policy(scenario, address)["Statement"] if address in made else []:
                    for action in statement["Action"]:
                        for resource in statement["Resource"]:
                            # The table's key is used by DynamoDB, which needs no endpoint of ours.
                            if action == "dynamodb:CreateTable" or resource == arn(scenario, "aws_kms_key.table"):
                                continue
                            with self.subTest(scenario=scenario, role=role, action=action):
                                request = Request(SERVER, action, resource, {"aws:PrincipalAccount": ACCOUNT})
                                self.assertTrue(decide(request, through[action.split(":")[0]], None))
                                abroad = Request(SERVER, action, resource, {"aws:PrincipalAccount": "999999999999"})
                                self.assertFalse(decide(abroad, through[action.split(":")[0]], None))

    def test_sts_only_where_irsa_needs_it(self) -> None:
        self.assertIn('aws_vpc_endpoint.interface["sts"]', installations()["irsa"])
        self.assertNotIn('aws_vpc_endpoint.interface["sts"]', installations()["pod_identity"])

    def test_a_given_network_is_taken(self) -> None:
        made = installations()["pod_identity"]
        self.assertFalse([it for it in made if it.startswith(("aws_vpc.", "aws_subnet.", "aws_route_table."))])
        self.assertEqual(made["aws_vpc_endpoint.dynamodb"]["route_table_ids"], ["rtb-0123456789abcdef0"])
        self.assertEqual(made["outputs"]["subnet_ids"], ["subnet-0123456789abcdef0"])


class TrailAndAlarms(unittest.TestCase):
    def test_the_trail_has_all_management_events_and_is_signed(self) -> None:
        trail = installations()["irsa"]["aws_cloudtrail.trail[0]"]
        self.assertTrue(
            trail["enable_log_file_validation"] and trail["enable_logging"] and trail["is_multi_region_trail"]
        )
        [selector] = trail["event_selector"]
        self.assertEqual((selector["read_write_type"], selector["include_management_events"]), ("All", True))
        self.assertFalse(selector.get("exclude_management_event_sources"))
        self.assertEqual(trail["kms_key_id"], arn("irsa", "aws_kms_key.logs"))

    def test_the_bucket_is_locked_down(self) -> None:
        made = installations()["pod_identity"]
        access = made["aws_s3_bucket_public_access_block.trail[0]"]
        self.assertTrue(
            all(
                access[it]
                for it in ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
            )
        )
        self.assertEqual(made["aws_s3_bucket_versioning.trail[0]"]["versioning_configuration"][0]["status"], "Enabled")
        [lock] = made["aws_s3_bucket_object_lock_configuration.trail[0]"]["rule"]
        self.assertEqual(
            (lock["default_retention"][0]["mode"], lock["default_retention"][0]["days"]), ("COMPLIANCE", 90)
        )
        self.assertNotIn("aws_s3_bucket_object_lock_configuration.trail[0]", installations()["irsa"])
        self.assertFalse(made["aws_s3_bucket.trail[0]"]["force_destroy"])
        clear = Request(
            ADMIN, "s3:GetObject", made["aws_s3_bucket.trail[0]"]["arn"] + "/a", {"aws:SecureTransport": "false"}
        )
        self.assertFalse(decide(clear, policy("pod_identity", "aws_s3_bucket_policy.trail[0]"), EVERYTHING))

    def test_the_trail_can_be_left_out(self) -> None:
        made = installations()["instances_without_a_trail"]
        self.assertFalse([it for it in made if it.startswith(("aws_cloudtrail.", "aws_s3_", "aws_cloudwatch_log_"))])
        self.assertIsNone(made["outputs"].get("trail_bucket"))

    def test_every_filter_has_its_alarm_and_fits(self) -> None:
        for scenario in ("irsa", "pod_identity"):
            made = installations()[scenario]
            filters = {
                it.split('"')[1]: values
                for it, values in made.items()
                if it.startswith("aws_cloudwatch_log_metric_filter.")
            }
            self.assertEqual(
                set(filters), {"key-changes", "kms-errors", "foreign-decrypt", "table-deletion", "trail-changes"}
            )
            for name, values in filters.items():
                alarm = made[f'aws_cloudwatch_metric_alarm.events["{name}"]']
                [counted] = values["metric_transformation"]
                self.assertEqual((alarm["namespace"], alarm["metric_name"]), (counted["namespace"], counted["name"]))
                # The longest pattern that CloudWatch Logs takes.
                self.assertLessEqual(len(values["pattern"]), 1_024, name)
                self.assertEqual(values["pattern"].count("("), values["pattern"].count(")"))
            self.assertIn("ScheduleKeyDeletion", filters["key-changes"]["pattern"])
            self.assertIn("DisableKey", filters["key-changes"]["pattern"])
            self.assertIn("DeleteTable", filters["table-deletion"]["pattern"])
            self.assertIn(SERVER, filters["foreign-decrypt"]["pattern"])
            self.assertIn("NOT EXISTS", filters["foreign-decrypt"]["pattern"])

    def test_every_alarm_goes_somewhere(self) -> None:
        for scenario, made in installations().items():
            topics = made["outputs"]["alarm_topics"]
            self.assertTrue(topics)
            alarms = [values for address, values in made.items() if address.startswith("aws_cloudwatch_metric_alarm.")]
            self.assertGreaterEqual(len(alarms), 4)
            for alarm in alarms:
                self.assertEqual(list(alarm["alarm_actions"]), topics, scenario)
                self.assertEqual(alarm["treat_missing_data"], "notBreaching")
                self.assertGreater(len(alarm["alarm_description"]), 40)

    def test_encrypted_alarms_can_be_sent(self) -> None:
        for action in ("kms:Decrypt", "kms:GenerateDataKey"):
            request = Request("cloudwatch.amazonaws.com:::::", action, "*", {"aws:SourceAccount": ACCOUNT})
            allowed = [it for it in policy("irsa", "aws_kms_key.logs")["Statement"] if it.get("Sid") == "Alarms"]
            self.assertIn(request.action, allowed[0]["Action"])


class Configuration(unittest.TestCase):
    def test_the_fragment_is_toml_with_the_right_values(self) -> None:
        for scenario in ALL:
            outputs = installations()[scenario]["outputs"]
            config = tomllib.loads(outputs["config_toml"])
            self.assertEqual(
                config["store"],
                {
                    "kind": "dynamodb",
                    "table": "ibyok",
                    "region": REGION,
                    "kms_key": arn(scenario, "aws_kms_key.table"),
                },
            )
            kms = config["kms"]
            self.assertEqual(
                (kms["kind"], kms["key_id"], kms["region"]), ("aws", arn(scenario, "aws_kms_key.values"), REGION)
            )
        kms = tomllib.loads(installations()["pod_identity"]["outputs"]["config_toml"])["kms"]
        self.assertEqual(kms["recovery_regions"], ["eu-west-1"])
        self.assertEqual(kms["endpoint"], "https://vpce-1.kms.eu-central-1.vpce.amazonaws.com")

    def test_the_table_is_protected(self) -> None:
        for scenario in ALL:
            table = installations()[scenario]["aws_dynamodb_table.vault"]
            self.assertTrue(table["deletion_protection_enabled"])
            self.assertTrue(table["point_in_time_recovery"][0]["enabled"])
            self.assertEqual(table["server_side_encryption"][0]["kms_key_arn"], arn(scenario, "aws_kms_key.table"))


if __name__ == "__main__":
    unittest.main()
