output "config_toml" {
  description = "What the server's configuration file needs of this module; listen and [tls] come beside it."
  value = join("\n", concat(
    [
      "[store]",
      "kind = \"dynamodb\"",
      "table = \"${aws_dynamodb_table.vault.name}\"",
      "region = \"${local.region}\"",
      "kms_key = \"${aws_kms_key.table.arn}\"",
      "",
      "[kms]",
      "kind = \"aws\"",
      "key_id = \"${aws_kms_key.values.arn}\"",
      "region = \"${local.region}\"",
    ],
    length(var.recovery_regions) == 0 ? [] : ["recovery_regions = ${jsonencode(var.recovery_regions)}"],
    var.endpoint_private_dns ? [] : ["endpoint = \"https://${aws_vpc_endpoint.interface["kms"].dns_entry[0].dns_name}\""],
    [""],
  ))
}

output "table_name" {
  description = "Name of the table."
  value       = aws_dynamodb_table.vault.name
}

output "table_arn" {
  description = "ARN of the table."
  value       = aws_dynamodb_table.vault.arn
}

output "values_key_arn" {
  description = "ARN of the KMS key of stored values; the server's setting kms.key_id."
  value       = aws_kms_key.values.arn
}

output "table_key_arn" {
  description = "ARN of the KMS key of the table; the server's setting store.kms_key."
  value       = aws_kms_key.table.arn
}

output "server_role_arn" {
  description = "ARN of the server's role; with IRSA the annotation eks.amazonaws.com/role-arn of its service account."
  value       = aws_iam_role.server.arn
}

output "rewrap_role_arn" {
  description = "ARN of the role of a server that moves data keys; null without rewrap_role."
  value       = one(aws_iam_role.rewrap[*].arn)
}

output "table_role_arn" {
  description = "ARN of the role for `ibyok-server table create|check`."
  value       = aws_iam_role.table.arn
}

output "vpc_id" {
  description = "The VPC of the server."
  value       = local.vpc_id
}

output "subnet_ids" {
  description = "The private subnets of the server."
  value       = local.subnet_ids
}

output "server_security_group_id" {
  description = "The security group of the server."
  value       = aws_security_group.server.id
}

output "trail_bucket" {
  description = "The bucket of the trail's files; null without trail."
  value       = one(aws_s3_bucket.trail[*].id)
}

output "alarm_topics" {
  description = "The SNS topics that alarms go to."
  value       = local.alarm_topics
}
