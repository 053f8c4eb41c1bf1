# What a vault on AWS stands on: one table, its KMS keys, roles, network, trail and alarms. The server
# itself is deployed on it, from the configuration in the output `config_toml`.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  # Not `name`, which the sixth version of the provider deprecates.
  region = data.aws_region.current.id

  tags = merge({ Application = "ibyok" }, var.tags)

  # Of what the server sends with each call: SealContext in src/envelope/mod.rs.
  context_names    = ["format", "key", "org", "purpose", "version"]
  context_format   = "1"
  context_purposes = ["provider-key", "service"]

  # In an Allow: exactly these names, each with a value.
  context_conditions = {
    StringEquals = {
      "kms:EncryptionContext:format"  = local.context_format
      "kms:EncryptionContext:purpose" = local.context_purposes
    }
    StringLike = {
      for name in setsubtract(local.context_names, ["format", "purpose"]) : "kms:EncryptionContext:${name}" => "?*"
    }
    "ForAllValues:StringEquals" = {
      "kms:EncryptionContextKeys" = local.context_names
    }
  }
}
