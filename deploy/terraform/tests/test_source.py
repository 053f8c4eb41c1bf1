"""The module's source: complete in itself, one with the server's code, and in the words of the AWS
provider's sixth version. What the policies come to is looked at in test_installation.py."""

from __future__ import annotations

import ast
import os
import re
import unittest
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hcl2

MODULE = Path(__file__).resolve().parent.parent
ROOT = MODULE.parent.parent


def plain(value: Any) -> Any:
    """What python-hcl2 read, without its quotes and marks."""
    if isinstance(value, dict):
        return {plain(name): plain(inner) for name, inner in value.items() if not str(name).startswith("__")}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == '"':
        return value[1:-1]
    return value


@cache
def parsed(folder: Path) -> dict[str, list[Any]]:
    """All blocks of a folder's files, by their kind."""
    blocks: dict[str, list[Any]] = {}
    for path in sorted(folder.glob("*.tf")):
        with path.open() as file:
            for kind, found in plain(hcl2.load(file)).items():
                blocks.setdefault(kind, []).extend(found)
    return blocks


def named(kind: str, folder: Path = MODULE) -> dict[str, Any]:
    return {name: body for block in parsed(folder).get(kind, []) for name, body in block.items()}


def resources(folder: Path = MODULE) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for kind in ("resource", "data"):
        for block in parsed(folder).get(kind, []):
            for type_name, bodies in block.items():
                for name, body in bodies.items():
                    yield ("data_" if kind == "data" else "") + type_name, name, body


def resource(type_name: str, name: str) -> dict[str, Any]:
    return next(body for its_type, its_name, body in resources() if (its_type, its_name) == (type_name, name))


def local(name: str) -> Any:
    return next(block[name] for block in parsed(MODULE)["locals"] if name in block)


def text_of(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("*.tf")))


def rust(path: str) -> str:
    """A file of the server, or all files of a folder, without their tests."""
    found = ROOT / path
    files = sorted(found.rglob("*.rs")) if found.is_dir() else [found]
    files = [file for file in files if "tests" not in file.parts and file.name != "tests.rs"]
    if not files:
        raise AssertionError(f"{path} is not there, and this module is for it")
    return "\n".join(file.read_text().split("#[cfg(test)]\nmod tests {")[0] for file in files)


def constant(source: str, name: str) -> str:
    found = re.search(rf'const {name}: &str = "([^"]*)"', source)
    if not found:
        raise AssertionError(f"no constant {name}")
    return found[1]


class Complete(unittest.TestCase):
    def test_every_variable_is_typed_and_described_and_used(self) -> None:
        for folder in (MODULE, MODULE / "examples" / "complete"):
            text = text_of(folder)
            for name, body in named("variable", folder).items():
                with self.subTest(folder=folder.name, variable=name):
                    self.assertTrue(str(body.get("description", "")).endswith("."), "no description")
                    self.assertIn("type", body)
                    self.assertTrue(re.search(rf"\bvar\.{name}\b", text), "not used")

    def test_every_output_is_described(self) -> None:
        for folder in (MODULE, MODULE / "examples" / "complete"):
            for name, body in named("output", folder).items():
                with self.subTest(output=name):
                    self.assertTrue(str(body.get("description", "")).endswith("."))

    def test_every_local_is_used(self) -> None:
        text = text_of(MODULE)
        for block in parsed(MODULE)["locals"]:
            for name in block:
                with self.subTest(local=name):
                    self.assertTrue(re.search(rf"\blocal\.{name}\b", text), "not used")

    def test_everything_that_takes_tags_has_them(self) -> None:
        for type_name, name, body in resources():
            arguments = provider_arguments(type_name)
            if "tags" in arguments.get("Config", {}) and not type_name.startswith("data_"):
                with self.subTest(resource=f"{type_name}.{name}"):
                    self.assertIn("local.tags", str(body.get("tags")))

    def test_the_page_has_every_alarm(self) -> None:
        page = (ROOT / "docs/AWS.md").read_text().split("## Alarms")[1].split("\n## ")[0]
        told = {name for row in re.findall(r"^\| (`.*?) \|", page, re.M) for name in re.findall(r"`([a-z-]+)`", row)}
        made = set(re.findall(r'alarm_name += "\$\{var\.name}-([a-z-]+)"', text_of(MODULE)))
        throttles = {"table-read-throttles", "table-write-throttles"}
        self.assertEqual(told, set(local("event_alarms")) | made | throttles)

    def test_the_scenarios_refuse_by_every_validation(self) -> None:
        refused = (MODULE / "tests" / "scenarios.tftest.hcl").read_text()
        for name, body in named("variable").items():
            if "validation" in body:
                with self.subTest(variable=name):
                    self.assertTrue(re.search(rf"expect_failures = [^]]*\bvar\.{name}\b", refused), "never refused")


class AsTheServer(unittest.TestCase):
    """What the server's code says, and this module repeats."""

    def test_the_encryption_context(self) -> None:
        envelope = rust("src/envelope/mod.rs")
        entries = re.search(r"fn entries.*?\[\s*(\(.*?\)),?\s*\]\s*\n\s*}", envelope, re.DOTALL)
        self.assertIsNotNone(entries)
        self.assertEqual(sorted(re.findall(r'\(\s*"(\w+)"', entries[1])), local("context_names"))
        purposes = re.findall(r'Self::\w+ => "([^"]+)"', envelope.split("impl Purpose")[1].split("\n}")[0])
        self.assertEqual(sorted(purposes), local("context_purposes"))
        self.assertEqual(constant(envelope, "FORMAT_TEXT"), local("context_format"))

    def test_the_tables_key_and_expiry(self) -> None:
        item, table = rust("src/store/dynamodb/item.rs"), resource("aws_dynamodb_table", "vault")
        partition, sort, expires = (constant(item, name) for name in ("PARTITION", "SORT", "EXPIRES"))
        self.assertEqual((table["hash_key"], table["range_key"]), (partition, sort))
        self.assertEqual(table["attribute"], [{"name": partition, "type": "S"}, {"name": sort, "type": "S"}])
        self.assertEqual(table["ttl"], [{"enabled": True, "attribute_name": expires}])

    def test_the_table_is_as_table_check_wants_it(self) -> None:
        table = resource("aws_dynamodb_table", "vault")
        self.assertEqual(table["billing_mode"], "PAY_PER_REQUEST")
        self.assertEqual(table["point_in_time_recovery"], [{"enabled": True}])
        self.assertEqual(
            table["server_side_encryption"], [{"enabled": True, "kms_key_arn": "${aws_kms_key.table.arn}"}]
        )
        self.assertEqual(
            (table["stream_enabled"], table["deletion_protection_enabled"]), (False, "${var.deletion_protection}")
        )
        self.assertIs(named("variable")["deletion_protection"]["default"], True)

    def test_the_calls_of_dynamodb_are_the_actions(self) -> None:
        store = rust("src/store/dynamodb")
        # What a client is set to is no call.
        calls = set(re.findall(r"\bclient\s*\.(\w+)\(\)", store)) - {"config"}
        made = rust("src/store/dynamodb/table.rs")
        of_table = set(re.findall(r"\bclient\s*\.(\w+)\(\)", made)) - {"config"}
        of_items = {"dynamodb:" + camel(call) for call in calls - of_table}
        # A transaction is authorized by its parts.
        self.assertIn("dynamodb:TransactWriteItems", of_items)
        of_items.remove("dynamodb:TransactWriteItems")
        parts = {
            "Put": "PutItem",
            "Delete": "DeleteItem",
            "Update": "UpdateItem",
            "ConditionCheck": "ConditionCheckItem",
        }
        in_transactions = {
            f"dynamodb:{action}" for part, action in parts.items() if re.search(rf"\b{part}::builder\(\)", store)
        }
        granted = {statement["Sid"]: set(statement["Action"]) for statement in local("items_statements")}
        self.assertEqual(granted["Items"] | granted["Transactions"], of_items | in_transactions)
        # What is allowed in transactions alone is never called otherwise.
        self.assertTrue(granted["Transactions"].isdisjoint(of_items))
        self.assertEqual(granted["Items"], of_items)
        looks = {"dynamodb:" + camel(call) for call in of_table}
        self.assertLessEqual(granted["LookAtTheTable"], looks)
        making = {statement["Sid"]: set(statement["Action"]) for statement in local("table_statements")}
        self.assertEqual(making["MakeAndLook"], looks)
        operations = {camel(call) for call in calls - of_table}
        self.assertEqual(set(local("table_operations")), operations)

    def test_the_calls_of_kms_are_the_actions(self) -> None:
        calls = set(re.findall(r"\bclient\s*\.(\w+)\(\)", rust("src/kms/aws")))
        granted = {
            action
            for name in ("values_statements", "rewrap_statements")
            for statement in local(name)
            for action in statement["Action"]
        }
        expected = {"kms:" + camel(call) for call in calls - {"re_encrypt"}}
        if "re_encrypt" in calls:
            expected |= {"kms:ReEncryptFrom", "kms:ReEncryptTo"}
        self.assertEqual(granted, expected)

    def test_the_settings_exist(self) -> None:
        known = set(re.findall(r'"((?:store|kms)\.\w+)"', rust("src/config")))
        documented = set(
            re.findall(r"^\| `((?:store|kms)\.\w+)` \|", (ROOT / "docs/CONFIGURATION.md").read_text(), re.M)
        )
        for setting in configured(str(named("output")["config_toml"]["value"])):
            with self.subTest(setting):
                self.assertIn(setting, known)
                self.assertIn(setting, documented)


def camel(call: str) -> str:
    return "".join(part.capitalize() for part in call.split("_"))


def configured(template: str) -> list[str]:
    """The settings in the lines of the output, each with its section."""
    section, found = "", []
    for line in re.findall(r'"(\[\w+\]|\w+ = )', template):
        if line.startswith("["):
            section = line.strip("[]")
        else:
            found.append(f"{section}.{line.removesuffix(' = ')}")
    assert found, "the output names no setting"
    return found


@cache
def provider_arguments(type_name: str) -> dict[str, dict[str, bool]]:
    """Of a resource of the provider's sixth version: by class of the generated code its arguments, and
    whether they are needed. The code is read, not run."""
    archive = next(Path(os.environ["PROVIDER_SCHEMA"]).glob("*.whl"))
    module = type_name.removeprefix("aws_")
    with zipfile.ZipFile(archive) as package:
        code = package.read(f"cdktf_cdktf_provider_aws/{module}/__init__.py")
    found: dict[str, dict[str, bool]] = {}
    prefix = "".join(part.capitalize() for part in module.split("_"))
    for node in ast.parse(code).body:
        if (
            not isinstance(node, ast.ClassDef)
            or not node.decorator_list
            or "data_type" not in ast.unparse(node.decorator_list[0])
        ):
            continue
        init = next((it for it in node.body if isinstance(it, ast.FunctionDef) and it.name == "__init__"), None)
        if init:
            arguments = zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
            # Where a block's class would have the resource's name, the resource's has an A behind it.
            found[node.name.removeprefix(prefix).replace("AConfig", "Config", 1)] = {
                argument.arg: default is None for argument, default in arguments
            }
    return found


class AsTheProvider(unittest.TestCase):
    """Every argument exists and every needed one is there, in the provider's sixth version."""

    # What Terraform itself takes.
    META = {"count", "for_each", "depends_on", "lifecycle", "provider"}

    def check(self, classes: dict[str, Any], of: str, body: dict[str, Any], where: str) -> None:
        known = classes[of]
        given = dict(body)
        for dynamic in given.pop("dynamic", []):
            for name, inner in dynamic.items():
                given.setdefault(name, []).extend(inner["content"])
        for name in given.keys() - (self.META if of == "Config" else set()):
            self.assertIn(name, known, f"{where} has no argument {name}")
            nested = ("" if of == "Config" else of) + camel(name)
            if isinstance(given[name], list) and given[name] and isinstance(given[name][0], dict) and nested in classes:
                for inner in given[name]:
                    self.check(classes, nested, inner, f"{where}.{name}")
        for name, is_needed in known.items():
            if is_needed:
                self.assertIn(name, given, f"{where} needs {name}")

    def test_every_argument_is_the_providers(self) -> None:
        seen = 0
        for type_name, name, body in resources():
            with self.subTest(f"{type_name}.{name}"):
                self.check(provider_arguments(type_name), "Config", body, f"{type_name}.{name}")
                seen += 1
        self.assertGreater(seen, 50)


if __name__ == "__main__":
    unittest.main()
