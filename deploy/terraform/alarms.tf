# What an operator must know before clients tell. The numbers that the server itself counts are apart
# from these: here is what AWS sees.

locals {
  alarm_topics = length(var.alarm_topics) > 0 ? var.alarm_topics : [aws_sns_topic.alarms[0].arn]

  # The server's calls, by DynamoDB's names of operations: a metric has one of them each.
  table_operations = ["BatchGetItem", "PutItem", "Query", "TransactWriteItems"]

  vault_keys = [aws_kms_key.values.arn, aws_kms_key.table.arn, aws_kms_key.logs.arn]

  by_vault_keys = join(" || ", [for arn in local.vault_keys : "($.resources[0].ARN = \"${arn}\")"])
  # An IAM user has no role, and is somebody else, too.
  role = "$.userIdentity.sessionContext.sessionIssuer.arn"
  by_others = format(
    "((%s) || (${local.role} NOT EXISTS))",
    join(" && ", [for arn in local.server_roles : "(${local.role} != \"${arn}\")"]),
  )
  # Of a call that was denied the key may stand in the message alone.
  of_values = format(
    "($.eventSource = \"kms.amazonaws.com\") && (($.resources[0].ARN = \"%s\") || ($.errorMessage = \"*%s*\"))",
    aws_kms_key.values.arn, aws_kms_key.values.arn,
  )

  # By alarm: one of these.
  one_of = {
    for alarm, events in {
      foreign-decrypt = ["Decrypt", "Encrypt", "GenerateDataKey*", "ReEncrypt"]
      key-changes     = ["CreateGrant", "DisableKey", "DisableKeyRotation", "PutKeyPolicy", "ScheduleKeyDeletion"]
      table-deletion  = ["DeleteTable", "UpdateContinuousBackups", "UpdateTable", "UpdateTimeToLive"]
      trail-changes   = ["DeleteTrail", "PutEventSelectors", "StopLogging", "UpdateTrail"]
    } :
    alarm => "(${join(" || ", [for event in events : "($.eventName = \"${event}\")"])})"
  }

  # A call that was refused may have no parameters: any refused one counts.
  of_table = "(($.requestParameters.tableName = \"*${var.table_name}\") || ($.errorCode = \"AccessDenied*\"))"

  # By name: what of the trail's events is counted, from how many a period the alarm rises, and what it means.
  event_alarms = {
    key-changes = {
      pattern   = "{ ($.eventSource = \"kms.amazonaws.com\") && (${local.by_vault_keys}) && ${local.one_of.key-changes} }"
      threshold = 1
      meaning   = "A KMS key of the vault was disabled, scheduled for deletion, or got another policy. Without the key of stored values nothing can be opened: cancel at once if nobody meant it."
    }
    kms-errors = {
      pattern   = "{ ${local.of_values} && ($.errorCode = \"*\") }"
      threshold = 5
      meaning   = "Calls with the key of stored values fail: wrong context, no right, disabled key, throttling. The events in ${local.events_name} say which."
    }
    foreign-decrypt = {
      pattern   = "{ ${local.of_values} && ${local.one_of.foreign-decrypt} && ${local.by_others} }"
      threshold = 1
      meaning   = "Somebody who is not the server used, or tried to use, the key of stored values."
    }
    table-deletion = {
      pattern   = "{ ($.eventSource = \"dynamodb.amazonaws.com\") && ${local.one_of.table-deletion} && ${local.of_table} }"
      threshold = 1
      meaning   = "Somebody tries to delete the table ${var.table_name}, or changes its protection, recovery or expiry."
    }
    trail-changes = {
      pattern   = "{ ($.eventSource = \"cloudtrail.amazonaws.com\") && ${local.one_of.trail-changes} }"
      threshold = 1
      meaning   = "A trail was stopped, deleted or changed: without it nothing can be reconciled with the audit log."
    }
  }
}

resource "aws_sns_topic" "alarms" {
  count = length(var.alarm_topics) > 0 ? 0 : 1

  name              = "${var.name}-alarms"
  kms_master_key_id = aws_kms_key.logs.arn
  tags              = local.tags
}

resource "aws_sns_topic_policy" "alarms" {
  count = length(var.alarm_topics) > 0 ? 0 : 1

  arn = aws_sns_topic.alarms[0].arn

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "Alarms"
      Effect    = "Allow"
      Principal = { Service = "cloudwatch.amazonaws.com" }
      Action    = ["sns:Publish"]
      Resource  = [aws_sns_topic.alarms[0].arn]
      Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
    }]
  })
}

resource "aws_sns_topic_subscription" "emails" {
  for_each = length(var.alarm_topics) > 0 ? toset([]) : toset(var.alarm_emails)

  topic_arn = aws_sns_topic.alarms[0].arn
  protocol  = "email"
  endpoint  = each.value
}

# Reads and writes that DynamoDB refused for want of capacity: a hot partition, or a limit of the table.
resource "aws_cloudwatch_metric_alarm" "throttles" {
  for_each = toset(["ReadThrottleEvents", "WriteThrottleEvents"])

  alarm_name          = "${var.name}-table-${lower(replace(each.value, "ThrottleEvents", "-throttles"))}"
  alarm_description   = "DynamoDB throttles the table ${var.table_name}: one key, token or organization is hotter than a partition, or the table is at its limit."
  namespace           = "AWS/DynamoDB"
  metric_name         = each.value
  dimensions          = { TableName = aws_dynamodb_table.vault.name }
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  threshold           = 10
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_topics
  ok_actions          = local.alarm_topics
  tags                = local.tags
}

resource "aws_cloudwatch_metric_alarm" "system_errors" {
  alarm_name          = "${var.name}-table-system-errors"
  alarm_description   = "DynamoDB answers with errors of its own for the table ${var.table_name}."
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  threshold           = 5
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_topics
  ok_actions          = local.alarm_topics
  tags                = local.tags

  metric_query {
    id          = "errors"
    label       = "SystemErrors"
    expression  = join("+", [for operation in local.table_operations : "FILL(${lower(operation)},0)"])
    return_data = true
  }

  dynamic "metric_query" {
    for_each = toset(local.table_operations)

    content {
      id = lower(metric_query.value)

      metric {
        namespace   = "AWS/DynamoDB"
        metric_name = "SystemErrors"
        period      = 60
        stat        = "Sum"
        dimensions  = { TableName = aws_dynamodb_table.vault.name, Operation = metric_query.value }
      }
    }
  }
}

# KMS counts all symmetric operations of the account in the region against one quota, other people's too.
resource "aws_cloudwatch_metric_alarm" "kms_quota" {
  alarm_name          = "${var.name}-kms-quota"
  alarm_description   = "The account's KMS requests are at ${var.kms_quota_percent} percent of their quota; at all of it retrievals are throttled. Ask AWS for more, or find who else calls KMS."
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  threshold           = var.kms_quota_percent
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_topics
  ok_actions          = local.alarm_topics
  tags                = local.tags

  metric_query {
    id          = "percent"
    label       = "Percent of the quota"
    expression  = "(calls/SERVICE_QUOTA(calls))*100"
    return_data = true
  }

  metric_query {
    id = "calls"

    metric {
      namespace   = "AWS/Usage"
      metric_name = "CallCount"
      period      = 60
      stat        = "Sum"
      dimensions = {
        Service  = "KMS"
        Type     = "API"
        Resource = "CryptographicOperationsSymmetric"
        Class    = "None"
      }
    }
  }
}

resource "aws_cloudwatch_log_metric_filter" "events" {
  for_each = var.trail ? local.event_alarms : {}

  name           = "${var.name}-${each.key}"
  log_group_name = aws_cloudwatch_log_group.events[0].name
  pattern        = each.value.pattern

  metric_transformation {
    name      = each.key
    namespace = "IBYOK/${var.name}"
    value     = "1"
  }
}

resource "aws_cloudwatch_metric_alarm" "events" {
  for_each = var.trail ? local.event_alarms : {}

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.meaning
  namespace           = "IBYOK/${var.name}"
  metric_name         = each.key
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  threshold           = each.value.threshold
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_topics
  tags                = local.tags
}
